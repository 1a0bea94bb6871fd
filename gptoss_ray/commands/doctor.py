"""`gptoss-ray doctor`: what a start of a configuration would lack. Starts, fetches and writes nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gptoss_ray.checkpoint.hub import DEMO, resolve_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.commands.findings import Finding, find, print_findings
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import CheckpointError, ConfigError, UnavailableError

if TYPE_CHECKING:
    from gptoss_ray.ranks.rank_placement import NodeResources
    from gptoss_ray.serving.serve_file import ServeFile


def doctor(
    config: Annotated[str, typer.Argument(help="A file such as configs/demo.yaml.")],
    address: Annotated[
        str, typer.Option(help="Ray cluster to judge; auto: the one that runs here, else this machine alone.")
    ] = "auto",
) -> None:
    """Say what a start of CONFIG would lack, before anything is started; exit code 1 if it lacks anything."""
    # Ray reads this on import; it would try a wrong token twenty times, with a warning each.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")
    # Ray takes a second to import: only this command pays for it.
    from gptoss_ray.serving.serve_file import ServeFile  # noqa: PLC0415

    findings = list(examine(ServeFile.read(config), address))
    print_findings(Console(), findings)
    if not all(finding.is_well for finding in findings):
        raise typer.Exit(1)


def examine(file: ServeFile, address: str) -> Iterator[Finding]:
    """Run every check on a configuration; one that fails does not stop the others.

    Args:
        file: The configuration.
        address: Of a Ray cluster, or `auto`.
    """
    yield find("API keys", partial(_keys, file))
    yield from _examine_room(file, address)
    for model in file.serving.models:
        yield find(f"{model.name}: backend", partial(_backend, model))
        if model.parallel.num_ranks > 1:
            yield find(f"{model.name}: wires", partial(_wires, model))
        yield find(f"{model.name}: checkpoint", partial(_checkpoint, model))
    yield find("memory of a rank", partial(_memory, file))


def _keys(file: ServeFile) -> str:
    from gptoss_ray.serving.preflight import check_hosts, check_keys  # noqa: PLC0415

    check_hosts(file)
    num_keys = check_keys(file)
    return f"{num_keys} set" if num_keys else "none: whoever reaches the ports is served"


def _examine_room(file: ServeFile, address: str) -> Iterator[Finding]:
    """Judge the running cluster, or this machine and its ports where none runs."""
    from gptoss_ray.ranks import cluster_nodes  # noqa: PLC0415

    with _cluster(address) as (finding, is_connected):
        yield finding
        if is_connected:
            nodes, free = cluster_nodes.cluster_nodes(), cluster_nodes.free_cluster_nodes()
        else:
            nodes = free = [cluster_nodes.this_machine()]
            yield find("ports", partial(_ports, file))
        yield find("room for the ranks", partial(_room, file, nodes, free))


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Finding, bool]]:
    """Connect to the cluster while the block runs; yields what was found, and whether there is one."""
    from gptoss_ray.ranks.cluster_nodes import cluster_nodes, connect, disconnect  # noqa: PLC0415

    try:
        is_connected = connect(address)
    except UnavailableError as error:
        yield Finding("Ray cluster", False, error.message), False
        return
    if not is_connected:
        yield Finding("Ray cluster", True, "none to join here: this machine is judged"), False
        return
    try:
        addresses = sorted(node.address for node in cluster_nodes())
        yield Finding("Ray cluster", True, f"nodes: {', '.join(addresses)}"), True
    finally:
        disconnect()


def _ports(file: ServeFile) -> str:
    from gptoss_ray.serving.preflight import check_ports  # noqa: PLC0415

    check_ports(file)
    return f"HTTP {file.schema.http_options.port} and gRPC {file.schema.grpc_options.port} are free"


def _room(file: ServeFile, nodes: list[NodeResources], free: list[NodeResources]) -> str:
    from gptoss_ray.ranks.rank_placement import GroupPlacement  # noqa: PLC0415
    from gptoss_ray.serving.preflight import check_placement  # noqa: PLC0415

    check_placement(file, nodes)
    found = "; ".join(f"{model.name}: {GroupPlacement.of(model)}" for model in file.serving.models)
    try:
        check_placement(file, free)
    except ConfigError as error:
        return f"{found}. Not while others use the nodes: {error.message}"
    return found


def _backend(model: ServedModelConfig) -> str:
    from gptoss_ray.kernels.backend import select_backend  # noqa: PLC0415

    backend = select_backend(model.engine, _shape(model), model.parallel.device)
    return f"{backend.name}: {backend.reason}"


def _wires(model: ServedModelConfig) -> str:
    """Check what the ranks of a group exchange tokens through."""
    from gptoss_ray.parallel.shared_memory import require_ordered_stores  # noqa: PLC0415

    parallel = model.parallel
    num_here = parallel.num_ranks_per_node
    found = []
    if parallel.device == "cpu" and parallel.shared_memory and num_here > 1:
        require_ordered_stores()
        found.append(f"shared memory between {num_here} ranks of a node")
    if not found or parallel.num_nodes > 1:
        if importlib.util.find_spec("deepspeed") is None:
            raise ConfigError(
                "the package deepspeed is not installed; install it with `pip install deepspeed`."
            )
        found.append(f"deepspeed.comm over {'gloo' if parallel.device == 'cpu' else 'nccl'}")
    if parallel.collectives == "symmetric_memory":
        found.append("symmetric memory of the node's cards (tried when the ranks meet)")
    return ", ".join(found)


def _checkpoint(model: ServedModelConfig) -> str:
    from gptoss_ray.serving.preflight import check_checkpoint  # noqa: PLC0415

    folder = _folder_here(model.checkpoint)
    check_checkpoint(model.model_copy(update={"checkpoint": str(folder)}))
    return str(folder)


def _folder_here(source: str) -> Path:
    """Return the folder of a checkpoint without fetching it; CheckpointError where it is not here."""
    if source == DEMO or Path(source).expanduser().is_dir():
        return resolve_folder(source)
    # Imported here: local folders must not pay for the client's import.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{source} is no folder and not in the hub's cache here; "
            f"`gptoss-ray checkpoint verify {source}` fetches and checks it."
        ) from error


def _memory(file: ServeFile) -> str:
    from gptoss_ray.serving.preflight import check_memory  # noqa: PLC0415

    return "\n".join(check_memory(file, shape_of=_shape))


def _shape(model: ServedModelConfig) -> ModelConfig:
    """Return a model's shape, also of a published model that was not fetched yet."""
    try:
        return ModelConfig.from_folder(_folder_here(model.checkpoint))
    except CheckpointError:
        name = model.checkpoint.removeprefix("openai/")
        if name not in ("gpt-oss-20b", "gpt-oss-120b"):
            raise
        return ModelConfig.published(name)
