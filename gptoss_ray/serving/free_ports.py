"""Ports on loopback for servers that somebody else starts later."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"
# Above those that Ray gives its workers and below those that systems give to connections (from 32768 on
# Linux, from 49152 by RFC 6335): none of these is taken between now and the server's start.
LISTENING_PORTS = range(20_000, 32_768)


def free_ports(number: int) -> list[int]:
    """Return different ports that nothing uses now.

    Raises OSError where too few are free.
    """
    ports: list[int] = []
    with ExitStack() as probes:
        for port in random.sample(LISTENING_PORTS, len(LISTENING_PORTS)):
            if len(ports) == number:
                break
            try:
                probes.enter_context(socket.create_server((LOOPBACK, port)))
            except OSError:
                continue
            ports.append(port)
    if len(ports) < number:
        raise OSError(
            f"{number} free ports are needed on {LOOPBACK}, {len(ports)} of "
            f"{LISTENING_PORTS.start}-{LISTENING_PORTS.stop - 1} are: end servers that are not needed."
        )
    return ports
