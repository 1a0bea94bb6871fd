from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import psutil
import pytest

from gptoss_ray.serving.open_ports import open_ports
from gptoss_ray.serving.session_processes import session_processes
from tests.support.served_app import ServedApp

HOST_ADDRESS = "10.213.77.1"
PEER_ADDRESS = "10.213.77.2"

CONNECT_TO_ALL = """
import socket, sys
for port in map(int, sys.argv[2:]):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace that reaches this host through a pair of virtual interfaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the `ip` command")
    name = f"gptoss-{os.getpid()}"
    here, there = f"gp{os.getpid()}a", f"gp{os.getpid()}b"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    try:
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        run("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", here)
        run("ip", "link", "set", here, "up")
        run("ip", "-n", name, "address", "add", f"{PEER_ADDRESS}/24", "dev", there)
        run("ip", "-n", name, "link", "set", there, "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


def listening_ports(served: ServedApp) -> list[int]:
    processes = [served.process, *session_processes(served.session_id)]
    return sorted(
        {
            connection.laddr.port
            for process in processes
            for connection in psutil.Process(process.pid).net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
    )


def answering(namespace: str, ports: list[int]) -> list[int]:
    """Return the ports of this host that accept a connection from the namespace."""
    script = ("ip", "netns", "exec", namespace, sys.executable, "-c", CONNECT_TO_ALL)
    return [int(port) for port in run(*script, HOST_ADDRESS, *map(str, ports)).split()]


def test_no_port_of_a_served_model_answers_another_host(served, namespace):
    ports = listening_ports(served)
    assert served.http_port in ports
    assert served.grpc_port in ports
    assert len(ports) > 10
    with socket.create_server((HOST_ADDRESS, 0)) as control:
        control_port = control.getsockname()[1]
        assert answering(namespace, [control_port, *ports]) == [control_port]
    assert httpx.get(f"{served.base_url}/v1/models", headers=served.headers).status_code == 200
    assert httpx.get(f"{served.base_url}/v1/models").status_code == 401


def test_no_process_of_a_served_model_listens_beyond_loopback(served):
    assert open_ports(session_processes(served.session_id)) == []


def test_a_port_on_all_interfaces_is_named():
    with socket.create_server(("0.0.0.0", 0)) as strangers, socket.create_server(("127.0.0.1", 0)):
        port = strangers.getsockname()[1]
        (found,) = open_ports([psutil.Process()])
    assert found.port == port
    assert f"0.0.0.0:{port}" in str(found)
