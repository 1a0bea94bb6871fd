from __future__ import annotations

import socket

from gptoss_ray.serving.free_ports import LOOPBACK, free_ports


def test_free_ports_differ_and_can_be_opened():
    ports = free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server((LOOPBACK, port)).close()
