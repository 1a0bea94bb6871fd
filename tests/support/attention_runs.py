"""AttentionRun: batches of rows through the Triton attention over one cache, as an engine sends them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kernels.triton.attention import AttentionTiles, TritonAttention, TritonAttentionPlan
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.matrix import TritonMatrix, pack_values
from gptoss_ray.kernels.triton.qkv import QkvProjection
from tests.support.paged_rows import PagedRows, Row


class AttentionRun:
    """A cache that batches of rows go through, one after the other.

    Attributes:
        keys: Of the cache.
        values: Of the cache.
    """

    def __init__(
        self,
        paged: PagedRows,
        window: int | None,
        device: torch.device,
        *,
        tiles: AttentionTiles | None = None,
        max_slots: int = 1 << 10,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.paged, self.window, self.device = paged, window, device
        self.kernels = TritonAttention(device, tiles, max_slots=max_slots)
        self.keys, self.values = (cache.to(device) for cache in paged.cache(dtype))
        self._qkv = QkvProjection(ArrivalCounters(device))
        # The rows are their own q, k and v.
        identity = torch.eye(len(paged.qkv[0, 0]))
        self._matrix = TritonMatrix(tuple(identity.shape), pack_values(identity, device))

    def __call__(self, rows: Sequence[Row]) -> Tensor:
        """Attend in one batch; [T, heads · D] on the CPU."""
        batch = on_device(self.paged.batch(rows, self.window), self.device)
        plan = self.kernels.plan(batch, self.paged.heads, self.paged.block_size)
        return self.attend(self.paged.stacked(rows).to(self.device), plan).cpu()

    def attend(self, qkv: Tensor, plan: TritonAttentionPlan) -> Tensor:
        """Attend with a plan, on the device."""
        q = self.project(qkv, plan)
        return self.kernels.attend(q, plan, self.keys, self.values, self.paged.sinks.to(self.device))

    def project(self, qkv: Tensor, plan: TritonAttentionPlan) -> Tensor:
        """Return rotated q; k and v go to the cache."""
        return self._qkv(qkv, self._matrix, plan.rows, plan.heads, self.keys, self.values)

    def whole(self) -> dict[Row, Tensor]:
        """Attend with all rows in one batch."""
        rows = [row for number in range(len(self.paged.lengths)) for row in self.paged.all_rows(number)]
        return dict(zip(rows, self(rows), strict=True))

    def assert_same_bits_in_chunks(
        self, expected: dict[Row, Tensor], sizes: Sequence[int], *, seed: int = 0
    ) -> None:
        """Send all rows through in batches of chunks of such sizes, one or none of each sequence."""
        numbers = range(len(self.paged.lengths))
        generator = random.Random(seed)
        done = [0 for _ in numbers]
        while done != self.paged.lengths:
            ends = [
                min(length, start + generator.choice(sizes))
                for start, length in zip(done, self.paged.lengths, strict=True)
            ]
            order = generator.sample(numbers, len(numbers))
            rows = [
                row for number in order for row in self.paged.all_rows(number, done[number], ends[number])
            ]
            for row, result in zip(rows, self(rows) if rows else [], strict=True):
                assert torch.equal(result, expected[row]), row
            done = ends


def on_device(rows: AttentionRows, device: torch.device) -> AttentionRows:
    """Return the rows on a device."""
    tensors = {field.name: getattr(rows, field.name) for field in fields(rows) if field.name != "window"}
    return replace(rows, **{name: tensor.to(device) for name, tensor in tensors.items()})


def reference_attention(paged: PagedRows, window: int | None, rows: Sequence[Row]) -> Tensor:
    """Return the same in float32, of rows that come with all rows before them."""
    kernels = ReferenceKernels(torch.float32)
    plan = kernels.plan_attention(paged.batch(rows, window), paged.heads, paged.block_size)
    keys, values = paged.cache(torch.float32)
    return kernels.attention(paged.stacked(rows).float(), plan, keys, values, paged.sinks)
