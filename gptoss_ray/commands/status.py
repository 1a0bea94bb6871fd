"""`gptoss-ray status`: what a cluster serves, and what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gptoss_ray.commands.status_table import print_status
from gptoss_ray.errors import UnavailableError

if TYPE_CHECKING:
    from gptoss_ray.serving.cluster_status import ClusterStatus


def status(
    cluster: Annotated[
        str, typer.Argument(help="A file for `ray up`, or a Ray address; auto: the cluster of this machine.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Show nodes, models, replicas, ranks and addresses; exit code 1 where anything is wrong."""
    found = _ask_head(cluster) if Path(cluster).is_file() else _read(cluster)
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        print_status(Console(soft_wrap=True), found)
    if found.problems:
        raise typer.Exit(1)


def _ask_head(cluster: str) -> ClusterStatus:
    from gptoss_ray.cluster.cluster_file import ClusterFile  # noqa: PLC0415
    from gptoss_ray.cluster.ray_commands import RayCommands  # noqa: PLC0415
    from gptoss_ray.cluster.remote_status import ask_status  # noqa: PLC0415

    return ask_status(RayCommands(ClusterFile.read(cluster).path))


def _read(address: str) -> ClusterStatus:
    """Read the status as a process of the cluster; UnavailableError where there is none."""
    # Ray reads this on import; it would try a wrong token twenty times, with a warning each.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    # Ray takes a second to import: only who asks a cluster pays for it.
    from gptoss_ray.ranks.cluster_nodes import connect, disconnect  # noqa: PLC0415
    from gptoss_ray.serving.cluster_reading import read_cluster_status  # noqa: PLC0415

    if not connect(address):
        raise UnavailableError("no Ray cluster runs on this machine; give the file of one, or its address.")
    try:
        return read_cluster_status()
    finally:
        disconnect()
