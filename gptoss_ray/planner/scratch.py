"""What native kernels keep for themselves: a buffer for each purpose, grown to the largest step.

The figures follow `kernels/native/src`, where `thread_pool.h` names the buffers; a test compares their sum
with what a real prompt leaves allocated. How rows are cut into tasks is small beside them.
"""

from __future__ import annotations

from collections.abc import Iterator

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.planner.buffers import expert_rows
from gptoss_ray.planner.weights import WeightFormat

_BFLOAT16, _FLOAT32, _INT64 = 2, 4, 8
# Buffers of this size and above are whole pages of it (thread_pool.cpp).
_HUGE_PAGE_BYTES = 2 << 20
# Keys that attention reduces on their own, and what all states of such splits may take for each thread
# (attention_load.inl, attention.inl).
_SPLIT_KEYS = 1024
_SPLIT_BYTES_PER_THREAD = 4 << 20
# Floats of a row's softmax state beside its values: the maxima, and sums in so many lanes for each head
# (softmax_state.inl).
_MAX_GROUP_HEADS, _LANES = 16, 16


def scratch_bytes(
    model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig, weight_format: WeightFormat
) -> int:
    """Return the bytes of all buffers of a rank's kernels after the largest step; 0 for those of torch."""
    if not weight_format.is_native:
        return 0
    buffers = (*_attention_buffers(model, engine), *_expert_buffers(model, engine, parallel))
    return sum(map(_held_bytes, (*buffers, _packed_rows(model, engine, parallel))))


def _attention_buffers(model: ModelConfig, engine: EngineConfig) -> Iterator[int]:
    """Yield normed rows, queries with keys and values, attended rows, and the states of shared splits."""
    num_tokens = engine.max_num_batched_tokens
    query_width = model.num_attention_heads * model.head_dim
    kv_width = model.num_key_value_heads * model.head_dim
    for width in (model.hidden_size, query_width + 2 * kv_width, query_width):
        yield num_tokens * width * _BFLOAT16

    group_heads = model.num_attention_heads // model.num_key_value_heads
    state_bytes = (_MAX_GROUP_HEADS + group_heads * (_LANES + model.head_dim)) * _FLOAT32
    num_splits = -(-(engine.max_context or model.max_context) // _SPLIT_KEYS)
    if num_splits > 1:
        all_states = num_tokens * num_splits * model.num_key_value_heads * state_bytes
        yield min(all_states, engine.num_threads * _SPLIT_BYTES_PER_THREAD)


def _expert_buffers(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> Iterator[int]:
    """Yield logits of the gate, gate and up, SwiGLU, and, on a rank alone, what else rows travel through."""
    yield engine.max_num_batched_tokens * model.num_experts * _FLOAT32
    num_rows = expert_rows(model, engine, parallel)
    widths = [2 * model.intermediate_size, model.intermediate_size]
    if parallel.num_ranks == 1:
        # Rows by expert and their results; in a group they come from other ranks, as torch's.
        widths += [model.hidden_size, model.hidden_size]
        # Expert, place and weight of each.
        yield num_rows * (2 * _INT64 + _FLOAT32)
    for width in widths:
        yield num_rows * width * _BFLOAT16


def _packed_rows(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return the bytes of the largest product's rows, in the order in which it reads them."""
    attended = engine.max_num_batched_tokens * model.num_attention_heads * model.head_dim
    width = max(model.hidden_size, model.intermediate_size)
    return max(attended, expert_rows(model, engine, parallel) * width) * _BFLOAT16


def _held_bytes(num_bytes: int) -> int:
    if num_bytes < _HUGE_PAGE_BYTES:
        return num_bytes
    return -(-num_bytes // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
