"""Imports run downhill and in no circle: the house is read from the source, module by module.

A module imports from lower floors only. Inside a folder it imports from the folder's base file
only; the gatherers `__init__`, `table` and `evaluation` may name their siblings. The siblings of an
open folder may import each other, as long as no circle arises. The face of the package gathers
everything and is exempt; nobody imports from it but the version.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "neuralcollapse"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

# The floor of each file and folder right under the package.
FLOORS = {
    "checks": 1,
    "draws": 1,
    "files": 1,
    "gram": 1,
    "precision": 1,
    "processes": 1,
    "scalars": 1,
    "specs": 1,
    "spectrum": 1,
    "sphere": 1,
    "row_products": 2,
    "running_sums": 2,
    "batches": 3,
    "blocks": 3,
    "depth": 3,
    "energy": 3,
    "feature_files": 3,
    "hierarchy": 3,
    "positions": 3,
    "statistics": 3,
    "dealing": 4,
    "decisions": 4,
    "frames": 4,
    "geometry": 4,
    "losses": 4,
    "rests": 4,
    "splits": 4,
    "heads": 5,
    "metrics": 5,
    "theory": 5,
    "frame_classifier": 6,
    "jackknife": 6,
    "layers": 6,
    "mistakes": 6,
    "second_look": 6,
    "tap": 6,
    "transfer": 6,
    "classifier": 7,
    "measurement": 7,
    "mistake_accumulator": 7,
    "forecast": 8,
    "measuring": 8,
    "measuring_features": 8,
    "ood": 8,
    "record": 8,
    "integrations": 9,
    "shards": 9,
    "train": 9,
    "cluster": 10,
    "report": 10,
    "cli": 11,
    "__main__": 12,
}
BASES = {"heads": "head", "integrations": "adapter", "losses": "loss", "metrics": "pairs"}
GATHERERS = {"__init__", "table", "evaluation"}
OPEN_FOLDERS = {"frames", "hierarchy", "theory", "ood", "train", "report", "cli"}

FACE = "__init__"
FACE_NAMES = {"__version__"}


@dataclass(frozen=True)
class Module:
    """A source file; `name` is its path under the package, "losses.hug" or "losses.__init__"."""

    name: str
    path: Path

    @property
    def house(self) -> str:
        """The file or folder right under the package that the module belongs to."""
        return self.name.partition(".")[0]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Arrow:
    """One import: `line` of `source` names `target`."""

    source: Module
    target: Module
    line: int

    def __str__(self) -> str:
        return (
            f"{self.source.path}:{self.line}: {described(self.source)} -> {described(self.target)}"
        )


def described(module: Module) -> str:
    if module.name == FACE:
        return f"{PACKAGE} (the face)"
    return f"{module.name.removesuffix('.__init__')} (floor {FLOORS.get(module.house, '?')})"


def modules_under(root: Path) -> dict[str, Module]:
    """The modules of the package at `root` by name, in the order of their names."""
    names = {
        ".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")
    }
    return {name: Module(name, names[name]) for name in sorted(names)}


def arrows_of(module: Module, modules: dict[str, Module]) -> Iterator[Arrow]:
    """The imports of one module from its own package, wherever in the file they stand.

    Raises:
        LookupError: the file imports from a module of the package that does not exist.
    """
    for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for dotted, name in imported_by(node, module):
            target = found(f"{dotted}.{name}", modules) or found(dotted, modules)
            if target is None:
                raise LookupError(f"{module.path}:{node.lineno}: there is no module {dotted}")
            if not (target.name == FACE and name in FACE_NAMES):
                yield Arrow(module, target, node.lineno)


def imported_by(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[tuple[str, str]]:
    """Pairs (module, name) that a statement imports from the package, relative imports resolved."""
    if isinstance(node, ast.Import):
        pairs = [(alias.name, "") for alias in node.names]
    else:
        above = [PACKAGE, *module.name.split(".")][: -node.level] if node.level else []
        dotted = ".".join([*above, *([node.module] if node.module else [])])
        pairs = [(dotted, alias.name) for alias in node.names]
    yield from (pair for pair in pairs if pair[0].partition(".")[0] == PACKAGE)


def found(dotted: str, modules: dict[str, Module]) -> Module | None:
    """The module that `neuralcollapse.losses` or `neuralcollapse.losses.hug` stands for."""
    name = dotted.removeprefix(PACKAGE).strip(".")
    return modules.get(name) or modules.get(f"{name}.__init__".strip("."))


def runs_downhill(arrow: Arrow) -> bool:
    source, target = arrow.source, arrow.target
    if source.name == FACE:
        return True
    if target.name == FACE:
        return False
    if source.house != target.house:
        return FLOORS[target.house] < FLOORS[source.house]
    return (
        source.house in OPEN_FOLDERS
        or source.stem in GATHERERS
        or target.stem == BASES.get(source.house)
    )


def circle_in(arrows: list[Arrow]) -> list[Arrow]:
    """The arrows of one circle, or nothing where there is none."""
    leaving: dict[Module, list[Arrow]] = {}
    for arrow in arrows:
        leaving.setdefault(arrow.source, []).append(arrow)
    finished: set[Module] = set()

    def walk(module: Module, path: list[Arrow]) -> list[Arrow]:
        sources = [arrow.source for arrow in path]
        if module in sources:
            return path[sources.index(module) :]
        if module not in finished:
            for arrow in leaving.get(module, []):
                if circle := walk(arrow.target, [*path, arrow]):
                    return circle
            finished.add(module)
        return []

    for module in list(leaving):
        if circle := walk(module, []):
            return circle
    return []


def complaints(root: Path) -> list[str]:
    """Everything that is wrong with the imports of the package at `root`, one sentence each."""
    modules = modules_under(root)
    homeless = [
        f"{module.path}: {module.house!r} has no floor; give it a row in FLOORS ({__file__})"
        for module in modules.values()
        if module.name != FACE and module.house not in FLOORS
    ]
    if homeless:
        return homeless
    arrows: list[Arrow] = []
    missing: list[str] = []
    for module in modules.values():
        try:
            arrows += arrows_of(module, modules)
        except LookupError as error:
            missing.append(str(error.args[0]))
    upward = [f"{arrow}: not downhill" for arrow in arrows if not runs_downhill(arrow)]
    circle = circle_in([arrow for arrow in arrows if arrow.source.name != FACE])
    around = ["a circle:\n  " + "\n  ".join(map(str, circle))] if circle else []
    return missing + upward + around


def test_imports_run_downhill_and_in_no_circle():
    found_wrong = complaints(SOURCE)
    assert not found_wrong, "\n" + "\n".join(found_wrong)


def test_the_source_was_read():
    assert FACE in modules_under(SOURCE)


@pytest.fixture
def house(tmp_path: Path):
    """A small package that keeps every rule, and a way to change one of its files."""

    def build(**changed: str) -> Path:
        files = {
            "__init__": "from neuralcollapse.heads import LinearHead\n__version__ = '1'",
            "checks": "import torch",
            "frames.__init__": "from neuralcollapse.frames.simplex import simplex_etf",
            "frames.frame": "from neuralcollapse import __version__, checks",
            "frames.simplex": "from .frame import Frame\nfrom ..checks import positive",
            "heads": "import neuralcollapse.frames",
            "metrics.angles": "from neuralcollapse.checks import positive",
            "metrics.table": "from neuralcollapse.metrics import angles",
            "train.data": "import numpy",
            "train.loop": "def run():\n    from neuralcollapse.train.data import load",
            **changed,
        }
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return build


def test_a_sound_house_passes(house):
    assert complaints(house()) == []


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("checks", "from neuralcollapse.heads import X", "checks (floor 1) -> heads (floor 5)"),
        ("checks", "def f():\n  import neuralcollapse.heads", "-> heads (floor 5)"),
        ("checks", "if TYPE_CHECKING:\n  from .frames import F", "-> frames (floor 4)"),
        ("checks", "from neuralcollapse import LinearHead", "-> neuralcollapse (the face)"),
        ("checks", "from . import heads", "-> heads (floor 5)"),
        ("metrics.angles", "from neuralcollapse import heads", "-> heads (floor 5)"),
        ("metrics.angles", "from .table import METRICS", "-> metrics.table (floor 5)"),
        (
            "frames.frame",
            "from . import simplex",
            "frames.frame (floor 4) -> frames.simplex (floor 4)",
        ),
        ("train.loop", "from neuralcollapse import report", "-> neuralcollapse (the face)"),
        (
            "train.loop",
            "from neuralcollapse.tain import x",
            "there is no module neuralcollapse.tain",
        ),
        ("helpers", "", "'helpers' has no floor"),
    ],
)
def test_a_fault_is_named(house, name, text, told):
    root = house(**{name: text})
    assert any(told in complaint for complaint in complaints(root)), complaints(root)


def test_a_fault_names_file_and_line(house):
    root = house(checks="import torch\n\nimport neuralcollapse.heads")
    assert complaints(root)[0].startswith(f"{root / 'checks.py'}:3: ")


def test_a_circle_is_named_arrow_by_arrow(house):
    root = house(**{"train.data": "\nfrom . import loop"})
    (complaint,) = complaints(root)
    assert complaint.startswith("a circle:")
    assert (
        f"{root / 'train' / 'data.py'}:2: train.data (floor 9) -> train.loop (floor 9)" in complaint
    )
    assert (
        f"{root / 'train' / 'loop.py'}:2: train.loop (floor 9) -> train.data (floor 9)" in complaint
    )
