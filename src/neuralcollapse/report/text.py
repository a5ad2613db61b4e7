"""The final numbers of runs as plain text, for a terminal of 100 columns."""

import textwrap
from collections.abc import Sequence

from neuralcollapse.record import Run
from neuralcollapse.report.history import History, read_histories
from neuralcollapse.report.mistake_view import MistakeColumn, mistake_columns
from neuralcollapse.report.tables import Group, Numbers, final_group, numbers, selected_group

_NAME, _COLLAPSE, _GROUP = 22, 10, 34
_GROUPS_ABREAST = 2


def final_table(runs: Sequence[Run]) -> str:
    """The last measured epoch of each run as a table of at most 100 columns.

    Two runs stand side by side. A single run is shown beside the epoch of its best validation
    accuracy. Where the classes have a hierarchy, the mistakes on the test set follow, each number
    beside what a perfect ranking and what chance would score.

    Raises:
        ValueError: if there are no runs, one is given twice, or one has nothing measured.
    """
    histories = read_histories(runs)
    groups = [final_group(place, history) for place, history in enumerate(histories)]
    if len(histories) == 1 and (selected := selected_group(0, histories[0])) is not None:
        groups.append(selected)
    starts = range(0, len(groups), _GROUPS_ABREAST)
    blocks = [_block(histories, groups[start : start + _GROUPS_ABREAST]) for start in starts]
    columns = mistake_columns(histories)
    starts = range(0, len(columns), _GROUPS_ABREAST)
    blocks += [_mistakes(columns[start : start + _GROUPS_ABREAST]) for start in starts]
    return "\n\n".join(blocks)


def _block(histories: list[History], groups: list[Group]) -> str:
    table = numbers(histories, groups)
    places = dict.fromkeys(group.run for group in groups)
    headings = [_printable(_heading(histories[place])) for place in places]
    lines = [line for text in headings for line in textwrap.wrap(text, 100, subsequent_indent="  ")]
    lines += ["", *_header(table)]
    for line in table.lines:
        width = _GROUP if line.spanning else _GROUP // len(table.splits)
        cells = [
            _ascii(cell.text + (f" [{cell.note}]" if cell.note else "")).rjust(width)
            for cell in line.cells
        ]
        target = line.at_collapse if len(line.at_collapse) < _COLLAPSE else "by target"
        named = (line.key or line.title).ljust(_NAME) + _ascii(target).rjust(_COLLAPSE)
        lines.append(named + "".join(cells))
    lines += [_printable(f"[{place}] {note}") for place, note in enumerate(table.notes, 1)]
    return "\n".join(lines)


def _mistakes(columns: Sequence[MistakeColumn]) -> str:
    width, names = _GROUP // 3, _NAME + _COLLAPSE
    labels = "".join(_cut(column.label, _GROUP - 2).rjust(_GROUP) for column in columns)
    parts = "".join(part.rjust(width) for part in ("test", "best", "chance"))
    header = "mistakes".ljust(names) + "".join(parts.rjust(_GROUP) for _ in columns)
    lines = [*([" " * names + labels] if len(columns) > 1 else []), header, "-" * len(header)]
    for key in dict.fromkeys(key for column in columns for key in column.cells):
        groups = [column.cells.get(key, ("", "", "")) for column in columns]
        cells = ["".join(_ascii(text).rjust(width) for text in group) for group in groups]
        lines.append(key.ljust(names) + "".join(cell.rjust(_GROUP) for cell in cells))
    for column in columns:
        lines += textwrap.wrap(_printable(f"{column.label}: {column.caption}"), 100)
    return "\n".join(lines)


def _heading(history: History) -> str:
    return f"{history.label}: {history.method}, on {history.data}; {history.status}"


def _header(table: Numbers) -> list[str]:
    start = " " * (_NAME + _COLLAPSE)
    labels = "".join(_cut(group.label, _GROUP - 2).rjust(_GROUP) for group in table.groups)
    captions = "".join(_cut(group.caption, _GROUP).rjust(_GROUP) for group in table.groups)
    width = _GROUP // len(table.splits)
    splits = "".join(split.rjust(width) for _ in table.groups for split in table.splits)
    named = " " * _NAME + "collapse".rjust(_COLLAPSE) + splits
    rule = "-" * len(named)
    several = len({group.run for group in table.groups}) > 1
    return [*([start + labels] if several else []), start + captions, named, rule]


def _cut(text: str, width: int) -> str:
    text = _printable(text)
    return text if len(text) <= width else text[: width - 3] + "..."


def _ascii(text: str) -> str:
    return text.replace("—", "-").replace("\u00a0", " ")


def _printable(text: str) -> str:
    """Names come from folders and files: nothing in them may steer the terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
