"""Stops Ray on machines that stay: `ray down` itself does so on the head alone (Ray 2.60)."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence

from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.ray_commands import RayCommands
from gptoss_ray.errors import UnavailableError

# Where the head node has the key that it starts other nodes by.
_KEY = "~/ray_bootstrap_key.pem"
_SSH_OPTIONS = (
    "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=10"
)
# As Ray runs its commands: the shell's own file says where `ray` is.
_STOP = "bash --login -i -c 'source ~/.bashrc; ray stop'"
_CONNECT_TIMEOUT_S = 3.0


def stop_local_machines(ray: RayCommands, cluster: ClusterFile) -> None:
    """Stop Ray on the head, which would else start workers again, and from there on every worker.

    Raises:
        UnavailableError: A machine is out of reach, or Ray still runs on the head.
    """
    ray.do(stop_command(cluster.ssh_user, cluster.worker_addresses))
    if cluster.head_address is not None and _accepts(cluster.head_address, cluster.head_port):
        raise UnavailableError(
            f"Ray still runs at {cluster.head_address}:{cluster.head_port}; `ray` must be on the PATH of "
            "login shells there, or `ray stop` stops nothing and does not say so."
        )


def stop_command(user: str, workers: Sequence[str]) -> str:
    """Return what the head runs; it fails, after all others have stopped, where a worker is out of reach."""
    stops = [
        f"ssh -i {_KEY} {_SSH_OPTIONS} {shlex.quote(f'{user}@{worker}')} {shlex.quote(_STOP)} "
        f"|| left=$left,{shlex.quote(worker)}"
        for worker in workers
    ]
    told = 'test -z "$left" || { echo "Ray was not stopped on ${left#,}; run ray stop there"; exit 1; }'
    return "; ".join(["left=", "ray stop", *stops, told])


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False
