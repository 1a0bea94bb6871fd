"""What `triton_compile` launches: kernels at the published models' shapes, on meta tensors."""

from __future__ import annotations

import torch

from gptoss_ray.kernels.kernels import AttentionRows, Expert, Gate, HeadShape, Norm, SwiGLU
from gptoss_ray.kernels.triton.combine import combine
from gptoss_ray.kernels.triton.expert_table import TritonExperts
from gptoss_ray.kernels.triton.experts import ExpertMatmuls, InPlace
from gptoss_ray.kernels.triton.gate import choose_experts
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.matrix import TritonMatrix
from gptoss_ray.kernels.triton.norm import rms_norm
from gptoss_ray.kernels.triton.qkv import QkvProjection
from gptoss_ray.kernels.triton.routing import route
from gptoss_ray.kernels.triton.tiles import rows_per_tile

META = torch.device("meta")
HIDDEN = 2880


def values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, dtype=dtype, device=META)


def norm_weights() -> Norm:
    """Return a norm of the published models."""
    return Norm(values(HIDDEN, dtype=torch.float32), 1e-5)


def dense(n: int, k: int, *, bias: bool = True, is_wide: bool = False, is_int8: bool = False) -> TritonMatrix:
    """Return a dense weight."""
    tensors = {"bias": values(n, dtype=torch.float32)} if bias else {}
    if is_int8:
        tensors["weight"] = values(n, k, dtype=torch.int8)
        tensors["scales"] = values(-(-k // 128) * 2, n, dtype=torch.int32)
    else:
        tensors["weight"] = values(n, k)
    return TritonMatrix((n, k), tensors, is_wide)


def linear(*, is_int8: bool = False) -> None:
    """qkv, out and unembedding, of few rows and of many."""
    multiply = Linear(ArrivalCounters(META))
    qkv, out = dense(5120, HIDDEN, is_int8=is_int8), dense(HIDDEN, 4096, is_int8=is_int8)
    unembedding = dense(201_088, HIDDEN, bias=False, is_wide=True, is_int8=is_int8)
    for num_rows in (1, 2048):
        multiply(values(num_rows, HIDDEN), qkv)
        multiply(values(num_rows, 4096), out, values(num_rows, HIDDEN))
        multiply(values(num_rows, HIDDEN), unembedding)


def linear_in_8_bits() -> None:
    """The same."""
    linear(is_int8=True)


def behind_cublas() -> None:
    """qkv and out of 2048 rows."""
    counters, num_rows = ArrivalCounters(META), 2048
    residual = values(num_rows, HIDDEN)
    Linear(counters, by_blas=True)(values(num_rows, 4096), dense(HIDDEN, 4096), residual)
    half, slots = values(num_rows, 32, dtype=torch.float32), values(num_rows, dtype=torch.int64)
    rows = AttentionRows(slots, slots, slots, slots, half, half, None)
    keys, caches = values(64, 8, 32, 64), values(64, 8, 32, 64)
    project = QkvProjection(counters, by_blas=True)
    project(values(num_rows, HIDDEN), dense(5120, HIDDEN), rows, HeadShape(64, 8, 64), keys, caches)


def expert(width: int = HIDDEN) -> Expert:
    """Return an expert in MXFP4."""

    def matrix(n: int, k: int) -> TritonMatrix:
        n_tiles, k_tiles = n // 64, -(-k // 128)
        tensors = {
            "codes": values(n_tiles, k_tiles, 64, 32, dtype=torch.int16),
            "scales": values(n_tiles, k_tiles, 64, dtype=torch.int32),
            "bias": values(n, dtype=torch.float32),
        }
        return TritonMatrix((n, k), tensors)

    return Expert(matrix(2 * width, HIDDEN), matrix(HIDDEN, width))


def experts() -> None:
    """The experts of one token, of 8, of 256 and of 2048."""
    table, multiply = TritonExperts.of([expert()] * 32, META), ExpertMatmuls(ArrivalCounters(META))
    swiglu = SwiGLU(1.702, 7.0)
    multiply(values(1, HIDDEN), 4, table, InPlace(values(1, 4, dtype=torch.int64)), swiglu)
    counts = values(32, dtype=torch.int32)
    for num_rows in (32, 1024, 8192):
        size = rows_per_tile(num_rows, 32)
        ids, ranks = values(num_rows, dtype=torch.int64), values(num_rows, dtype=torch.int32)
        multiply(
            values(num_rows // 4, HIDDEN), num_rows, table, route(counts, num_rows, size, ids, ranks), swiglu
        )


def gate() -> None:
    """The gates of both models, counting and not."""
    counters = ArrivalCounters(META)
    for num_experts in (32, 128):
        gate = Gate(
            values(num_experts, HIDDEN, dtype=torch.float32), values(num_experts, dtype=torch.float32), 4
        )
        for counts in (None, values(num_experts, dtype=torch.int32)):
            choose_experts(values(3, HIDDEN), norm_weights(), gate, counters, counts)


def norms() -> None:
    """All that norms rows before a matmul."""
    rms_norm(values(3, HIDDEN), norm_weights())
    slots, weights = values(3, 4, HIDDEN), values(3, 4, dtype=torch.float32)
    combine(values(3, HIDDEN), slots, weights, norm_weights())
    combine(values(3, HIDDEN), slots, weights)
