"""Two programs measured in turn, A B A B A B: a machine that drifts slows both down alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

Figures = dict[str, float]
"""Name of what was measured -> tokens a second."""


@dataclass(frozen=True)
class Run:
    """A command that has ended: what it printed, its messages (stderr), and its peak of resident memory."""

    output: str
    messages: str
    peak_gb: float


def run(command: Sequence[str]) -> Run:
    """Run a command; SystemExit with the end of what it said if it fails."""
    print(f"$ {' '.join(command)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output, messages = (_content(file) for file in (out, err))
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}:\n{(output + messages)[-2000:]}")
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(output, messages, usage.ru_maxrss * unit / 1e9)


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


@dataclass
class Side:
    """One of the two programs: its figures and its peak of memory, round by round."""

    name: str
    measure: Callable[[], tuple[Figures, float]]
    rounds: list[Figures] = field(default_factory=list)
    peaks_gb: list[float] = field(default_factory=list)

    def go(self) -> None:
        """Measure once more."""
        figures, peak_gb = self.measure()
        self.rounds.append(figures)
        self.peaks_gb.append(peak_gb)


def alternate(peer: Side, ours: Side, num_rounds: int) -> None:
    """Measure both in turn."""
    for number in range(num_rounds):
        for side in (peer, ours):
            print(f"round {number + 1} of {num_rounds}: {side.name}", file=sys.stderr, flush=True)
            side.go()


def compare(peer: Side, ours: Side) -> list[dict[str, object]]:
    """Return a row for each figure that both have: medians, and ratios of the same round."""
    names = [name for name in peer.rounds[0] if name in ours.rounds[0]]
    rows: list[dict[str, object]] = []
    for name in names:
        theirs = [figures[name] for figures in peer.rounds]
        mine = [figures[name] for figures in ours.rounds]
        ratios = [own / other for own, other in zip(mine, theirs, strict=True)]
        rows.append(
            {
                "what": name,
                peer.name: _spread(theirs, 1),
                ours.name: _spread(mine, 1),
                "ratio": _spread(ratios, 2),
            }
        )
    row = {"what": "peak of resident memory, GB"}
    rows.append(row | {side.name: _spread(side.peaks_gb, 1) for side in (peer, ours)} | {"ratio": ""})
    return rows


def report(peer: Side, ours: Side, more: dict[str, object], json_file: Path | None) -> None:
    """Print the comparison as a Markdown table, and write it with every round's figures if asked to."""
    rows = compare(peer, ours)
    print(f"\ntokens a second: median (least to most) of {len(ours.rounds)} rounds\n")
    for cells in (list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)):
        print(f"| {' | '.join(map(str, cells))} |")
    if json_file is not None:
        sides = {side.name: {"rounds": side.rounds, "peaks_gb": side.peaks_gb} for side in (peer, ours)}
        document = {"rows": rows, "sides": sides, **more}
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _spread(values: Sequence[float], digits: int) -> str:
    least, most = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"
