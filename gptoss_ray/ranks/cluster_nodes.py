"""The nodes that ranks could be placed on, with their resources as Ray counts them."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray
from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import available_resources_per_node
from ray._private.utils import get_num_cpus
from ray.exceptions import RayError

from gptoss_ray.errors import UnavailableError
from gptoss_ray.ranks.rank_placement import NodeResources

THIS_MACHINE = "this machine"

_CONNECT_TIMEOUT_S = 3.0


def this_machine() -> NodeResources:
    """Return this machine as a Ray started here would count it; no Ray need run."""
    num_gpus = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return NodeResources(THIS_MACHINE, {"CPU": float(get_num_cpus()), "GPU": float(num_gpus)})


def cluster_nodes() -> list[NodeResources]:
    """Return the live nodes of the cluster that this process is connected to, whatever is in use there."""
    return [NodeResources(node["NodeManagerAddress"], node["Resources"]) for node in _live_nodes()]


def free_cluster_nodes() -> list[NodeResources]:
    """Return the live nodes with only what is free on them now."""
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return [NodeResources(node["NodeManagerAddress"], free.get(node["NodeID"], {})) for node in _live_nodes()]


def _live_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def connect(address: str) -> bool:
    """Connect to a running cluster (`auto`: the one of this machine); False where there is none.

    Raises:
        UnavailableError: There is one, but it cannot be joined.
    """
    try:
        found = canonicalize_bootstrap_address(address)
    except (ConnectionError, ValueError):
        found = None
    # Ray itself would try for a quarter of an hour.
    if found is None or not _accepts_connections(found):
        if address == "auto" and "RAY_ADDRESS" not in os.environ:
            return False
        raise UnavailableError(f"no Ray cluster answers at {found or address}; check the address.")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"the Ray cluster at {found} cannot be joined ({error}); check its token (RAY_AUTH_TOKEN_PATH) "
            "and that both run the same versions."
        ) from error
    return True


def _accepts_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


def disconnect() -> None:
    """Leave the cluster."""
    ray.shutdown()
