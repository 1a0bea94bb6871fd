"""A cluster's status as tables: nodes, models, addresses, problems."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from gptoss_ray.serving.cluster_status import ClusterStatus, DeploymentStatus


def print_status(console: Console, status: ClusterStatus) -> None:
    """Print what there is, and what is wrong."""
    console.print(_nodes(status), highlight=False)
    if status.deployments:
        console.print(_deployments(status), highlight=False)
    for protocol, addresses in status.addresses.items():
        console.print(f"{protocol}  {', '.join(addresses)}", highlight=False)
    for problem in status.problems:
        console.print(f"[red]{escape(problem)}[/]", highlight=False)
    if not status.problems:
        console.print("[green]healthy[/]")


def _nodes(status: ClusterStatus) -> Table:
    table = Table("node", "", "CPUs", "GPUs", box=None, padding=(0, 2, 0, 0))
    for node in status.nodes:
        amounts = (f"{node.resources.get(name, 0):g}" for name in ("CPU", "GPU"))
        table.add_row(node.address, "head" if node.is_head else "", *amounts)
    return table


def _deployments(status: ClusterStatus) -> Table:
    table = Table("serves", "state", "replicas", "ranks", "on", box=None, padding=(0, 2, 0, 0))
    for deployment in status.deployments:
        colour = "green" if deployment.status == "HEALTHY" else "red"
        table.add_row(
            escape(deployment.name),
            f"[{colour}]{deployment.status}[/]",
            f"{deployment.num_running} of {deployment.num_wanted}",
            _ranks(deployment),
            ", ".join(deployment.nodes),
        )
    return table


def _ranks(deployment: DeploymentStatus) -> str:
    """Return how many ranks are ready, and how far the others are."""
    if not deployment.num_ranks:
        return ""
    num_ranks = deployment.num_wanted * deployment.num_ranks
    others = Counter(rank.stage for rank in deployment.ranks if not rank.is_ready)
    stages = "".join(f", {count} {stage}" for stage, count in sorted(others.items()))
    return escape(f"{deployment.num_ready_ranks} of {num_ranks} ready{stages}")
