"""What checks have found, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gptoss_ray.errors import GptossError


@dataclass(frozen=True)
class Finding:
    """One row of the table; where something is missing, `detail` says what would mend it."""

    subject: str
    is_well: bool
    detail: str


def find(subject: str, check: Callable[[], str]) -> Finding:
    """Run a check, which returns what is well or raises what is missing."""
    try:
        return Finding(subject, True, check())
    except GptossError as error:
        return Finding(subject, False, error.message)


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Print a row for each."""
    table = Table("check", "", "found", box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        state = "[green]ok[/]" if finding.is_well else "[red]missing[/]"
        table.add_row(escape(finding.subject), state, escape(finding.detail))
    console.print(table, highlight=False)
