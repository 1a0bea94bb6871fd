"""A configuration, as a file would say it, of a server that only this machine reaches. Free of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptoss_ray.serving.bind_address import GRPC_HOST_VARIABLE
from gptoss_ray.serving.free_ports import LOOPBACK
from gptoss_ray.serving.grpc_service import GRPC_SERVICER_FUNCTIONS

IMPORT_PATH = "gptoss_ray.serving.app:build"
"""Of the application that every configuration file serves."""


def loopback_schema(
    http_port: int,
    grpc_port: int,
    args: dict[str, Any],
    *,
    name: str,
    import_path: str = IMPORT_PATH,
    deployments: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return what Serve's own schema takes.

    Args:
        http_port: Of loopback.
        grpc_port: Likewise.
        args: Of the application.
        name: Of the application.
        import_path: What builds it.
        deployments: Options of its deployments.
    """
    proxy_environment = {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "gptoss_ray.serving.proxy_setup.prepare_proxy",
        GRPC_HOST_VARIABLE: LOOPBACK,
    }
    application = {"name": name, "import_path": import_path, "route_prefix": "/", "args": args}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": LOOPBACK, "port": http_port},
        "grpc_options": {
            "port": grpc_port,
            "grpc_servicer_functions": list(GRPC_SERVICER_FUNCTIONS),
        },
        "controller_options": {"runtime_env": {"env_vars": proxy_environment}},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [application | ({"deployments": list(deployments)} if deployments else {})],
    }
