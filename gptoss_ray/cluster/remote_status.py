"""The status of a cluster, asked of its head node over ssh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptoss_ray.cluster.ray_commands import RayCommands, last_lines
from gptoss_ray.errors import UnavailableError

if TYPE_CHECKING:
    from gptoss_ray.serving.cluster_status import ClusterStatus

STATUS_COMMAND = "gptoss-ray status --json"
_STATUS_START = '{"nodes"'


def ask_status(ray: RayCommands) -> ClusterStatus:
    """Ask the head node for the cluster's status.

    Raises:
        UnavailableError: It does not tell.
    """
    done = ray.ask(STATUS_COMMAND)
    status = find_status(done.stdout)
    if status is None:
        raise UnavailableError(f"the head node does not tell the cluster's status: {last_lines(done.stdout)}")
    return status


def find_status(output: str) -> ClusterStatus | None:
    """Return the status that stands in a line of a command's output, among what ssh and Ray say."""
    # Its package takes a second to import.
    from gptoss_ray.serving.cluster_status import ClusterStatus  # noqa: PLC0415

    lines = [line.strip() for line in output.splitlines() if line.strip().startswith(_STATUS_START)]
    return ClusterStatus.model_validate_json(lines[-1]) if lines else None
