"""What a decode step must read from memory, worked out from the shape: the bound of its speed.

Matrices are read once a step, but of the experts only those that a token of the step chose; keys and values
are read by each stream for itself. Activations, norms and biases of matrices are left out (under 0.1 %).
"""

from __future__ import annotations

from typing import Literal

from gptoss_ray.checkpoint.model_config import MXFP4_BITS, ModelConfig
from gptoss_ray.config import DENSE_BITS
from gptoss_ray.planner import kv

DenseFormat = Literal["bfloat16", "int8"]
ActivationFormat = Literal["bfloat16", "int8"]

_FLOAT32_BYTES = 4
_BF16_BYTES = 2


def dense_bytes(num_rows: int, num_columns: int, dense: DenseFormat) -> float:
    """Return the bytes of a dense matrix."""
    return num_rows * num_columns * DENSE_BITS[dense] / 8


def expert_bytes(config: ModelConfig) -> float:
    """Return the bytes of one expert's matrices as the native kernels hold them."""
    bits = MXFP4_BITS if config.expert_format == "mxfp4" else DENSE_BITS["bfloat16"]
    return 3 * config.intermediate_size * config.hidden_size * bits / 8


def kv_bytes(num_tokens: int, num_kv_heads: int, head_dim: int) -> int:
    """Return the bytes of the keys and values of so many tokens in one layer."""
    return 2 * num_tokens * num_kv_heads * head_dim * _BF16_BYTES


def decode_step_bytes(
    config: ModelConfig,
    dense: DenseFormat,
    num_streams: int,
    context: int,
    num_experts: float | None = None,
) -> float:
    """Return the bytes that a step of `num_streams` streams reads, each with `context` tokens behind it.

    `num_experts` is how many of a layer are chosen, on average; None: as `ModelConfig.expected_experts` says.
    """
    if num_experts is None:
        num_experts = config.expected_experts(num_streams)
    hidden = config.hidden_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    attention = dense_bytes(q_size + 2 * kv_size, hidden, dense) + dense_bytes(hidden, q_size, dense)
    gate = config.num_experts * hidden * _FLOAT32_BYTES
    experts = num_experts * expert_bytes(config)
    weights = config.num_layers * (attention + gate + experts)
    weights += dense_bytes(config.vocab_size, hidden, dense) + num_streams * hidden * _BF16_BYTES
    return weights + num_streams * kv.read_bytes(config, context, _BF16_BYTES)


def prefill_flops(config: ModelConfig, num_tokens: int) -> float:
    """Return the operations of the matrices on a prompt's tokens; attention's scores are left out."""
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    per_layer = (2 * q_size + 2 * kv_size) * config.hidden_size
    per_layer += config.num_experts_per_token * 3 * config.hidden_size * config.intermediate_size
    return 2.0 * num_tokens * config.num_layers * per_layer + 2.0 * config.hidden_size * config.vocab_size
