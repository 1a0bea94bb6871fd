from __future__ import annotations

import socket

import pytest

from gptoss_ray.serving import free_ports as module
from gptoss_ray.serving.free_ports import LISTENING_PORTS, LOOPBACK, free_ports


def test_free_ports_differ_and_can_be_opened():
    ports = free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server((LOOPBACK, port)).close()


def test_free_ports_are_none_that_connections_get():
    assert set(free_ports(50)) <= set(LISTENING_PORTS)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    taken, free = sorted(free_ports(2))
    monkeypatch.setattr(module, "LISTENING_PORTS", range(taken, free + 1))
    with socket.create_server((LOOPBACK, taken)):
        assert taken not in free_ports(1)
        monkeypatch.setattr(module, "LISTENING_PORTS", range(taken, taken + 1))
        with pytest.raises(OSError, match="1 free ports are needed"):
            free_ports(1)
