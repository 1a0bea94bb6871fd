"""Which kernels run here, why, and the fingerprint within which results are equal to the bit (law 1).

Only what computes imports torch: the choice is also made where memory is planned.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_ray.checkpoint.model_config import MXFP4_BLOCK, ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.native.library import NativeLibrary, find_library

if TYPE_CHECKING:
    from gptoss_ray.kernels.native.native_kernels import NativeKernels
    from gptoss_ray.kernels.reference_kernels import ReferenceKernels
    from gptoss_ray.kernels.triton.triton_kernels import TritonKernels

_REFERENCE, _TRITON = "torch-reference", "triton"
# Raised whenever a change of the Triton kernels changes the bits of their results.
_TRITON_KERNELS_VERSION = 1
# What the Triton attention kernel is written for: query heads that share a KV head, and sizes of a head.
_MAX_TRITON_GROUP, _TRITON_HEAD_DIMS = 64, (16, 32, 64, 128)
_OLDEST_ARCHITECTURE = (9, 0)
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
        """Whether it is the C++ library for CPUs."""
        return self.library is not None

    @property
    def is_reference(self) -> bool:
        """Whether it is plain torch."""
        return self.name == _REFERENCE

    @property
    def is_triton(self) -> bool:
        """Whether it is for GPUs."""
        return self.name == _TRITON


def select_backend(engine: EngineConfig, model: ModelConfig, device: str = "cpu") -> Backend:
    """Choose the kernels for a model on a device.

    Raises:
        ConfigError: There are none on `device`, or what the configuration demands of them cannot be had;
            the message says why and what would mend it.
    """
    if device == "cuda":
        return _select_triton(engine, model)
    if device != "cpu":
        raise ConfigError(f"device {device!r} has no kernels; use 'cpu' or 'cuda'.", param="device")
    _refuse_what_is_for_gpus(engine)
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
    return Backend(_REFERENCE, problem, str(_REFERENCE_VERSION))


def make_kernels(
    backend: Backend, engine: EngineConfig, *, unpacks_mxfp4: bool
) -> NativeKernels | ReferenceKernels | TritonKernels:
    """Return a rank's kernels: native ones with threads of their own, those for GPUs on this process' card.

    Args:
        backend: What was chosen.
        engine: For which configuration.
        unpacks_mxfp4: Whether the reference unpacks MXFP4 weights once and for all; others never do.

    Raises:
        ConfigError: They are for a GPU, and there is none, or an old one.
    """
    import torch  # noqa: PLC0415

    if backend.is_triton:
        _gpu_architecture()
        from gptoss_ray.kernels.triton.tile_table import TileTable  # noqa: PLC0415
        from gptoss_ray.kernels.triton.triton_kernels import TritonKernels  # noqa: PLC0415

        tiles = TileTable.load(tile_table_path())
        return TritonKernels(
            "cuda", tiles, dense_weights=engine.dense_weights, dense_matmuls=engine.dense_matmuls
        )

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

    if backend.is_triton:
        return (
            f"{backend.name}/{backend.build};torch={torch.__version__};{_gpu_architecture()};{engine.dtype};"
            f"kv_block={engine.kv_block_size};kv={engine.kv_cache_dtype};dense={engine.dense_weights};"
            f"matmuls={engine.dense_matmuls}"
        )
    capability = torch.backends.cpu.get_cpu_capability()
    formats = f";dense={engine.dense_weights};activations={engine.activations}" if backend.is_native else ""
    return (
        f"{backend.name}/{backend.build};torch={torch.__version__};{platform.machine()};{capability};"
        f"{engine.dtype};kv_block={engine.kv_block_size}{formats}"
    )


def tile_table_path() -> Path:
    """Return where measured tiles for this process' GPU are kept; ConfigError without one. Imports torch."""
    import torch  # noqa: PLC0415

    _gpu_architecture()
    from gptoss_ray.kernels.triton.tile_table import table_path  # noqa: PLC0415

    return table_path(torch.cuda.get_device_name(), importlib.metadata.version("triton"))


def _refuse_what_is_for_gpus(engine: EngineConfig) -> None:
    """Raise ConfigError where a configuration for CPUs asks for what only GPUs do."""
    for field, value, other in (
        ("kernels", "triton", "auto"),
        ("kv_cache_dtype", "fp8", "auto"),
        ("dense_matmuls", "cublas", "batch_invariant"),
    ):
        if getattr(engine, field) == value:
            raise ConfigError(
                f"engine.{field} is {value!r}, which is for GPUs: set it to {other!r}, or parallel.device "
                "to 'cuda'.",
                param=field,
            )


def _select_triton(engine: EngineConfig, model: ModelConfig) -> Backend:
    """Return the kernels for GPUs, if they are installed and take this model and configuration."""
    if engine.kernels not in ("auto", "triton"):
        raise ConfigError(
            f"engine.kernels is {engine.kernels!r}, which computes on CPUs; on GPUs use 'auto' or 'triton'.",
            param="kernels",
        )
    for field in ("dtype", "activations"):
        value = getattr(engine, field)
        if value != "bfloat16":
            raise ConfigError(f"engine.{field} is {value!r}; GPUs compute in bfloat16 only.", param=field)
    if engine.dense_weights == "int8" and model.expert_format != "mxfp4":
        raise ConfigError(
            "engine.dense_weights is 'int8', and the checkpoint's experts are not in MXFP4; GPUs hold such "
            "experts in bfloat16 only: set dense_weights to bfloat16.",
            param="dense_weights",
        )
    check_dense_matmuls(engine)
    problem = _triton_misfit(model)
    if problem is not None:
        raise ConfigError(problem, param="device")
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            "parallel.device is 'cuda', but Triton is not installed; torch's builds for CUDA bring it.",
            param="device",
        ) from None
    build = f"{_TRITON_KERNELS_VERSION};triton={version}"
    return Backend(_TRITON, f"ranks have GPUs, and Triton {version} is installed", build)


def check_dense_matmuls(engine: EngineConfig) -> None:
    """Raise ConfigError where the faster mode cannot multiply, or would break what another field promises."""
    if engine.dense_matmuls == "batch_invariant":
        return
    for field, other, why in (
        ("dense_weights", "bfloat16", "which multiplies weights in bfloat16 only"),
        ("speculation", "off", "with which answers would depend on what was guessed"),
    ):
        value = getattr(engine, field)
        if value not in (other, "auto"):
            raise ConfigError(
                f"engine.dense_matmuls is 'cublas', {why}, and engine.{field} is {value!r}: set it to "
                f"{other!r}, or dense_matmuls to 'batch_invariant'.",
                param="dense_matmuls",
            )


def _triton_misfit(model: ModelConfig) -> str | None:
    """Return what of a model's shape the Triton kernels do not take."""
    if model.head_dim not in _TRITON_HEAD_DIMS:
        return f"GPUs take a head_dim of {_TRITON_HEAD_DIMS}, and the model's is {model.head_dim}."
    group = model.num_attention_heads // model.num_key_value_heads
    if group > _MAX_TRITON_GROUP:
        return f"GPUs take up to {_MAX_TRITON_GROUP} query heads for each KV head, and the model has {group}."
    return None


def _gpu_architecture() -> str:
    """Return the architecture of this process' card, as "sm_90". Imports torch.

    Raises:
        ConfigError: There is none, or an old one.
    """
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        raise ConfigError("parallel.device is 'cuda', but torch finds no GPU here.", param="device")
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST_ARCHITECTURE:
        raise ConfigError(
            f"the GPU here has architecture {capability[0]}.{capability[1]}; it must be 9.0 or later.",
            param="device",
        )
    return f"sm_{capability[0]}{capability[1]}"


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
