"""What lives only within a step: activations, and rows that travel between ranks.

The figures follow the reference kernels line by line (`kernels/reference_kernels.py`,
`kernels/paged_attention.py`); a test compares them with the peak of a real step. Of native kernels only what
they are given and return is counted here; `scratch.py` has their own buffers.
"""

from __future__ import annotations

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.planner.weights import WeightFormat

# A rank's experts are assumed to get at most this many times their even share of a step's rows.
MAX_SKEW = 4
_FLOAT32 = 4
_TILE_ROWS = 16
# Blocks that attention meets at once (kernels/attention_plan.py).
_SPAN_BLOCKS = 4
# Elements that attention gathers at once, unless a single row needs more, and of scores of several rows of
# a sequence (kernels/paged_attention.py).
_MAX_GATHERED_ELEMENTS = 1 << 24
_MAX_SCORE_ELEMENTS = 1 << 20
# A row carries the ids of its experts as int64, on a boundary of 8 bytes (parallel/token_rows.py).
_ID_BYTES = 8
# Between two ranks of a host, each way (parallel/shared_memory.py).
_MAILBOX_BYTES = 1 << 20


def row_bytes(model: ModelConfig, itemsize: int) -> int:
    """Return the bytes of one dispatched row: the activations of a token and the ids of its experts."""
    activations = -(-model.hidden_size * itemsize // _ID_BYTES) * _ID_BYTES
    return activations + model.num_experts_per_token * _ID_BYTES


def dispatch_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return the bytes of a layer's rows on their way out and back; 0 where nothing travels."""
    if parallel.num_ranks == 1:
        return 0
    exact, padded = _exact_bytes(model, engine, parallel), _padded_bytes(model, engine, parallel)
    has_mailboxes = parallel.shared_memory and parallel.device == "cpu"
    mailboxes = parallel.num_ranks_per_node * _MAILBOX_BYTES if has_mailboxes else 0
    shared = 2 * parallel.max_padded_bytes if parallel.collectives == "symmetric_memory" else 0
    return exact + padded + mailboxes + shared


def _exact_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Rows sent and received: at most one a slot, as a token travels once to each rank of its experts."""
    if parallel.dispatch == "padded":
        return 0
    num_rows = engine.max_num_batched_tokens * model.num_experts_per_token + expert_rows(
        model, engine, parallel
    )
    itemsize = _itemsize(engine)
    return num_rows * (row_bytes(model, itemsize) + model.hidden_size * itemsize)


def _padded_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Buffers sent and received of the largest step that is padded; they stay."""
    itemsize = _itemsize(engine)
    num_rows = padded_rows(model, engine, parallel)
    return 2 * num_rows * (row_bytes(model, itemsize) + _result_bytes(model, engine))


def padded_rows(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return the rows that a rank sends in the largest step that is padded: of each rank equally many."""
    if parallel.dispatch == "exact" or parallel.num_ranks == 1:
        return 0
    num_tokens = engine.max_num_batched_tokens
    if parallel.dispatch == "auto":
        bytes_per_token = parallel.num_ranks * _result_bytes(model, engine)
        num_tokens = min(num_tokens, parallel.max_padded_bytes // bytes_per_token)
    return parallel.num_ranks * num_tokens


def _result_bytes(model: ModelConfig, engine: EngineConfig) -> int:
    """Of what a token's experts make."""
    return model.num_experts_per_token * model.hidden_size * _itemsize(engine)


def activation_bytes(
    model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig, weight_format: WeightFormat
) -> int:
    """Return the peak of everything else in a step: residual stream, and the largest of its parts."""
    if weight_format.is_native:
        return _native_bytes(model, engine, parallel)
    assert not weight_format.is_triton, "see gpu_memory.py"
    num_tokens = _whole_tiles(engine.max_num_batched_tokens)
    # The stream, its norm and, while experts are summed, both again in float32.
    stream = num_tokens * model.hidden_size * (2 * _itemsize(engine) + 2 * _FLOAT32)
    return stream + max(
        _attention_bytes(model, engine, num_tokens),
        _expert_bytes(model, engine, parallel, experts_packed=weight_format.experts_packed),
        _whole_tiles(_num_logits(engine)) * (model.vocab_size + model.hidden_size) * _FLOAT32,
    )


def _num_logits(engine: EngineConfig) -> int:
    """Rows of logits of a step: one a sequence, one a token of its draft."""
    return engine.max_num_sequences + engine.max_drafted_tokens


def _native_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return the same for native kernels, which write over the residual stream and pad no rows."""
    itemsize, num_tokens, hidden = _itemsize(engine), engine.max_num_batched_tokens, model.hidden_size
    # Rotations of the rows stay for all layers; positions and slots are small beside them.
    lasting = num_tokens * (hidden * itemsize + model.head_dim * _FLOAT32)
    logits = _num_logits(engine) * (model.vocab_size * _FLOAT32 + hidden * itemsize)
    # Rows travel only in a group: normed, grouped by expert, their results, and the results that come home.
    num_rows = num_tokens * (1 + model.num_experts_per_token) + 2 * expert_rows(model, engine, parallel)
    travelling = num_rows * hidden * itemsize if parallel.num_ranks > 1 else 0
    return lasting + max(logits, travelling)


def _attention_bytes(model: ModelConfig, engine: EngineConfig, num_tokens: int) -> int:
    """Projections of the rows, what a piece's groups of rows gather, and the scores of one row of each."""
    itemsize, block = _itemsize(engine), engine.kv_block_size
    query_width = model.num_attention_heads * model.head_dim
    kv_width = model.num_key_value_heads * model.head_dim
    projections = num_tokens * (query_width + 2 * kv_width) * (2 * itemsize + 3 * _FLOAT32)

    blocks_per_group = -(-(engine.max_context or model.max_context) // block)
    block_elements = 2 * block * kv_width + model.num_attention_heads * (block + model.head_dim)
    num_group_starts = engine.max_num_sequences + engine.max_num_batched_tokens // (_SPAN_BLOCKS * block)
    num_groups = min(engine.max_num_batched_tokens, num_group_starts)
    num_blocks = max(blocks_per_group, _MAX_GATHERED_ELEMENTS // block_elements)
    num_blocks = min(num_blocks, num_groups * blocks_per_group)
    gathered = block * kv_width * (2 * _FLOAT32 + itemsize)
    # Of several rows of a group at once, as long as they are few; the values of a span are summed.
    scores_per_block = model.num_attention_heads * (block + model.head_dim) * _FLOAT32
    scores = min(
        num_tokens * blocks_per_group * scores_per_block,
        max(num_blocks * scores_per_block, 2 * _MAX_SCORE_ELEMENTS * _FLOAT32),
    )
    return projections + num_blocks * gathered + scores


def _expert_bytes(
    model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig, *, experts_packed: bool
) -> int:
    """Rows of the local experts (in, gate and up, in float32 for SwiGLU, out), and one unpacked matrix."""
    itemsize, width = _itemsize(engine), model.intermediate_size
    num_rows = expert_rows(model, engine, parallel)
    num_padded = num_rows + (_TILE_ROWS - 1) * min(num_rows, model.num_experts)
    per_row = 3 * model.hidden_size * itemsize + 3 * width * itemsize + 5 * width * _FLOAT32
    slots = engine.max_num_batched_tokens * model.num_experts_per_token * model.hidden_size * itemsize
    # Codes become int32 indices, then values, then scaled values: the larger of the two matrices.
    is_unpacked_at_use = experts_packed and model.expert_format == "mxfp4"
    matrix = 2 * width * model.hidden_size * (2 + 2 * itemsize) if is_unpacked_at_use else 0
    return num_padded * per_row + slots + matrix


def expert_rows(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig) -> int:
    """Return the rows that a rank's experts get: all ranks' tokens at most, MAX_SKEW even shares at most."""
    even_share = engine.max_num_batched_tokens * model.num_experts_per_token
    return even_share * min(parallel.num_ranks, MAX_SKEW)


def _itemsize(engine: EngineConfig) -> int:
    return 2 if engine.dtype == "bfloat16" else _FLOAT32


def _whole_tiles(num_rows: int) -> int:
    return -(-num_rows // _TILE_ROWS) * _TILE_ROWS
