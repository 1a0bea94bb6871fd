"""All inputs of a step in one piece of memory, laid out alike on the host and on the device.

So a step takes one copy from the host, and a graph finds its inputs where they always are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

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
    """Views of one piece of memory. Attributes of ForwardBatch and DrawRows, and:

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
    uniforms: Tensor
    top_ks: Tensor
    temperatures: Tensor
    top_ps: Tensor
    min_ps: Tensor
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


def _layout(shape: StepShape) -> Iterator[tuple[str, torch.dtype, tuple[int, ...], int]]:
    """Yield name, dtype, sizes and bytes of each buffer, in their order in memory."""
    of_token, of_logits = (shape.num_tokens,), (shape.num_logits,)
    tables = (shape.num_sequences, shape.num_blocks)
    dtypes = {"uniforms": torch.float64, "temperatures": torch.float32}
    dtypes |= dict.fromkeys(("top_ps", "min_ps"), torch.float32)
    dtypes |= dict.fromkeys(("block_tables_full", "block_tables_window"), torch.int32)
    for name in (field.name for field in fields(StepBuffers)):
        dtype = dtypes.get(name, torch.int64)
        sizes = tables if dtype == torch.int32 else of_logits if name in _OF_LOGITS else of_token
        yield name, dtype, sizes, dtype.itemsize * torch.Size(sizes).numel()


_OF_LOGITS = {"logits_rows", "uniforms", "top_ks", "temperatures", "top_ps", "min_ps"}


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
