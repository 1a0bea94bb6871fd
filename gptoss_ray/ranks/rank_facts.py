"""What a rank tells the group before it loads: where it is, what memory it finds, how it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import ray

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.manifest import MANIFEST_NAME, check_manifest, read_manifest
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import CheckpointError, ConfigError
from gptoss_ray.kernels.backend import numerics_fingerprint, select_backend
from gptoss_ray.model.host_memory import host_memory_bytes


@dataclass(frozen=True, slots=True)
class RankFacts:
    """A rank's circumstances.

    Attributes:
        host_id: Equal for ranks that can share memory: Ray's id of their node.
        address: Of the node, as other nodes reach it.
        free_memory_bytes: Main memory of the node that nobody uses yet.
        fingerprint: What the bits of results depend on (law 1); equal on all ranks of a group.
        checkpoint: What its copy of the checkpoint has in common with others; equal on all ranks of a group.
        is_native: Whether native kernels will run, which hold weights in other formats than torch.
        free_card_bytes: Memory of the rank's card that nobody uses yet; None: it computes on CPUs.
    """

    host_id: str
    address: str
    free_memory_bytes: int
    fingerprint: str
    checkpoint: str
    is_native: bool
    free_card_bytes: int | None = None


def read_facts(config: ServedModelConfig) -> RankFacts:
    """Collect the facts of this process, which is a rank of `config`. Imports torch.

    Raises:
        ConfigError: The kernels that it asks for cannot run here.
        CheckpointError: The checkpoint is missing or wrong.
    """
    from gptoss_ray.checkpoint.fingerprint import content_identity  # noqa: PLC0415  (imports torch)

    backend = select_backend(config.engine, read_shape(config), config.parallel.device)
    return RankFacts(
        host_id=ray.get_runtime_context().get_node_id(),
        address=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
        free_memory_bytes=free_memory_bytes(),
        fingerprint=numerics_fingerprint(backend, config.engine),
        checkpoint=content_identity(resolve_folder(config.checkpoint)),
        is_native=backend.is_native,
        free_card_bytes=free_card_bytes() if config.parallel.device == "cuda" else None,
    )


def read_shape(config: ServedModelConfig) -> ModelConfig:
    """Read the shape of a model from its checkpoint; CheckpointError where that is missing or wrong."""
    return ModelConfig.from_folder(resolve_folder(config.checkpoint))


def free_memory_bytes() -> int:
    """Return the main memory that nobody uses, at most what this container may use."""
    return min(psutil.virtual_memory().available, host_memory_bytes())


def free_card_bytes() -> int:
    """Return the memory of this process' card that nobody uses. Imports torch; never run on a GPU."""
    import torch  # noqa: PLC0415

    free_bytes, _ = torch.cuda.mem_get_info()
    return int(free_bytes)


def verify_files(checkpoint: str, progress: Callable[[int, int], None]) -> None:
    """Hash a checkpoint's files against its manifest, which must be there.

    Raises:
        CheckpointError: There is none, or of the first file that is not as it says.
    """
    folder = resolve_folder(checkpoint)
    if read_manifest(folder) is None:
        raise CheckpointError(
            f"{folder}: has no {MANIFEST_NAME}, which verify_files asks for; write it with "
            "`gptoss-ray checkpoint manifest` where the files are known to be right, and copy it with them"
        )
    for defect in check_manifest(folder, progress):
        raise defect.to_error()


def check_fingerprints(facts: Sequence[RankFacts]) -> None:
    """Refuse ranks that would compute different bits, or from other weights.

    Raises:
        ConfigError: With the first two fingerprints that differ, and where they are.
        CheckpointError: With the first two checkpoints that differ, and where they are.
    """
    first = facts[0]
    for rank, other in enumerate(facts):
        if other.fingerprint != first.fingerprint:
            raise ConfigError(
                f"rank 0 on {first.address} computes as {first.fingerprint}, but rank {rank} on "
                f"{other.address} as {other.fingerprint}; answers would depend on the rank. Use nodes of one "
                "kind, with the same packages."
            )
        if other.checkpoint != first.checkpoint:
            raise CheckpointError(
                f"the checkpoint of rank 0 on {first.address} is {first.checkpoint[:16]}, but that of rank "
                f"{rank} on {other.address} is {other.checkpoint[:16]}; copy the same files to every node "
                "(`gptoss-ray checkpoint manifest` and `verify` tell which differ)."
            )
