"""TritonAttention: attention over the paged cache, planned and computed without waiting for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape
from gptoss_ray.kernels.triton.attention_items import list_items_kernel
from gptoss_ray.kernels.triton.attention_kernel import attention_kernel

# Of a multiprocessor, shared by its programs.
_REGISTERS = 65_536


@dataclass(frozen=True)
class AttentionTiles:
    """Sizes of the attention kernel; lanes, keys and split are part of the numerics fingerprint.

    Attributes:
        lanes: Query rows times heads of a tile: the M of its matmuls, 64 for one wgmma.
        keys: Keys met at once.
        split: Keys, at absolute positions, that are attended to before their result joins the total.
        num_stages: Blocks of keys on their way at once.
        programs_per_processor: Programs that share a multiprocessor.
    """

    lanes: int = 64
    keys: int = 64
    split: int = 512
    num_stages: int = 3
    programs_per_processor: int = 3

    def __post_init__(self) -> None:
        assert self.split % self.keys == 0, "a split is made of whole blocks of keys"

    def rows(self, heads: HeadShape) -> int:
        """Rows of a tile: all lanes but those that a group of heads, filled up to a power of two, takes."""
        rows: int = self.lanes // triton.next_power_of_2(heads.num_heads // heads.num_kv_heads)
        assert 0 < rows <= self.keys, "a tile's rows lie in one block of keys"
        return rows


@dataclass(frozen=True)
class TritonAttentionPlan:
    """The rows, the shape of their heads, and what the kernel works on.

    Attributes:
        rows: Of the step, on the device.
        heads: Of the layer.
        block_size: Of the cache.
        items: int32 [T + slots, 4], see `list_items_kernel`.
        counts: int32 [2], how many of them there are.
    """

    rows: AttentionRows
    heads: HeadShape
    block_size: int
    items: Tensor
    counts: Tensor


class TritonAttention:
    """Attention over one KV cache. Not for two streams at once: they would share its workspace.

    Args:
        device: Where everything lives; a CPU under Triton's interpreter.
        tiles: Sizes of the kernel.
        max_slots: Room for parts of rows whose splits go to several programs, one a row and split. Rows that
            find none left go through their splits in one program, with the same results.
    """

    def __init__(
        self, device: torch.device, tiles: AttentionTiles | None = None, *, max_slots: int = 4096
    ) -> None:
        self.tiles = tiles or AttentionTiles()
        self._device = device
        self._max_slots = max_slots
        self._num_programs = _num_processors(device) * self.tiles.programs_per_processor
        self._workspace: tuple[Tensor, Tensor, Tensor] | None = None

    def workspace_bytes(self, heads: HeadShape) -> int:
        """Return the device memory that layers with such heads take beside weights and cache."""
        per_slot = 4 * (heads.num_heads * (heads.head_dim + 2) + heads.num_kv_heads)
        return self._max_slots * per_slot

    def plan(self, rows: AttentionRows, heads: HeadShape, block_size: int) -> TritonAttentionPlan:
        """List the work of the layers of one kind; two launches, no answer from the device."""
        num_rows = len(rows.positions)
        items = torch.empty((num_rows + self._max_slots, 4), dtype=torch.int32, device=self._device)
        counts = torch.zeros(2, dtype=torch.int32, device=self._device)
        max_splits = -(-rows.block_table.shape[1] * block_size // self.tiles.split)
        if num_rows:
            list_items_kernel[(num_rows,)](
                rows.positions,
                rows.sequence_index,
                items,
                counts,
                num_rows,
                self._max_slots,
                WINDOW=rows.window or 0,
                ROWS=self.tiles.rows(heads),
                SPLIT=self.tiles.split,
                MAX_SPLITS=triton.next_power_of_2(max(1, max_splits)),
                num_warps=1,
            )
        return TritonAttentionPlan(rows, heads, block_size, items, counts)

    def attend(
        self, q: Tensor, plan: TritonAttentionPlan, keys: Tensor, values: Tensor, sinks: Tensor
    ) -> Tensor:
        """Attend from rotated q [T, heads · D], with k and v of all rows in the cache → [T, heads · D]."""
        attended = torch.empty_like(q)
        if len(q):
            self._attend(q, plan, keys, values, sinks, attended)
        return attended

    def _attend(
        self,
        q: Tensor,
        plan: TritonAttentionPlan,
        keys: Tensor,
        values: Tensor,
        sinks: Tensor,
        attended: Tensor,
    ) -> None:
        heads, rows, tiles = plan.heads, plan.rows, self.tiles
        parts, part_weights, arrivals = self._slots(heads)
        attention_kernel[(self._num_programs,)](
            q,
            keys,
            values,
            attended,
            sinks,
            rows.positions,
            rows.sequence_index,
            rows.block_table,
            plan.items,
            plan.counts,
            parts,
            part_weights,
            arrivals,
            rows.block_table.stride(0),
            heads.head_dim**-0.5 * math.log2(math.e),
            NUM_HEADS=heads.num_heads,
            KV_HEADS=heads.num_kv_heads,
            GROUP=heads.num_heads // heads.num_kv_heads,
            D=heads.head_dim,
            BLOCK_SIZE=plan.block_size,
            WINDOW=rows.window or 0,
            ROWS=tiles.rows(heads),
            LANES=tiles.lanes,
            KEYS=tiles.keys,
            SPLIT=tiles.split,
            STAGES=tiles.num_stages,
            num_warps=4,
            maxnreg=_REGISTERS // (tiles.programs_per_processor * 4 * 32) // 8 * 8,
            enable_fp_fusion=False,
        )

    def _slots(self, heads: HeadShape) -> tuple[Tensor, Tensor, Tensor]:
        """Return parts, their weights, and arrivals, made when the first layer asks (before any capture)."""
        if self._workspace is None:
            shape, device = (self._max_slots, heads.num_heads), self._device
            self._workspace = (
                torch.empty((*shape, heads.head_dim), dtype=torch.float32, device=device),
                torch.empty((*shape, 2), dtype=torch.float32, device=device),
                torch.zeros((self._max_slots, heads.num_kv_heads), dtype=torch.int32, device=device),
            )
        return self._workspace


def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
