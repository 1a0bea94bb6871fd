"""Whether a configuration would serve strangers: reachable from other hosts, and no key asked for."""

from __future__ import annotations

import importlib
import ipaddress
import os
from collections.abc import Mapping
from typing import Any

from gptoss_ray.config import ServingConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.bind_address import GRPC_HOST_VARIABLE, node_address
from gptoss_ray.serving.haproxy import is_haproxy_on

HTTP_HOST_OPTION = "http_options.host"


def check_exposure(hosts: Mapping[str, str], config: ServingConfig) -> None:
    """Refuse to serve other hosts without a key, unless the configuration says so.

    Args:
        hosts: By the name of the option, the host on which clients connect.
        config: Whether there are keys, and whether none are wanted.

    Raises:
        ConfigError: With the option that opens the server.
    """
    if config.needs_key or config.allow_unauthenticated:
        return
    for option, host in hosts.items():
        if not is_loopback(host):
            raise ConfigError(
                f"{option} is {host}, which other hosts can reach, and no API key is asked for; set "
                "api_keys_file, api_keys_env or api_keys, or allow_unauthenticated: true where all may ask.",
                param=option,
            )


def is_loopback(host: str) -> bool:
    """Whether only this host can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def deployed_hosts() -> dict[str, str]:
    """Return the hosts of the Serve that this replica belongs to, however it was started.

    Behind HAProxy Serve does not know them: whoever started it has checked.
    """
    if is_haproxy_on():
        return {}
    client: Any = importlib.import_module("ray.serve.context")._get_global_client()
    return {
        HTTP_HOST_OPTION: client.http_config.host or "0.0.0.0",
        GRPC_HOST_VARIABLE: os.environ.get(GRPC_HOST_VARIABLE) or node_address(),
    }
