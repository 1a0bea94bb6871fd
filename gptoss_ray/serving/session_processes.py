"""The processes of one local session, found by a mark that all of them inherit in their environment."""

from __future__ import annotations

import contextlib
import os

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


def end_session(session_id: str, patience_s: float = 2.0) -> None:
    """End all processes of the session but this one, and those that they start while they end.

    They are terminated, and killed where they have not ended after `patience_s`; what outlives that is left.
    """
    # A list is old at once: Ray starts workers for as long as its raylet lives.
    while processes := session_processes(session_id):
        if _end_processes(processes, patience_s):
            return


def _end_processes(alive: list[psutil.Process], patience_s: float) -> list[psutil.Process]:
    """Terminate, then kill; returns those that are still there."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        _, alive = psutil.wait_procs(alive, timeout=patience_s)
    return alive
