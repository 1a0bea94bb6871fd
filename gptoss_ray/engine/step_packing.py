"""From a plan to the inputs of a step on a device: what the host knows of it, written to staging memory."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as ReadOnlySequence
from itertools import accumulate

import torch

from gptoss_ray.engine.draw import keyed_uniform
from gptoss_ray.engine.logit_adjustments import needs_adjustment
from gptoss_ray.engine.model_runner import build_batch
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.step_buffers import DRAW_COLUMNS, StepBuffers, StepShape
from gptoss_ray.engine.step_plan import ScheduledChunk, StepPlan
from gptoss_ray.generation import SamplingParams

DrawSources = Mapping[Sequence, int]
"""Which draw of the step before is a sequence's next token; of the sequences that drew in it."""

_OF_TOKENS = ("token_ids", "positions", "sequence_index", "slot_mapping_full", "slot_mapping_window")


def shape_of(plan: StepPlan) -> StepShape:
    """Return the shape of a plan as it is, without padding."""
    num_logits = plan.num_draws + sum(len(chunk.scored) for chunk in plan.chunks)
    num_blocks = max((len(chunk.sequence.blocks) for chunk in plan.chunks), default=0)
    return StepShape(plan.num_rows, len(plan.chunks), num_blocks, num_logits)


def is_decoding(shape: StepShape, num_draws: int) -> bool:
    """Whether each sequence of a step has one token, behind which another is drawn: a graph can hold that."""
    return shape.num_tokens == shape.num_sequences == shape.num_logits == num_draws


def is_unknown(chunk: ScheduledChunk) -> bool:
    """Whether the chunk ends with a token that the step before draws and the host has not read yet."""
    return chunk.end > chunk.sequence.num_tokens


def output_position(chunk: ScheduledChunk) -> int:
    """Place in the output of the first token that the chunk draws; those of its draft follow."""
    return chunk.sequence.num_output_tokens + is_unknown(chunk)


def num_host_draws(chunk: ScheduledChunk) -> int:
    """How many of the tokens that the chunk draws the host draws, the first ones; the device draws the rest.

    That depends on the request and the token's position alone, as law 1 wants it.
    """
    sequence, first = chunk.sequence, output_position(chunk)
    num_draws = 1 + len(chunk.draft)
    if sequence.request.params.logprobs is not None:
        return num_draws
    return sum(needs_adjustment(sequence, position) for position in range(first, first + num_draws))


def pack(plan: StepPlan, buffers: StepBuffers, block_size: int, sources: DrawSources) -> None:
    """Write the inputs of a plan; buffers may have room for more rows, which `pad` fills.

    Columns of block tables behind a sequence's blocks are left as they are: no row looks at them.

    Args:
        plan: What is computed.
        buffers: In staging memory.
        block_size: Of the KV cache.
        sources: Of the step before, where it was not read when this plan was made.
    """
    batch = build_batch(plan, block_size, len(buffers.token_ids))
    for name in _OF_TOKENS:
        getattr(buffers, name)[: batch.num_tokens] = getattr(batch, name)
    num_sequences, num_blocks = batch.block_tables_full.shape
    buffers.block_tables_full[:num_sequences, :num_blocks] = batch.block_tables_full
    buffers.block_tables_window[:num_sequences, :num_blocks] = batch.block_tables_window
    buffers.logits_rows[: len(batch.logits_rows)] = batch.logits_rows
    _pack_sources(plan.chunks, buffers, sources)
    _pack_draws([chunk for chunk in plan.chunks if chunk.draws_token], buffers)


def pad(buffers: StepBuffers, first: int, block_size: int, spare_block: int) -> None:
    """Fill a decoding step from row `first` on with rows that nobody wants.

    Each is the first token of a sequence in the spare block, so that it reads nothing but what padding wrote.
    """
    for name in ("token_ids", "positions", *DRAW_COLUMNS):
        getattr(buffers, name)[first:] = 0
    buffers.top_p[first:] = 1
    buffers.sources[first:] = -1
    rows = torch.arange(first, len(buffers.token_ids))
    buffers.sequence_index[first:] = rows
    buffers.logits_rows[first:] = rows
    for slots in (buffers.slot_mapping_full, buffers.slot_mapping_window):
        slots[first:] = spare_block * block_size
    for table in (buffers.block_tables_full, buffers.block_tables_window):
        table[first:, :1] = spare_block


def _pack_sources(
    chunks: ReadOnlySequence[ScheduledChunk], buffers: StepBuffers, sources: DrawSources
) -> None:
    ends = list(accumulate(chunk.num_rows for chunk in chunks))
    unknown = [
        (end - 1, sources[chunk.sequence])
        for end, chunk in zip(ends, chunks, strict=True)
        if is_unknown(chunk)
    ]
    buffers.sources.fill_(-1)
    if unknown:
        places, rows = torch.tensor(unknown).unbind(1)
        buffers.sources[places] = rows


def _pack_draws(chunks: ReadOnlySequence[ScheduledChunk], buffers: StepBuffers) -> None:
    draws = [
        (params.temperature, params.top_k, params.top_p, params.min_p, _uniform(params, position))
        for chunk, params in ((chunk, chunk.sequence.request.params) for chunk in chunks)
        for position in range(output_position(chunk), output_position(chunk) + 1 + len(chunk.draft))
    ]
    for name, values in zip(DRAW_COLUMNS, zip(*draws, strict=True), strict=bool(draws)):
        column = getattr(buffers, name)
        column[: len(values)] = torch.tensor(values, dtype=column.dtype)


def _uniform(params: SamplingParams, position: int) -> float:
    """Return what the token at a position of the output is drawn with; greedy draws look at none."""
    if params.temperature == 0.0:
        return 0.0
    return keyed_uniform(params.seed, params.choice_index, position)
