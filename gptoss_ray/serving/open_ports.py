"""Which of a set of processes listens for strangers: TCP ports that are not bound to loopback."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, order=True)
class OpenPort:
    """A listening TCP socket and the process that holds it."""

    port: int
    address: str
    process: str
    pid: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port} ({self.process}, pid {self.pid})"


def open_ports(processes: Iterable[psutil.Process]) -> list[OpenPort]:
    """Return the ports of these processes that other hosts can reach, sorted by number."""
    found: set[OpenPort] = set()
    for process in processes:
        try:
            name = process.name()
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN and not _is_loopback(connection.laddr.ip):
                found.add(OpenPort(connection.laddr.port, connection.laddr.ip, name, process.pid))
    return sorted(found)


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
