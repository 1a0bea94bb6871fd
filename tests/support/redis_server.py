"""A Redis for a test; its processes end with the block."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_ray.serving.free_ports import free_ports


def why_no_redis() -> str | None:
    """Return what keeps a test from having one."""
    return None if shutil.which("redis-server") else "needs redis-server (Debian: redis-server)"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Start one; yields its address."""
    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "redis-server did not come up"
            time.sleep(0.1)
