"""Stops Ray on machines that stay: `ray down` itself does so on the head alone (Ray 2.60)."""

from __future__ import annotations

import shlex
import socket

from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.ray_commands import RayCommands
from gptoss_ray.errors import UnavailableError

# Where the head node has the file that it starts other nodes by.
_BOOTSTRAP = "~/ray_bootstrap_config.yaml"
_CONNECT_TIMEOUT_S = 3.0


def stop_local_machines(ray: RayCommands, cluster: ClusterFile) -> None:
    """Stop Ray on the head, which would else start workers again, and from there on every worker.

    Raises:
        UnavailableError: The head is out of reach, or Ray still runs there.
    """
    ray.do(stop_command(cluster.worker_addresses))
    if cluster.head_address is not None and _accepts(cluster.head_address, cluster.head_port):
        raise UnavailableError(
            f"Ray still runs at {cluster.head_address}:{cluster.head_port}; `ray` must be on the PATH of "
            "login shells there, or `ray stop` stops nothing and does not say so."
        )


def stop_command(workers: tuple[str, ...]) -> str:
    """Return what the head runs; a worker that is off, or never was one, does not keep others from ending."""
    stops = [
        f"ray exec {_BOOTSTRAP} --node-ip {shlex.quote(worker)} 'ray stop' || true" for worker in workers
    ]
    return "; ".join(["ray stop", *stops])


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False
