"""The one place that changes how stock Ray Serve binds its ports.

Serve 2.60 opens two gRPC servers on all interfaces, whatever `http_options.host` says:

- the gRPC proxy (`ray.serve._private.grpc_util.start_grpc_server`: `[::]:<port>`), which does not know
  the API key, though the ingress behind it does;
- one server in each replica for calls between deployments (`Replica._on_initialized`: `[::]:0`).

Both ask a module-level function for the port. In the processes concerned we wrap that function so that
it binds the node's own Ray address instead (127.0.0.1 where Ray runs on loopback), or for the proxy the
address in `GPTOSS_RAY_GRPC_HOST`.

- **Proxy**: Serve calls the function that `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names
  (`proxy_setup.prepare_proxy`) in each proxy before it opens a port. Our configuration files set the
  variable under `controller_options`, whose environment the proxies inherit; so the shim holds for
  `gptoss-ray serve`, `serve run` and `serve deploy` alike, unless Serve was already running with other
  options.
  Behind HAProxy each ingress replica is such a proxy for itself, and calls it too (`haproxy.py`).
- **Replicas**: `Ingress` and `EngineReplica` call `bind_replica_to_node_address` when they are made,
  which is before Serve opens their port.

`open_ports.py` finds what is open in spite of this, and `gptoss-ray serve` names it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import ray

from gptoss_ray.serving.tls import grpc_credentials

GRPC_HOST_VARIABLE = "GPTOSS_RAY_GRPC_HOST"
_ALL_INTERFACES = "[::]:"


def bind_proxy_to_node_address() -> None:
    """Make this proxy's gRPC server listen on one address, and by TLS where it has a certificate.

    Raises:
        ConfigError: The certificate or its key cannot be read.
    """
    module: Any = importlib.import_module("ray.serve._private.default_impl")
    if (credentials := grpc_credentials()) is not None:
        module.add_grpc_address = lambda server, address: server.add_secure_port(address, credentials)
    _wrap("ray.serve._private.default_impl", "add_grpc_address", os.environ.get(GRPC_HOST_VARIABLE))


def bind_replica_to_node_address() -> None:
    """Make this replica's internal gRPC server listen on the node's address."""
    _wrap("ray.serve._private.replica", "add_port_to_grpc_server", None)


def _wrap(module_name: str, function_name: str, host: str | None) -> None:
    """Replace a module's function (server, address) by one that turns `[::]:port` into `host:port`."""
    module = importlib.import_module(module_name)
    add_port: Callable[[Any, str], Any] = getattr(module, function_name)

    def add_port_on_host(server: Any, address: str) -> Any:
        if address.startswith(_ALL_INTERFACES):
            address = f"{_bracketed(host or node_address())}:{address.removeprefix(_ALL_INTERFACES)}"
        return add_port(server, address)

    setattr(module, function_name, add_port_on_host)


def node_address() -> str:
    """Return the address by which Ray knows this node."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
