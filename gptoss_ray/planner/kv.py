"""Arithmetic of the KV cache: what blocks weigh, how many sequences they hold, what a step reads.

One pool serves both kinds of layer: a block holds `kv_block_size` tokens for either all full layers or
all window layers. It repeats what `kvcache/` allocates; a test holds the two together.
"""

from __future__ import annotations

from gptoss_ray.checkpoint.model_config import ModelConfig


def bytes_per_block(model: ModelConfig, block_size: int, itemsize: int) -> int:
    """Return the bytes of one block: keys and values of the layers of its kind."""
    num_sliding = sum(map(model.is_sliding, range(model.num_layers)))
    num_layers = max(num_sliding, model.num_layers - num_sliding)
    return num_layers * block_size * _bytes_per_layer_token(model, itemsize)


def blocks_per_sequence(model: ModelConfig, block_size: int, num_tokens: int) -> int:
    """Return the blocks that a decoding sequence of `num_tokens` tokens holds."""
    num_full = -(-num_tokens // block_size)
    return num_full + min(num_full, _most_window_blocks(model, block_size, 1))


def longest_sequence(model: ModelConfig, block_size: int, num_blocks: int, max_chunk: int) -> int:
    """Return the tokens of the longest sequence that fits alone, computed in chunks of `max_chunk`."""
    num_full = max(num_blocks // 2, num_blocks - _most_window_blocks(model, block_size, max_chunk))
    return num_full * block_size


def read_bytes(model: ModelConfig, num_tokens: int, itemsize: int) -> int:
    """Return the KV bytes that decoding one token behind `num_tokens` tokens reads over all layers."""
    num_seen = sum(
        min(num_tokens, model.sliding_window) if model.is_sliding(layer) else num_tokens
        for layer in range(model.num_layers)
    )
    return num_seen * _bytes_per_layer_token(model, itemsize)


def _bytes_per_layer_token(model: ModelConfig, itemsize: int) -> int:
    return 2 * model.num_key_value_heads * model.head_dim * itemsize


def _most_window_blocks(model: ModelConfig, block_size: int, max_chunk: int) -> int:
    """Blocks under the rows of a whole chunk and the window before it, at the worst alignment."""
    return (model.sliding_window - 1 + max_chunk - 2) // block_size + 2
