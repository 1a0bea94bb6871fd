from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gptoss_ray.serving.session_processes import SESSION_VARIABLE, end_session, session_processes

SLEEPS = "import time; print(flush=True); time.sleep(600)"

STARTS_ANOTHER_AS_IT_ENDS = f"""
import signal, subprocess, sys, time

def end(*_):
    another = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}], stdout=subprocess.PIPE)
    another.stdout.readline()
    sys.exit()

signal.signal(signal.SIGTERM, end)
print(flush=True)
time.sleep(600)
"""


@contextmanager
def marked(session_id: str, script: str) -> Iterator[int]:
    """Run a script with the session's mark until the block ends; yields its process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {SESSION_VARIABLE: session_id},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_process_that_one_of_the_session_starts_while_it_ends_is_ended_too():
    session_id = secrets.token_hex(8)
    with marked(session_id, STARTS_ANOTHER_AS_IT_ENDS):
        end_session(session_id)
        assert session_processes(session_id) == []


def test_only_the_processes_of_the_session_are_ended():
    session_id, other_id = secrets.token_hex(8), secrets.token_hex(8)
    with marked(session_id, SLEEPS), marked(other_id, SLEEPS) as other:
        end_session(session_id)
        assert session_processes(session_id) == []
        assert [process.pid for process in session_processes(other_id)] == [other]
