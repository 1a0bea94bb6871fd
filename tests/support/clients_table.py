"""A pytest plugin: a table of what was checked with each installed client, printed and put into a file.

`pytest -p tests.support.clients_table --table FILE`; in the file, all from the table's head on is replaced.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.client_environments import CLIENTS, ROOT, pinned_versions

HEAD = "| client | versions | checked | result |\n| --- | --- | --- | --- |\n"
PASSED = "passed"


@dataclass(frozen=True)
class Check:
    """A test function of a client's folder."""

    file: Path
    function: str

    def row(self, result: str) -> str:
        """Return its line of the table."""
        folder = self.file.parent
        versions = ", ".join(f"{package} {version}" for package, version in pinned_versions(folder).items())
        sentence = self.function.removeprefix("test_").replace("_s_", "'s ").replace("_", " ")
        return f"| {folder.name.replace('_', ' ')} | {versions} | {sentence} | {result} |\n"


def all_checks() -> Iterator[Check]:
    """Return the checks of all clients, in the table's order."""
    for file in sorted(CLIENTS.glob("*/test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield Check(file, node.name)


@dataclass
class Table:
    """Collects results; of a test with several parameters, the worst counts."""

    results: dict[Check, str] = field(default_factory=dict)

    def add(self, nodeid: str, outcome: str) -> None:
        """Take note of a phase of a test."""
        name, _, test = nodeid.partition("::")
        check = Check(ROOT / name, test.partition("[")[0])
        worst = self.results.get(check, PASSED)
        self.results[check] = outcome if worst == PASSED else worst

    def text(self) -> str:
        """Return the table; a check that no test has reported was not run."""
        return HEAD + "".join(check.row(self.results.get(check, "not run")) for check in all_checks())


def _outcome(report: pytest.TestReport) -> str:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        return f"not run: {reason.removeprefix('Skipped: ')}"
    return PASSED if report.passed else "FAILED"


class TablePlugin:
    """Hooks of a run with `--table`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.table = Table()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.table.add(report.nodeid, _outcome(report))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        text = self.table.text()
        terminalreporter.write(f"\n{text}")
        before, _, _ = self.file.read_text(encoding="utf-8").partition(HEAD)
        self.file.write_text(before + text, encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, required=True, help="Markdown file with the clients' table.")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(TablePlugin(config.getoption("--table")))


def listed(text: str) -> Iterable[str]:
    """Return the lines of the table in a file."""
    _, _, table = text.partition(HEAD)
    return table.splitlines(keepends=True)
