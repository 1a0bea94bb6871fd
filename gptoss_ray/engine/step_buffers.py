"""All inputs of a step in one piece of memory, laid out alike on the host and on the device.

So a step takes one copy from the host, and a graph finds its inputs where they always are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from gptoss_ray.kernels.device_sampler import DrawInputs
from gptoss_ray.model.forward_batch import ForwardBatch

_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class StepShape:
    """Sizes that fix the layout: T tokens of S sequences with B blocks, of which L rows give logits.

    Attributes:
        num_tokens: T.
        num_sequences: S, rows of the block tables.
        num_blocks: B, columns of the block tables.
        num_logits: L.
    """

    num_tokens: int
    num_sequences: int
    num_blocks: int
    num_logits: int

    @classmethod
    def of_decoding(cls, num_rows: int, num_blocks: int) -> StepShape:
        """Return that of a step with one token of each sequence, each of which draws one."""
        return cls(num_rows, num_rows, num_blocks, num_rows)

    @property
    def num_bytes(self) -> int:
        """Of all buffers."""
        return sum(_aligned(num_bytes) for _, _, _, num_bytes in _layout(self))


@dataclass(frozen=True)
class StepBuffers:
    """Views of one piece of memory. Attributes of `ForwardBatch` and `DrawInputs`, and:

    Attributes:
        sources: int64 [T], which draw of the step before a token is; -1: it is in `token_ids`.
    """

    token_ids: Tensor
    sources: Tensor
    positions: Tensor
    sequence_index: Tensor
    slot_mapping_full: Tensor
    slot_mapping_window: Tensor
    logits_rows: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor
    block_tables_full: Tensor
    block_tables_window: Tensor

    @classmethod
    def over(cls, memory: Tensor, shape: StepShape) -> StepBuffers:
        """Lay buffers of `shape` over uint8 memory that is large enough."""
        views, offset = {}, 0
        for name, dtype, sizes, num_bytes in _layout(shape):
            views[name] = memory[offset : offset + num_bytes].view(dtype).view(sizes)
            offset += _aligned(num_bytes)
        return cls(**views)

    def batch(self, token_ids: Tensor) -> ForwardBatch:
        """Return what the network is given, with the tokens that the step before has drawn among them."""
        return ForwardBatch(
            token_ids=token_ids,
            positions=self.positions,
            sequence_index=self.sequence_index,
            slot_mapping_full=self.slot_mapping_full,
            slot_mapping_window=self.slot_mapping_window,
            block_tables_full=self.block_tables_full,
            block_tables_window=self.block_tables_window,
            logits_rows=self.logits_rows,
        )

    def draws(self, num_draws: int) -> DrawInputs:
        """Return what the sampler is given of the first rows of logits."""
        return DrawColumns(*(getattr(self, name)[:num_draws] for name in DRAW_COLUMNS))


class DrawColumns(NamedTuple):
    """See `DrawInputs`."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor


DRAW_COLUMNS = DrawColumns._fields

_OF_LOGITS = {"logits_rows", *DRAW_COLUMNS}
_TABLES = {"block_tables_full", "block_tables_window"}
_DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float64,
    "min_p": torch.float32,
    "uniform": torch.float64,
    **dict.fromkeys(_TABLES, torch.int32),
}


def _layout(shape: StepShape) -> Iterator[tuple[str, torch.dtype, tuple[int, ...], int]]:
    """Yield name, dtype, sizes and bytes of each buffer, in their order in memory."""
    for name in (field.name for field in fields(StepBuffers)):
        dtype = _DTYPES.get(name, torch.int64)
        sizes: tuple[int, ...] = (shape.num_logits if name in _OF_LOGITS else shape.num_tokens,)
        if name in _TABLES:
            sizes = (shape.num_sequences, shape.num_blocks)
        yield name, dtype, sizes, dtype.itemsize * math.prod(sizes)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
