"""`neuralcollapse data`: what there is to train on."""

from pathlib import Path
from typing import Annotated

import typer


def data(
    name: Annotated[
        str | None, typer.Argument(help="A data set to load and describe; without one, list all.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder or file of the data.")] = None,
) -> None:
    """List the data sets, or load one and show its parts and classes."""
    from rich.console import Console
    from rich.table import Table

    from neuralcollapse.train.config import TrainConfig
    from neuralcollapse.train.data import DATA_SETS, load_data

    if name is None:
        table = Table("name", "what", "needs")
        for row in DATA_SETS:
            table.add_row(row.name, row.summary, row.needs)
        Console().print(table)
        return
    root = None if data_root is None else str(data_root)
    loaded = load_data(TrainConfig(data=name, data_root=root))
    counts = loaded.counts()
    print(f"{name}: {loaded.num_classes} classes, inputs of shape {loaded.input_shape}")
    table = Table("class", *counts)
    for index, label in enumerate(loaded.classes):
        table.add_row(label, *(str(part[index]) for part in counts.values()))
    table.add_section()
    table.add_row("all", *(str(sum(part)) for part in counts.values()))
    Console(markup=False).print(table)
