"""Which kernels run here, why, and the fingerprint within which results are equal to the bit (law 1)."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from gptoss_ray.errors import ConfigError

# Raised whenever a change of the reference kernels changes the bits of their results.
_VERSION = 2


@dataclass(frozen=True)
class Backend:
    """A set of kernels: its name, and why it was picked (one sentence for the log)."""

    name: str
    reason: str


def select_backend(device: torch.device | str = "cpu") -> Backend:
    """Pick the kernels for `device`; ConfigError if there are none.

    Only the CPU is offered: torch's GPU kernels do not keep a row's bits across batches.
    """
    if torch.device(device).type != "cpu":
        raise ConfigError(f"device {str(device)!r} has no kernels; use 'cpu'.", param="device")
    return Backend("torch-reference", "plain torch runs on every CPU and no faster kernels are built")


def numerics_fingerprint(backend: Backend, dtype: torch.dtype, block_size: int) -> str:
    """Return what a result's bits depend on besides weights and request; equal strings, equal bits.

    The number of threads is not part of it: results do not depend on it (tested).

    Args:
        backend: The kernels.
        dtype: Of activations and KV.
        block_size: Tokens a KV block, the unit of attention's sums.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{backend.name}/{_VERSION};torch={torch.__version__};{platform.machine()};{capability};"
        f"{str(dtype).removeprefix('torch.')};kv_block={block_size}"
    )
