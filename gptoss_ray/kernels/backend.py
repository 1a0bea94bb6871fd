"""Which kernels run here, why, and the fingerprint within which results are equal to the bit (law 1).

Only what computes imports torch: the choice is also made where memory is planned.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptoss_ray.checkpoint.model_config import MXFP4_BLOCK, ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.native.library import NativeLibrary, find_library

if TYPE_CHECKING:
    from gptoss_ray.kernels.native.native_kernels import NativeKernels
    from gptoss_ray.kernels.reference_kernels import ReferenceKernels

# Raised whenever a change of the reference kernels changes the bits of their results.
_REFERENCE_VERSION = 2
# What the native attention kernel is written for.
_HEAD_DIM_MULTIPLE, _MAX_HEAD_DIM = 16, 256


@dataclass(frozen=True)
class Backend:
    """A choice of kernels.

    Attributes:
        name: As `Kernels.name`.
        reason: Why it was chosen: one sentence for the log.
        build: What tells its arithmetic from that of other versions.
        library: The native one; None: torch.
    """

    name: str
    reason: str
    build: str
    library: NativeLibrary | None = None

    @property
    def is_native(self) -> bool:
        """Whether it is not the torch reference."""
        return self.library is not None


def select_backend(engine: EngineConfig, model: ModelConfig, device: str = "cpu") -> Backend:
    """Choose the kernels for a model on a device.

    Raises:
        ConfigError: There are none on `device`, or what the configuration demands of them cannot be had;
            the message says why and what would mend it.
    """
    if device != "cpu":
        # torch's GPU kernels do not keep a row's bits across batches.
        raise ConfigError(f"device {device!r} has no kernels; use 'cpu'.", param="device")
    if engine.kernels == "torch":
        problem, found = "engine.kernels is 'torch'", None
    else:
        problem, found = _find_native(engine, model)
    if found is not None:
        if engine.activations == "int8" and engine.dense_weights != "int8":
            raise ConfigError(
                f"engine.activations is 'int8' and engine.dense_weights {engine.dense_weights!r}; 8-bit "
                "activations multiply 8-bit dense weights: set dense_weights to int8 too.",
                param="activations",
            )
        reason = f"the native library is built, and this CPU runs its {found.instruction_set} variant"
        if engine.activations == "int8":
            reason += ", with 8-bit activations"
        return Backend(f"native-{found.instruction_set}", reason, found.build_id, found)
    if engine.kernels == "native":
        raise ConfigError(f"engine.kernels is 'native', but {problem}.", param="kernels")
    for field, choice in (("dense_weights", engine.dense_weights), ("activations", engine.activations)):
        if choice != "bfloat16":
            raise ConfigError(
                f"engine.{field} is {choice!r}, which needs native kernels, but {problem}.", param=field
            )
    return Backend("torch-reference", problem, str(_REFERENCE_VERSION))


def make_kernels(
    backend: Backend, engine: EngineConfig, *, unpacks_mxfp4: bool
) -> NativeKernels | ReferenceKernels:
    """Return a rank's kernels, with threads of their own where they are native.

    Args:
        backend: What was chosen.
        engine: For which configuration.
        unpacks_mxfp4: Whether the reference unpacks MXFP4 weights once and for all; native ones never do.
    """
    import torch  # noqa: PLC0415

    if backend.library is not None:
        from gptoss_ray.kernels.native.native_kernels import NativeKernels  # noqa: PLC0415

        return NativeKernels(
            backend.library,
            num_threads=engine.num_threads,
            dense_weights=engine.dense_weights,
            activations=engine.activations,
            pin_threads=engine.pin_threads,
        )
    from gptoss_ray.kernels.reference_kernels import ReferenceKernels  # noqa: PLC0415

    return ReferenceKernels(getattr(torch, engine.dtype), unpacks_mxfp4=unpacks_mxfp4)


def numerics_fingerprint(backend: Backend, engine: EngineConfig) -> str:
    """Return what a result's bits depend on besides weights and request; equal strings, equal bits.

    The number of threads is not part of it: results do not depend on it (tested). torch is, with native
    kernels too: it computes rotary tables and draws. Imports torch.
    """
    import torch  # noqa: PLC0415

    capability = torch.backends.cpu.get_cpu_capability()
    formats = f";dense={engine.dense_weights};activations={engine.activations}" if backend.is_native else ""
    return (
        f"{backend.name}/{backend.build};torch={torch.__version__};{platform.machine()};{capability};"
        f"{engine.dtype};kv_block={engine.kv_block_size}{formats}"
    )


def _find_native(engine: EngineConfig, model: ModelConfig) -> tuple[str, NativeLibrary | None]:
    """Return the native library if it serves this model; else, in a clause, why it does not."""
    if engine.dtype != "bfloat16":
        return f"native kernels compute in bfloat16 and engine.dtype is {engine.dtype!r}", None
    problem = _misfit(model)
    if problem is not None:
        return problem, None
    found = find_library()
    return (found, None) if isinstance(found, str) else ("", found)


def _misfit(model: ModelConfig) -> str | None:
    """Return, in a clause, what of a model's shape the native kernels do not take."""
    inputs = {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_attention_heads * head_dim": model.num_attention_heads * model.head_dim,
    }
    for name, size in inputs.items():
        if size % MXFP4_BLOCK:
            return (
                f"native kernels take matrices with a multiple of {MXFP4_BLOCK} inputs, and {name} is {size}"
            )
    if model.head_dim % _HEAD_DIM_MULTIPLE or model.head_dim > _MAX_HEAD_DIM:
        return (
            f"native kernels take a head_dim that is a multiple of {_HEAD_DIM_MULTIPLE} up to "
            f"{_MAX_HEAD_DIM}, and the model's is {model.head_dim}"
        )
    return None
