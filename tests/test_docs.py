"""The documentation speaks of what there is, and its examples run."""

import re
from pathlib import Path

import pytest

from neuralcollapse.frames import FRAMES
from neuralcollapse.heads import HEADS
from neuralcollapse.losses import LOSSES
from neuralcollapse.metrics import METRICS, MISTAKE_METRICS
from neuralcollapse.train.choices import FRAME_NAMES, HEAD_NAMES, LOSS_NAMES

ROOT = Path(__file__).parents[1]
# Losses that `train` does not offer: their classifier has other rows than one per class.
FROM_PYTHON_ONLY = {"conditional-softmax", "multi-granularity", "hierarchy-aware-features"}
NAMES = {
    "which-metric.md": [metric.key for metric in (*METRICS, *MISTAKE_METRICS)],
    "which-loss.md": [loss.__name__ for loss in LOSSES]
    + [loss.name for loss in LOSSES]
    + [head.__name__ for head in HEADS]
    + [name for name, _ in FRAMES],
}


@pytest.mark.parametrize("page", NAMES)
def test_every_row_is_told(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert [name for name in NAMES[page] if f"`{name}" not in text] == []


def test_the_options_name_what_the_lists_hold() -> None:
    # The options are read without torch, so their names stand a second time.
    from_the_command_line = [loss.name for loss in LOSSES if loss.name not in FROM_PYTHON_ONLY]
    assert sorted(from_the_command_line) == sorted(LOSS_NAMES)
    # The frame of a hierarchy takes one instead of K and d.
    assert (*(name for name, _ in FRAMES), "hierarchy") == FRAME_NAMES
    titles = ["".join(part.capitalize() for part in name.split("-")) for name in HEAD_NAMES]
    assert [f"{title}Head" for title in titles] == [head.__name__ for head in HEADS]


def test_readme_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "measurement.json").is_file()
    assert (tmp_path / "statistics.safetensors").is_file()


def test_nothing_here_names_a_machine() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        assert not re.search(r"/(work|home|root|tmp)/", page.read_text(encoding="utf-8")), page
