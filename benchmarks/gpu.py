"""What updating statistics costs beside the forward pass of a ResNet-50, on a GPU.

    python benchmarks/gpu.py [--batch 256] [--classes 1000]
    python benchmarks/gpu.py --device cpu --batch 2 --size 32 --classes 10 --repetitions 1

Features of the last layer (2048 wide) in bfloat16, pictures of 224 x 224, evaluation mode. The
network is torchvision's where it can be imported, else one of the same shape made here, with random
weights: the time does not depend on them. Printed are milliseconds of the forward pass, of an
update with and without scatter, their share of the forward pass, and whether an update waits for
the device. Times are those of CUDA events, the median of the repetitions.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuralcollapse import StatisticsAccumulator


class Bottleneck(nn.Module):
    """The block of ResNet-50: 1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut."""

    def __init__(self, inside: int, width: int, stride: int):
        super().__init__()
        outside = 4 * width

        def layer(before: int, after: int, size: int, step: int = 1) -> list[nn.Module]:
            convolution = nn.Conv2d(before, after, size, step, size // 2, bias=False)
            return [convolution, nn.BatchNorm2d(after)]

        self.path = nn.Sequential(
            *layer(inside, width, 1),
            nn.ReLU(),
            *layer(width, width, 3, stride),
            nn.ReLU(),
            *layer(width, outside, 1),
        )
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else nn.Sequential(*layer(inside, outside, 1, stride))

    def forward(self, inputs: Tensor) -> Tensor:
        """Both ways, added."""
        return torch.relu(self.path(inputs) + self.shortcut(inputs))


def resnet50() -> tuple[nn.Module, str]:
    """(the network without its classifier, where it comes from)."""
    try:
        from torchvision.models import resnet50 as published  # pyright: ignore

        network = published()
        network.fc = nn.Identity()
        return network, "torchvision"
    except (ImportError, RuntimeError):
        pass
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    inside = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(blocks):
            layers.append(Bottleneck(inside, width, stride if number == 0 else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), "made here"


def milliseconds(task: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """The median, after one run that is not counted."""
    task()
    taken = []
    for _ in range(repetitions):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            task()
            end.record()
            torch.cuda.synchronize(device)
            taken.append(begin.elapsed_time(end))
        else:
            began = time.perf_counter()
            task()
            taken.append(1e3 * (time.perf_counter() - began))
    return sorted(taken)[len(taken) // 2]


def waits(task: Callable[[], object]) -> bool:
    """Whether a task on a GPU makes the processor wait for it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


@torch.no_grad()
def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here: torch.cuda.is_available() is False; --device cpu runs it anyway")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    network, origin = resnet50()
    network = network.to(device, memory_format=torch.channels_last).eval()  # pyright: ignore
    pictures = torch.randn(options.batch, 3, options.size, options.size, device=device)
    pictures = pictures.to(memory_format=torch.channels_last)
    labels = torch.randint(options.classes, (options.batch,), device=device)

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return network(pictures)

    features = forward()
    print(f"torch {torch.__version__}, {name}; ResNet-50 {origin}, batch {options.batch}")
    whole = milliseconds(forward, device, options.repetitions)
    print(f"forward pass in bfloat16: {whole:.3f} ms; features {tuple(features.shape)}")
    for scatter in (True, False):
        accumulator = StatisticsAccumulator(
            options.classes, features.shape[1], scatter=scatter, device=device
        )

        def update(accumulator: StatisticsAccumulator = accumulator) -> None:
            accumulator.update(features, labels)

        taken = milliseconds(update, device, options.repetitions)
        line = f"update {'with' if scatter else 'without'} scatter: {taken:.3f} ms"
        line += f", {taken / whole:.1%} of the forward pass"
        if device.type == "cuda":
            line += ", waits for the device" if waits(update) else ", does not wait for the device"
        print(line)


if __name__ == "__main__":
    main()
