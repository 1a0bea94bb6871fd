"""`gptoss-ray serve` as a user runs it, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


class ServeCommand:
    """`gptoss-ray serve` in a process group of its own, its output kept."""

    def __init__(self, config: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gptoss_ray.cli", "serve", str(config), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Every process of the run inherits it, whoever its parent is in the end.
            env=os.environ | {"GPTOSS_RAY_TEST_RUN": (run := os.urandom(8).hex())},
        )
        self.run = run
        self.output = ""

    def read_until(self, text: str, within_s: float = 120.0) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        while text not in self.output:
            line = self.process.stdout.readline()
            assert line, f"ended before {text!r}:\n{self.output}"
            self.output += line
            assert time.monotonic() < deadline, self.output

    def wait(self, within_s: float = 60.0) -> int:
        rest, _ = self.process.communicate(timeout=within_s)
        self.output += rest
        return self.process.returncode

    def processes(self) -> list[psutil.Process]:
        """Return what runs of all that this command started."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("GPTOSS_RAY_TEST_RUN") == self.run:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


@contextmanager
def serve_command(config: Path, *options: str) -> Iterator[ServeCommand]:
    """Run the command until the block ends."""
    command = ServeCommand(config, *options)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.terminate()
            command.wait()
        assert command.process.stdout is not None
        command.process.stdout.close()


def session_folders() -> set[Path]:
    """Return the folders of all runs of the command on this machine."""
    return set(Path("/tmp").glob("gptoss-ray-*"))
