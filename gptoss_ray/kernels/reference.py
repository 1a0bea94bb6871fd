"""The torch reference kernels: the oracle of every faster backend, and the fallback where none runs.

Law 1 holds here by construction and is tested bit by bit. torch's own results for a row depend on the
batch (another row count takes another matmul path; the vector body and the scalar tail of `sigmoid`
differ), so:

- every matmul runs on tiles of exactly `TILE_ROWS` rows, and row counts are padded with zeros to whole tiles;
- float32 matmuls run on one thread: MKL, which computes them on Intel's processors, adds otherwise on two;
- reductions run over a dimension whose length depends on the model, never on the batch;
- elementwise operations are those that IEEE 754 rounds exactly, and `exp`, which torch maps over the
  tail of a buffer with the same vector code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

TILE_ROWS = 16


def pad_rows(x: Tensor) -> Tensor:
    """Return x [T, ...] with zero rows appended up to a multiple of `TILE_ROWS`."""
    missing = -x.shape[0] % TILE_ROWS
    return torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias: x [T, K], weight [N, K], bias [N] → [T, N], rounded once.

    T must be a multiple of `TILE_ROWS`; all dtypes are equal.
    """
    assert x.shape[0] % TILE_ROWS == 0, "pad the rows to whole tiles first"
    if out is None:
        out = x.new_empty(x.shape[0], weight.shape[0])
    transposed = weight.t()
    with _one_order_of_sums(x.dtype):
        for rows, result in zip(_tiles(x), _tiles(out), strict=True):
            if bias is None:
                torch.mm(rows, transposed, out=result)
            else:
                torch.addmm(bias, rows, transposed, out=result)
    return out


@contextmanager
def _one_order_of_sums(dtype: torch.dtype) -> Iterator[None]:
    num_threads = torch.get_num_threads()
    if dtype != torch.float32 or num_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _tiles(x: Tensor) -> tuple[Tensor, ...]:
    """Return the tiles [TILE_ROWS, K] of x [T, K]."""
    return x.view(x.shape[0] // TILE_ROWS, TILE_ROWS, x.shape[1]).unbind()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return weight · x / sqrt(mean(x²) + eps) for x [T, H] and a float32 weight [H]; float32 inside."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (weight * (wide * scale)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + D/2) of x [T, heads, D] by the angles of cos and sin [T, 1, D/2]; float32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def swiglu(gate_up: Tensor, *, alpha: float, limit: float) -> Tensor:
    """Return gate · sigmoid(alpha · gate) · (up + 1) for gate_up [T, 2·I] = [gates | ups] → [T, I].

    The gate is clamped above at `limit`, up to ±`limit`. float32 inside, rounded once.
    """
    gate, up = gate_up.float().chunk(2, dim=-1)
    gate = gate.clamp(max=limit)
    up = up.clamp(-limit, limit)
    # torch.sigmoid gives other bits in the tail of a buffer than in its body; exp does not.
    sigmoid = gate.mul(-alpha).exp_().add_(1).reciprocal_()
    return sigmoid.mul_(gate).mul_(up.add_(1)).to(gate_up.dtype)


def weighted_slot_sum(slots: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_k weights[:, k] · slots[:, k], in slot order and float32.

    slots [T, k, H], weights float32 [T, k] → [T, H].
    """
    total = slots[:, 0] * weights[:, :1]
    for slot in range(1, weights.shape[1]):
        total += slots[:, slot] * weights[:, slot : slot + 1]
    return total
