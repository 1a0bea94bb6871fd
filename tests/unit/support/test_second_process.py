"""Runs of pytest that two processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MEETING = """
import os, sys, time
from pathlib import Path
import pytest

def meet(me, other):
    Path(me).touch()
    deadline = time.monotonic() + 60
    while not Path(other).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def is_second():
    return any(argument.startswith("--second-of") for argument in sys.argv)
"""
SHARED = """
def test_it_meets_the_other():
    meet("{me}", "{other}")

def test_that_fails():
    assert "{me}" == "fails"

@pytest.mark.skip(reason="of {me}")
def test_that_is_skipped():
    pass

def test_that_is_the_last():
    Path("{me}-has-ended").touch()
"""
MORTAL = """
def test_it_meets_the_other():
    meet("{me}", "{other}")

def test_that_ends_the_second_process():
    if is_second():
        os._exit(3)
"""
ALONE = """
@pytest.mark.parametrize("each", [1, 2])
def test_it_runs_once_the_others_have_ended(each):
    assert Path("one-has-ended").exists()
    assert Path("two-has-ended").exists()
    assert not is_second()
"""


def run_pytest(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -q -ra --import-mode=importlib -p no:cacheprovider\n"
    )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(MEETING + text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.second_process"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_two_processes_share_the_files_and_report_as_one(tmp_path: Path) -> None:
    files = {
        "tests/ray/test_alone.py": ALONE,
        "tests/unit/test_one.py": SHARED.format(me="one", other="two"),
        "tests/unit/test_two.py": SHARED.format(me="two", other="one"),
    }
    done = run_pytest(tmp_path, files)
    assert "2 failed, 6 passed, 2 skipped in" in done.stdout, done.stdout + done.stderr
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    for name in ("one", "two"):
        assert f"AssertionError: assert '{name}' == 'fails'" in done.stdout
        assert f"of {name}" in done.stdout


def test_a_second_process_that_dies_fails_the_run(tmp_path: Path) -> None:
    files = {
        "tests/test_one.py": MORTAL.format(me="one", other="two"),
        "tests/test_two.py": MORTAL.format(me="two", other="one"),
    }
    done = run_pytest(tmp_path, files)
    assert done.returncode == 1
    assert "the second process ended with 3" in done.stdout, done.stdout + done.stderr
