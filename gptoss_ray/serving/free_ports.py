"""Ports on loopback for servers that somebody else starts later."""

from __future__ import annotations

import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"


def free_ports(number: int) -> list[int]:
    """Return different ports that nothing uses now."""
    with ExitStack() as probes:
        opened = [probes.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in opened]
