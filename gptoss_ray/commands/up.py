"""`gptoss-ray up`: from a cluster file and a configuration to models that answer, by Ray's commands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gptoss_ray.cluster.cluster_checks import (
    check_fit,
    check_keys_on_nodes,
    check_mounts,
    check_placeholders,
    check_token,
    check_tools,
)
from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.ray_commands import RayCommands
from gptoss_ray.cluster.remote_status import ask_status
from gptoss_ray.cluster.token_file import TOKEN_MOUNT, ensure_token
from gptoss_ray.commands.findings import Finding, find, print_findings
from gptoss_ray.commands.status_table import print_status
from gptoss_ray.errors import UnavailableError

if TYPE_CHECKING:
    from gptoss_ray.serving.cluster_status import ClusterStatus
    from gptoss_ray.serving.serve_file import ServeFile

DEPLOYED_CONFIG = "~/gptoss-ray.yaml"
"""Where the head node has the configuration."""

_POLL_S = 5.0
_DEPLOY_ATTEMPTS = 3


def up(
    cluster: Annotated[str, typer.Argument(help="A file for `ray up` such as cluster/aws.yaml.")],
    config: Annotated[str | None, typer.Argument(help="What to serve; none: only make the cluster.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is missing.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start Ray anew where it runs already; all that it serves ends.")
    ] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="For nodes, weights and models to be ready.")] = 3600.0,
) -> None:
    """Make or update the cluster of CLUSTER, serve CONFIG on it, and return when it answers.

    Everything that can be wrong is looked for before anything is started. Run again with another CONFIG, it
    is a rolling update: Ray runs on, and replicas are replaced one by one.
    """
    console = Console(soft_wrap=True)
    file = ClusterFile.read(cluster)
    findings = list(examine(file, config))
    print_findings(console, findings)
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)
    if check:
        return
    ensure_token(Path(file.file_mounts[TOKEN_MOUNT]).expanduser())
    ray = RayCommands(file.path)
    ray.up(restart=restart)
    if config is None:
        return
    ray.put(Path(config), DEPLOYED_CONFIG)
    _deploy(ray)
    print_status(console, _wait(console, ray, time.monotonic() + wait_s))


def examine(cluster: ClusterFile, config: str | None) -> Iterator[Finding]:
    """Run every check; one that fails does not stop the others."""
    yield find("tools", check_tools)
    yield find("placeholders", partial(check_placeholders, cluster))
    yield find("token", partial(check_token, cluster))
    yield find("files", partial(check_mounts, cluster))
    if config is not None:
        file = _serve_file(config)
        yield find("API keys", partial(check_keys_on_nodes, cluster, file))
        yield find("room for the ranks", partial(check_fit, cluster, file))


def _serve_file(config: str) -> ServeFile:
    # Ray takes a second to import: only who deploys pays for it.
    from gptoss_ray.serving.serve_file import ServeFile  # noqa: PLC0415

    return ServeFile.read(config)


def _deploy(ray: RayCommands) -> None:
    """Hand the configuration to Serve, which may not come up at once on a cluster that has just started.

    Raises:
        UnavailableError: It never took it.
    """
    for attempt in range(1, _DEPLOY_ATTEMPTS + 1):
        try:
            ray.do(f"serve deploy {DEPLOYED_CONFIG}")
            return
        except UnavailableError:
            if attempt == _DEPLOY_ATTEMPTS:
                raise
            time.sleep(_POLL_S)


def _wait(console: Console, ray: RayCommands, deadline_s: float) -> ClusterStatus:
    """Return the status once all is well; how far it is shows meanwhile.

    A head that does not answer once is asked again: it may be busy, or ssh broken off.

    Raises:
        UnavailableError: It fails, or takes longer.
    """
    with console.status("starting") as spinner:
        while True:
            try:
                status = ask_status(ray)
            except UnavailableError as error:
                told = error.message
            else:
                if not status.problems:
                    return status
                told = "; ".join(status.problems)
                if status.has_failed:
                    raise UnavailableError(f"the models did not start: {told}")
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"not ready within --wait-s: {told}")
            spinner.update(told.replace("[", r"\["))
            time.sleep(_POLL_S)
