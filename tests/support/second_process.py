"""A pytest plugin: a second process shares the run, file by file; `pytest -p tests.support.second_process`.

The run starts another pytest with its own arguments. Both collect all tests and walk through their files in
the same order; a file is run by whoever claims it first. The second process writes down how its tests went,
and the first reports them with its own: one progress, one summary, one exit status. Files of WHOLE_MACHINE
start several processes each, so the first runs them alone, once the second has ended. Workers of pytest-xdist
would run them beside others, or leave them to another run with another summary.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

WHOLE_MACHINE = ("tests/distributed", "tests/ray")
GRACE_S = 30.0
ENDED_WELL = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--second-of",
        metavar="FOLDER",
        type=Path,
        help="where a second process finds what it shares",
    )


def pytest_configure(config: pytest.Config) -> None:
    if (folder := config.option.second_of) is not None:
        config.pluginmanager.register(ReportWriter(config, folder))


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if session.testsfailed or session.config.option.collectonly:
        return None  # pytest's own loop says what there is to say
    shared = [item for item in session.items if not needs_whole_machine(item)]
    alone = [item for item in session.items if needs_whole_machine(item)]
    if (folder := session.config.option.second_of) is not None:
        run(session, claimed(shared, folder))
        return True
    with TemporaryDirectory(prefix="gptoss-ray-tests-") as name:
        if shared:
            with SecondProcess(session.config, Path(name)) as second:
                run(session, claimed(shared, Path(name)), after_each=second.report)
                second.wait()
    run(session, alone)
    return True


def needs_whole_machine(item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(item.config.rootpath / folder) for folder in WHOLE_MACHINE)


def run(
    session: pytest.Session, items: Iterable[pytest.Item], after_each: Callable[[], None] = lambda: None
) -> None:
    """Run tests as pytest's own loop does."""
    for item, next_item in pairwise(chain(items, [None])):
        assert item is not None
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
        after_each()


def claimed(items: Iterable[pytest.Item], folder: Path) -> Iterator[pytest.Item]:
    """Yield the tests of files that the other process has not claimed."""
    is_ours: dict[Path, bool] = {}
    for item in items:
        if item.path not in is_ours:
            name = item.path.relative_to(item.config.rootpath).as_posix()
            is_ours[item.path] = claim(folder / name.replace("/", "."))
        if is_ours[item.path]:
            yield item


def claim(path: Path) -> bool:
    """Return whether this file was not there yet; it is then."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def reports_file(folder: Path) -> Path:
    return folder / "reports"


class ReportWriter:
    """Writes down the reports of the second process, each as a line of Python (JSON has no tuples)."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._file = reports_file(folder).open("w", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        print(repr(data), file=self._file, flush=True)

    def pytest_unconfigure(self) -> None:
        self._file.close()


class SecondProcess:
    """The second process as the first sees it; leaving the block ends it."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._config = config
        self._output = (folder / "output").open("w+", encoding="utf-8")
        reports_file(folder).touch()
        self._reports = reports_file(folder).open(encoding="utf-8")
        arguments = [*config.invocation_params.args, f"--second-of={folder}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *map(os.fspath, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=config.invocation_params.dir,
        )

    def __enter__(self) -> SecondProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._reports.close()

    def report(self) -> None:
        """Report what its tests have told since the last call."""
        while (line := self._read_line()) is not None:
            data = ast.literal_eval(line)
            hook = self._config.hook
            report = hook.pytest_report_from_serializable(config=self._config, data=data)
            hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)

    def wait(self) -> None:
        """Report the rest.

        Raises:
            pytest.exit.Exception: It ended in another way than a run of tests does; with its output.
        """
        while self._process.poll() is None:
            self.report()
            time.sleep(0.1)
        self.report()
        if self._process.returncode not in ENDED_WELL:
            self._output.seek(0)
            pytest.exit(
                f"the second process ended with {self._process.returncode}:\n{self._output.read()}",
                returncode=1,
            )

    def _read_line(self) -> str | None:
        """Return a line, or None where it is not whole yet."""
        start = self._reports.tell()
        line = self._reports.readline()
        if line.endswith("\n"):
            return line
        self._reports.seek(start)
        return None
