"""The processes of one local session, found by a mark that all of them inherit in their environment."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

SESSION_VARIABLE = "GPTOSS_RAY_SESSION"


def session_processes(session_id: str) -> list[psutil.Process]:
    """Return all processes of the session but this one, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(SESSION_VARIABLE) == session_id:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def end_processes(processes: Iterable[psutil.Process], patience_s: float = 2.0) -> None:
    """Terminate processes, and kill those that have not ended after `patience_s`."""
    alive = list(processes)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            try:
                end(process)
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(alive, timeout=patience_s)
