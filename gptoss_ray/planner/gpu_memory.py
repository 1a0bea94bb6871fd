"""What a GPU holds besides weights and KV: buffers that stay, graphs, and the peak of a step.

The figures follow `engine/device_executor.py` and `kernels/triton/`; what is marked so is an assumption.
Never compared with a GPU.
"""

from __future__ import annotations

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.planner.buffers import expert_rows, padded_rows

GRAPH_BYTES = 4 << 20
"""Of one graph's nodes on the device: an assumption."""

_BF16, _FLOAT32, _INT64, _INT32 = 2, 4, 8, 4
# Rows of logits for prompt tokens (engine/step_plan.py), slots for parts of attention (kernels/triton/).
MAX_SCORED_TOKENS = 64
ATTENTION_SLOTS = 4096


def lasting_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return what stays from step to step: inputs, logits, drawn tokens, attention's parts, graphs."""
    logits = _max_num_logits(engine) * model.vocab_size * _FLOAT32
    drawn = 2 * (engine.max_num_sequences + engine.max_drafted_tokens) * _INT64
    per_slot = model.num_attention_heads * (model.head_dim + 2) + model.num_key_value_heads
    parts = ATTENTION_SLOTS * per_slot * _FLOAT32
    graphs = 0
    if engine.step_graphs:
        graphs = num_graphs(engine.max_num_sequences) * GRAPH_BYTES + _shared_bytes(model, engine, parallel)
    return input_bytes(model, engine) + logits + drawn + parts + graphs


def _shared_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return what graphs of a group keep between them for the experts of all rows that could come."""
    num_rows = min(padded_rows(model, engine, parallel), parallel.num_ranks * engine.max_num_sequences)
    slots = num_rows * model.num_experts_per_token
    return slots * (2 * model.hidden_size + model.intermediate_size) * _BF16


def input_bytes(model: ModelConfig, engine: EngineConfig) -> int:
    """Return the bytes of a step's inputs: six numbers a token, as many a row of logits, two block tables."""
    num_sequences = engine.max_num_sequences
    num_tokens = max(engine.max_num_batched_tokens, num_sequences)
    num_blocks = -(-(engine.max_context or model.max_context) // engine.kv_block_size)
    of_logits = _max_num_logits(engine) * (3 * _INT64 + 3 * _INT32)
    return 6 * num_tokens * _INT64 + of_logits + 2 * num_sequences * num_blocks * _INT32


def _max_num_logits(engine: EngineConfig) -> int:
    return engine.max_num_sequences + engine.max_drafted_tokens + MAX_SCORED_TOKENS


def num_graphs(num_sequences: int) -> int:
    """Return more than there are (`engine/graph_shapes.py`), by little."""
    return 3 * (20 + num_sequences // 32)


def step_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return the peak of the largest step: the residual stream, and the larger of attention and experts.

    In a group rows are grouped before the experts see them: as many as come, or all that could, where a step
    is padded and the host does not know how many do.
    """
    num_tokens, hidden = engine.max_num_batched_tokens, model.hidden_size
    query = model.num_attention_heads * model.head_dim
    qkv = query + 2 * model.num_key_value_heads * model.head_dim
    slots, num_grouped = num_tokens * model.num_experts_per_token, 0
    if parallel.num_ranks > 1:
        padded_slots = padded_rows(model, engine, parallel) * model.num_experts_per_token
        slots = num_grouped = max(expert_rows(model, engine, parallel), padded_slots)
    # Rotations of the rows stay for all layers.
    lasting = num_tokens * (hidden * _BF16 + model.head_dim * _FLOAT32)
    attention = num_tokens * (hidden + qkv + query) * _BF16
    in_and_out = (num_tokens + num_grouped + slots) * hidden
    experts = (in_and_out + slots * model.intermediate_size) * _BF16
    logits = _max_num_logits(engine) * model.vocab_size * _FLOAT32
    return lasting + max(attention, experts, logits)
