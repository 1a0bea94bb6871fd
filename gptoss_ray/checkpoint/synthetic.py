"""Random checkpoints of any shape: for tests, for benchmarks without a download, for trying a cluster.

The weights are noise, scaled so that a forward pass looks like one of a trained model: activations and
logits stay of order one in any depth, and the gate spreads tokens over all experts. The same seed gives
the same weights in both layouts and at any shard size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gptoss_ray.checkpoint.layout import StoredTensor
from gptoss_ray.checkpoint.model_config import Layout, ModelConfig, alternating_layer_types
from gptoss_ray.checkpoint.writer import MAX_SHARD_BYTES, Progress, write_stored

_CHUNK_VALUES = 1 << 24
# Root mean square of the 16 e2m1 values, each as likely.
_E2M1_RMS = math.sqrt(8.5625)


def tiny_config(**overrides: object) -> ModelConfig:
    """Return a config that has every mechanism of gpt-oss and runs in milliseconds, with fields changed."""
    tiny = ModelConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=64,
        num_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_token=4,
        layer_types=alternating_layer_types(4),
        sliding_window=16,
    )
    return tiny.replace(**overrides)


def write_checkpoint(
    folder: Path | str,
    config: ModelConfig,
    *,
    layout: Layout = "huggingface",
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write a random checkpoint (no tokenizer); CheckpointError if `layout` cannot express `config`."""

    def produce(stored: StoredTensor, dtype: torch.dtype) -> Iterator[Tensor]:
        for part in stored.parts:
            shape = (part.num_rows, *stored.shape[1:])
            yield from _chunks(part.name, shape, config, seed, dtype)

    write_stored(folder, config, produce, layout=layout, max_shard_bytes=max_shard_bytes, progress=progress)


def _chunks(
    name: str, shape: tuple[int, ...], config: ModelConfig, seed: int, dtype: torch.dtype
) -> Iterator[Tensor]:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    spread = deviation(name, config)
    remaining = math.prod(shape)
    while remaining:
        count = min(remaining, _CHUNK_VALUES)
        if name.endswith(".blocks"):
            yield torch.from_numpy(np.frombuffer(bytearray(generator.bytes(count)), dtype=np.uint8))
        elif name.endswith(".scales"):
            yield _scales(generator, count, spread)
        else:
            values = torch.from_numpy(generator.standard_normal(count, dtype=np.float32))
            mean = 1.0 if name.endswith("norm.weight") else 0.0
            yield values.mul_(spread).add_(mean).to(dtype)
        remaining -= count


def scale_exponent(deviation: float) -> int:
    """Return the larger of two e8m0 scales that, mixed, give uniform e2m1 codes about `deviation`."""
    return 127 + round(math.log2(deviation / _E2M1_RMS) + 0.5)


def _scales(generator: np.random.Generator, count: int, deviation: float) -> Tensor:
    """Return e8m0 scales, of two neighbouring exponents, that give uniform e2m1 codes about `deviation`."""
    exponent = scale_exponent(deviation)
    return torch.from_numpy(generator.integers(exponent - 1, exponent + 1, count, dtype=np.uint8))


def deviation(name: str, config: ModelConfig) -> float:
    """Return the standard deviation of a tensor: 1/√(values summed by one output) for matrices."""
    if name.endswith("norm.weight"):
        return 0.1
    if name.endswith(".bias"):
        return 0.02
    if name.endswith(".sinks") or name == "embedding.weight":
        return 1.0
    # What flows back into the residual stream shrinks with depth, as in GPT-2's initialisation.
    residual = 1 / math.sqrt(2 * config.num_layers)
    if "attention.out" in name:
        return residual / math.sqrt(config.num_attention_heads * config.head_dim)
    if "experts.down" in name:
        return residual / math.sqrt(config.intermediate_size)
    return 1 / math.sqrt(config.hidden_size)
