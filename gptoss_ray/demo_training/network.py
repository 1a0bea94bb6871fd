"""The gpt-oss network as a function of (parameters, packed batch), differentiable.

It is written for training only: no KV cache, whole chats at once. `model/` holds the serving network; a
test compares the two through an exported checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training import fused
from gptoss_ray.demo_training.batch import PackedBatch
from gptoss_ray.demo_training.expert_mlp import ExpertMlp
from gptoss_ray.demo_training.sink_softmax import SinkSoftmax

_NO_POSITION = 1 << 30


@dataclass(frozen=True)
class NetworkOutput:
    """Logits [N, vocab] at the asked rows, and the gates' balance loss (1 when experts share evenly)."""

    logits: Tensor
    balance: Tensor


def forward(config: ModelConfig, weights: Mapping[str, Tensor], batch: PackedBatch) -> NetworkOutput:
    """Logits at `batch.prediction_rows`."""
    x = F.embedding(batch.token_ids, weights["embedding.weight"])
    cos, sin = rotary_table(config, batch.positions)
    keys = {sliding: _keys(config, batch, sliding) for sliding in (True, False)}
    balance = torch.zeros(())
    for layer in range(config.num_layers):
        w = _LayerWeights(weights, f"layers.{layer}.")
        normed = fused.rms_norm(x, w["attention.norm.weight"], config.rms_norm_eps)
        x = x + _attention(config, w, normed, batch, cos, sin, keys[config.is_sliding(layer)])
        normed = fused.rms_norm(x, w["moe.norm.weight"], config.rms_norm_eps)
        mixed, layer_balance = _mixture(config, w, normed)
        x, balance = x + mixed, balance + layer_balance / config.num_layers
    x = fused.rms_norm(x[batch.prediction_rows], weights["final_norm.weight"], config.rms_norm_eps)
    return NetworkOutput(F.linear(x, weights["unembedding.weight"]), balance)


class _LayerWeights:
    def __init__(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[self._prefix + name]


def rotary_table(config: ModelConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, 1, head_dim / 2] of YaRN, NTK by parts (arXiv 2309.00071)."""
    half = config.head_dim // 2
    inverse = config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)

    def dimension_of(rotations: float) -> float:
        turns = config.rope_original_context / (rotations * 2 * math.pi)
        return half * math.log(turns) / math.log(config.rope_theta)

    low, high = dimension_of(config.rope_beta_fast), dimension_of(config.rope_beta_slow)
    ramp = ((torch.arange(half) - low) / (high - low)).clamp(0, 1)
    inverse = inverse / config.rope_scaling_factor * ramp + inverse * (1 - ramp)
    concentration = 0.1 * math.log(config.rope_scaling_factor) + 1
    angles = positions[:, None, None].float() * inverse
    return angles.cos() * concentration, angles.sin() * concentration


def _keys(config: ModelConfig, batch: PackedBatch, sliding: bool) -> list[tuple[Tensor, Tensor]]:
    """Key rows [B, K] and additive masks [B, 1, L, K] of the batch's groups in a sliding or a full layer."""
    # Rows that hold no token lie after all others.
    positions = F.pad(batch.positions.int(), (0, 1), value=_NO_POSITION)
    window = config.sliding_window if sliding else _NO_POSITION
    keys = []
    for group in batch.groups:
        rows = group.near_key_rows if sliding else group.key_rows
        mask = fused.attention_mask(positions[group.query_rows], positions[rows], window)
        keys.append((rows, mask))
    return keys


def _attention(
    config: ModelConfig,
    w: _LayerWeights,
    x: Tensor,
    batch: PackedBatch,
    cos: Tensor,
    sin: Tensor,
    keys: list[tuple[Tensor, Tensor]],
) -> Tensor:
    heads, groups, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    names = [f"attention.{name}" for name in "qkv"]
    weight, bias = (torch.cat([w[f"{name}.{part}"] for name in names]) for part in ("weight", "bias"))
    qkv = F.linear(x, weight, bias).view(len(x), -1, dim)
    qk, v = torch.split(qkv, [heads + groups, groups], dim=1)
    q, k = torch.split(fused.rotate(qk, cos, sin), [heads, groups], dim=1)
    q = F.pad(q.flatten(1) * dim**-0.5, (0, 0, 0, 1))
    kv = F.pad(torch.cat((k, v), dim=1).flatten(1), (0, 0, 0, 1))
    queries = _gather(q, [group.query_rows for group in batch.groups])
    keys_and_values = _gather(kv, [rows for rows, _ in keys])
    parts = [
        _attend(config, query, key_value, w["attention.sinks"], mask)
        for query, key_value, (_, mask) in zip(queries, keys_and_values, keys, strict=True)
    ]
    by_row = torch.cat([part.flatten(0, 1) for part in parts])
    query_rows = torch.cat([group.query_rows.flatten() for group in batch.groups])
    attended = torch.zeros_like(q).index_copy(0, query_rows, by_row)
    return F.linear(attended[:-1], w["attention.out.weight"], w["attention.out.bias"])


def _gather(x: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
    """x [T, n], rows [B, L] of each group → [B, L, n] of each, at once: so the gradient is written once."""
    gathered = F.embedding(torch.cat([of_group.flatten() for of_group in rows]), x)
    parts = torch.split(gathered, [of_group.numel() for of_group in rows])
    return [part.view(*of_group.shape, -1) for part, of_group in zip(parts, rows, strict=True)]


def _attend(config: ModelConfig, q: Tensor, kv: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
    """q [B, L, heads·dim], kv [B, K, 2·groups·dim], mask [B, 1, L, K] → [B, L, heads·dim]."""
    batch, length, _ = q.shape
    groups, dim = config.num_key_value_heads, config.head_dim
    per_group = config.num_attention_heads // groups
    q = q.view(batch, length, groups, per_group, dim).permute(0, 2, 3, 1, 4)
    k, v = kv.view(batch, -1, 2, groups, dim).permute(2, 0, 3, 1, 4).contiguous()  # else bmm is half as fast
    q = q.reshape(batch, groups, per_group * length, dim)
    scores = (q @ k.transpose(-1, -2)).view(batch, groups * per_group, length, -1)
    probabilities = SinkSoftmax.apply(scores, mask, sinks)  # type: ignore[no-untyped-call]
    out = probabilities.view(batch, groups, per_group * length, -1) @ v
    by_head: Tensor = out.view(batch, groups, per_group, length, dim)
    return by_head.permute(0, 3, 1, 2, 4).reshape(batch, length, -1)


def _mixture(config: ModelConfig, w: _LayerWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(x, w["moe.gate.weight"], w["moe.gate.bias"])
    top, expert_ids = logits.topk(config.num_experts_per_token, dim=-1)
    out = ExpertMlp.apply(  # type: ignore[no-untyped-call]
        x,
        expert_ids,
        torch.softmax(top.float(), dim=-1),
        w["experts.gate_up.weight"],
        w["experts.gate_up.bias"],
        w["experts.down.weight"],
        w["experts.down.bias"],
        config.swiglu_alpha,
        config.swiglu_limit,
    )
    share = torch.bincount(expert_ids.flatten(), minlength=config.num_experts) / expert_ids.numel()
    probability = torch.softmax(logits.float(), dim=-1).mean(0)
    return out, config.num_experts * (share * probability).sum()
