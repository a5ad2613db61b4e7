"""Arithmetic as precise as its operands, whatever the caller has switched on."""

import torch


class FullPrecision:
    """Products in the precision of their operands: no autocast, no TensorFloat-32."""

    def __init__(self, device_type: str):
        self._cuda = device_type == "cuda"
        self._autocast = torch.autocast(device_type, enabled=False)

    def __enter__(self) -> None:
        self._autocast.__enter__()
        if self._cuda:
            self._allowed = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        if self._cuda:
            torch.backends.cuda.matmul.allow_tf32 = self._allowed
        self._autocast.__exit__(*error)
