"""`gptoss-ray down`: ends what `gptoss-ray up` made."""

from __future__ import annotations

from typing import Annotated

import typer

from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.ray_commands import RayCommands
from gptoss_ray.cluster.teardown import stop_local_machines


def down(cluster: Annotated[str, typer.Argument(help="The file that `gptoss-ray up` was given.")]) -> None:
    """End the cluster of CLUSTER: a cloud gets its machines back, machines of your own stay, without Ray."""
    file = ClusterFile.read(cluster)
    ray = RayCommands(file.path)
    try:
        if file.provider == "local":
            stop_local_machines(ray, file)
    finally:
        ray.down()
