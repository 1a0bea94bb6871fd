"""Ray's own commands on one cluster file: each runs as its own process, as an operator would run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gptoss_ray.cluster.cluster_checks import ray_command
from gptoss_ray.errors import UnavailableError

_MAX_TOLD_LINES = 5


class RayCommands:
    """What `ray` does with a cluster.

    Args:
        cluster_path: The file of `ray up`.
    """

    def __init__(self, cluster_path: Path) -> None:
        self._cluster_path = str(cluster_path)

    def up(self, *, restart: bool = False) -> None:
        """Make the head node, which makes the others; what `ray up` says is shown.

        Args:
            restart: Of Ray on nodes that are there already, which ends all that runs on them.

        Raises:
            UnavailableError: It failed.
        """
        options = [] if restart else ["--no-restart"]
        self._show("up", "--yes", "--no-config-cache", *options, self._cluster_path)

    def down(self) -> None:
        """End all nodes; machines that are there already stay, without Ray.

        Raises:
            UnavailableError: It failed.
        """
        self._show("down", "--yes", self._cluster_path)

    def put(self, source: Path, target: str) -> None:
        """Copy a file to the head node; UnavailableError where that fails."""
        self._checked("rsync-up", self._cluster_path, str(source), target)

    def ask(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the head node and return its output, whatever came of it."""
        return self._run("exec", self._cluster_path, command)

    def do(self, command: str) -> str:
        """Run a command on the head node and return its output.

        Raises:
            UnavailableError: It failed, or the head node is out of reach.
        """
        return self._checked("exec", self._cluster_path, command)

    def _show(self, *arguments: str) -> None:
        done = subprocess.run(_command(arguments), check=False, env=_environment())
        if done.returncode != 0:
            remedy = " When that is mended, `--restart` begins anew." if arguments[0] == "up" else ""
            raise UnavailableError(
                f"`ray {arguments[0]} {self._cluster_path}` ended with {done.returncode}; above it "
                f"says why.{remedy}"
            )

    def _checked(self, *arguments: str) -> str:
        done = self._run(*arguments)
        if done.returncode != 0:
            raise UnavailableError(f"`ray {' '.join(arguments)}` failed: {last_lines(done.stdout)}")
        return done.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _command(arguments),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
        )


def last_lines(output: str) -> str:
    """Return the end of a command's output, where it says what is wrong, as one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " / ".join(lines[-_MAX_TOLD_LINES:]) or "it said nothing"


def _command(arguments: Sequence[str]) -> list[str]:
    return [str(ray_command()), *arguments]


def _environment() -> dict[str, str]:
    return {"RAY_USAGE_STATS_ENABLED": "0"} | dict(os.environ)
