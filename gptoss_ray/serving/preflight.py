"""What must hold before models are served: free ports, sound checkpoints, room and memory for the ranks.

Nothing is started here: `gptoss-ray serve` checks before it starts, `gptoss-ray doctor` only checks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.ranks.rank_facts import free_memory_bytes, read_shape
from gptoss_ray.ranks.rank_memory import check_rank_memory, describe_memory, plan_rank_memory
from gptoss_ray.ranks.rank_placement import GroupPlacement, NodeResources, find_shortfall
from gptoss_ray.serving.app import replica_name
from gptoss_ray.serving.bind_address import GRPC_HOST_VARIABLE
from gptoss_ray.serving.exposure import HTTP_HOST_OPTION, check_exposure
from gptoss_ray.serving.free_ports import LOOPBACK
from gptoss_ray.serving.haproxy import is_haproxy_on
from gptoss_ray.serving.key_file import read_key_file
from gptoss_ray.serving.serve_file import ServeFile
from gptoss_ray.serving.tls import grpc_credentials
from gptoss_ray.tracing import check_exporter


def check_ports(file: ServeFile) -> None:
    """Refuse ports that this machine cannot open: ConfigError with the option to change."""
    http, grpc = file.schema.http_options, file.schema.grpc_options
    for option, port in (("http_options.port", http.port), ("grpc_options.port", grpc.port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((http.host, port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} on {http.host} cannot be used ({error.strerror}); stop what uses it, or "
                    f"set another {option} in {file.path}.",
                    param=option,
                ) from error


def check_keys(file: ServeFile) -> int:
    """Return how many API keys open the server.

    Raises:
        ConfigError: A key is missing that should be there, or the file of keys is wrong.
    """
    path = file.serving.api_keys_file
    num_in_file = 0 if path is None else len(read_key_file(Path(path)))
    return num_in_file + len(file.serving.resolve_api_keys())


def check_hosts(file: ServeFile) -> None:
    """Refuse to serve other hosts without a key, as `check_exposure` does."""
    http_host = file.schema.http_options.host
    # Unset, gRPC is on the node's own address; a Ray of our own has that on loopback.
    grpc_host = file.proxy_environment.get(GRPC_HOST_VARIABLE, LOOPBACK)
    check_exposure({HTTP_HOST_OPTION: http_host, GRPC_HOST_VARIABLE: grpc_host}, file.serving)


def check_tracing(file: ServeFile) -> None:
    """Refuse tracing without an exporter here, as `tracing.check_exporter` does."""
    if file.serving.tracing:
        check_exporter()


def check_tls(file: ServeFile) -> None:
    """Refuse certificates that cannot be used: ConfigError, which names the option."""
    certificates = (file.schema.http_options.ssl_certfile, grpc_credentials(file.proxy_environment))
    if is_haproxy_on() and any(certificates):
        raise ConfigError(
            "HAProxy is given no certificate by Serve; leave out --proxy haproxy, or the certificates, and "
            "put a proxy of your own that speaks TLS in front.",
            param="http_options.ssl_certfile",
        )
    _ = file.tls  # reads the certificate


def check_checkpoint(model: ServedModelConfig) -> None:
    """Refuse a corrupt checkpoint: CheckpointError of its first defect. Fetches it where it is not here."""
    # Imports torch, whose seconds should show as this check's.
    from gptoss_ray.checkpoint.verify import verify_checkpoint  # noqa: PLC0415

    for defect in verify_checkpoint(resolve_folder(model.checkpoint), fast=True):
        raise defect.to_error()


def check_placement(file: ServeFile, nodes: Sequence[NodeResources]) -> None:
    """Refuse groups that the nodes have no room for: ConfigError with what is missing on which node."""
    shortfall = find_shortfall(first_placements(file), nodes)
    if shortfall is not None:
        raise ConfigError(
            f"{shortfall} Take larger or more nodes, or lower parallel.num_ranks or engine.num_threads "
            f"in {file.path}.",
            param="parallel.num_ranks",
        )


def first_placements(file: ServeFile) -> list[GroupPlacement]:
    """Return what the groups of a file ask for, one of each replica that Serve starts before any load."""
    return [
        GroupPlacement.of(model)
        for model in file.serving.models
        for _ in range(_num_first_replicas(file, model))
    ]


def check_memory(
    file: ServeFile, shape_of: Callable[[ServedModelConfig], ModelConfig] = read_shape
) -> list[str]:
    """Return the memory plan of each model, one line each, for ranks on machines like this one.

    Args:
        file: The configuration.
        shape_of: Finds the shape of a model.

    Raises:
        ConfigError: The ranks that share a node do not fit into the memory that is free here.
    """
    free_bytes = free_memory_bytes()
    lines = []
    for model in file.serving.models:
        plan = plan_rank_memory(model, shape_of(model))
        num_ranks = model.parallel.num_ranks_per_node
        for _ in range(_num_first_replicas(file, model)):
            check_rank_memory(model, plan, free_bytes, num_ranks)
            free_bytes -= num_ranks * plan.total_bytes
        lines.append(describe_memory(model, plan))
    return lines


def _num_first_replicas(file: ServeFile, model: ServedModelConfig) -> int:
    """Return how many replicas of a model Serve starts before there is any load."""
    if model.scaling is not None:
        return model.scaling.num_first_replicas
    name = replica_name(file.serving, model)
    for deployment in file.schema.applications[0].deployments:
        if deployment.name == name:
            autoscaling = deployment.autoscaling_config
            if isinstance(autoscaling, dict):
                return int(autoscaling.get("initial_replicas") or autoscaling.get("min_replicas", 1))
            if isinstance(deployment.num_replicas, int):
                return deployment.num_replicas
    return 1
