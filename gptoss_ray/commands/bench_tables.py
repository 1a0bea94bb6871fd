"""How `gptoss-ray bench` shows figures: notes while it measures, tables, a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")]

Row = Mapping[str, float | int | str]

# Of tables that go to a file: wide enough that no column is cut.
_FILE_WIDTH = 180


def note(text: str) -> None:
    """Tell on stderr what is measured now."""
    Console(stderr=True).print(f"[dim]{text} …[/]", highlight=False)


def print_tables(tables: Mapping[str, Sequence[Row]]) -> None:
    """Print rows of equal keys under their titles."""
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    for title, rows in tables.items():
        table = Table(title=title, title_justify="left")
        for name, value in rows[0].items():
            justify: Literal["left", "right"] = "left" if isinstance(value, str) else "right"
            table.add_column(name.replace("_", " "), justify=justify)
        for row in rows:
            table.add_row(*map(str, row.values()))
        console.print(table)


def write_json(path: Path | None, document: object) -> None:
    """Write the figures, if a path is given."""
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
