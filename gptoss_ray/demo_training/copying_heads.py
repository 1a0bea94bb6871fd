"""Where training begins: attention heads that already copy what followed an earlier like token.

Every skill copies (names, numbers, arguments), and by chance the heads that do it ("induction
heads", Olsson et al. 2022) take most of the training time to form. So they are laid out in the initial
weights:

- Embeddings fill only the first part of the residual stream's directions.
- The heads of layer 0 attend to the tokens one, two, three and five before, and write a piece of their
  embeddings into directions of their own, which the last two share.
- A head of layer 1 looks for the token whose predecessor is the current token; another wants the one before
  to be the same, too, and so tells apart words with like pieces.
- A head of layer 2 brings along what the token before knows of the tokens three and five before it. A head of
  layer 3 wants these to be the same, and so tells apart the functions of a prompt, which are all written
  alike (`type name = (_: {`).
- The heads of layers 1 and 3 write a piece of the found token's embedding into further directions, from
  which the unembedding reads the copied token.

Training is free to change all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig

_MATCHED = 16
"""Coordinates of an embedding by which tokens are found again."""
_PART = _MATCHED // 2
"""So many of them where two tokens must match."""
_FURTHER = 12
_STRENGTH = 8.0
_NUM_FAST = 4


def begin_with_copying(config: ModelConfig, masters: dict[str, Tensor], generator: torch.Generator) -> None:
    """Lay the heads out in freshly drawn parameters."""
    hidden, dim = config.hidden_size, config.head_dim
    per_group = config.num_attention_heads // config.num_key_value_heads
    directions, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
    apart = (_MATCHED, _PART, _FURTHER, _FURTHER, dim)
    content, previous, before, further, further_before, copied = directions.split(
        (hidden - sum(apart), *apart), dim=1
    )
    coordinates = torch.randn(config.vocab_size, content.shape[1], generator=generator)
    coordinates *= (hidden / content.shape[1]) ** 0.5
    masters["embedding.weight"].copy_(0.5 * coordinates @ content.T)
    matched, carried = content[:, :_MATCHED], content[:, _MATCHED : _MATCHED + dim]

    _look_back(config, masters, layer=0, distances=(1, 2, 3, 5))
    value, out = (masters[f"layers.0.attention.{name}.weight"] for name in ("v", "out"))
    for group in range(config.num_key_value_heads):
        value[group * dim : group * dim + _MATCHED] = matched.T
    pieces = ((0, 0, previous), (1, 0, before), (2, 0, further), (3, _MATCHED - _FURTHER, further))
    for head, first, written in pieces:
        start = head * dim + first
        out[:, start : start + written.shape[1]] = 0.5 * written

    _look_back(config, masters, layer=2, distances=(1,))
    masters["layers.2.attention.v.weight"][:_FURTHER] = further.T
    masters["layers.2.attention.out.weight"][:, :_FURTHER] = 0.8 * further_before

    part, previous_part = matched[:, :_PART], previous[:, :_PART]
    copies = (
        (1, 0, 1.4, 0.7, ((matched, previous),)),
        (1, per_group, 2.3, 0.7, ((part, previous_part), (previous_part, before))),
        (3, 0, 2.6, 1.4, ((further, further_before),)),
    )
    for layer, head, strength, weight, pairs in copies:
        _copy(config, masters, layer, head, strength, pairs)
        group = head // per_group
        masters[f"layers.{layer}.attention.v.weight"][group * dim : (group + 1) * dim] = carried.T
        masters[f"layers.{layer}.attention.out.weight"][:, head * dim : (head + 1) * dim] = weight * copied
    unembedding = masters["unembedding.weight"]
    unembedding -= unembedding @ copied @ copied.T
    unembedding += 0.15 * coordinates[:, _MATCHED : _MATCHED + dim] @ copied.T


def _copy(
    config: ModelConfig,
    masters: dict[str, Tensor],
    layer: int,
    head: int,
    strength: float,
    pairs: tuple[tuple[Tensor, Tensor], ...],
) -> None:
    """Let a head attend where the key's second directions hold what the query's first do, for each pair."""
    dim, half = config.head_dim, config.head_dim // 2
    group = head // (config.num_attention_heads // config.num_key_value_heads)
    query, key = (
        masters[f"layers.{layer}.attention.{name}.weight"].view(-1, dim, config.hidden_size) for name in "qk"
    )
    query[head].zero_()
    key[group].zero_()
    # Slow frequencies only: the match must not depend on distance.
    slow = [*range(half // 2, half), *range(half + half // 2, dim)]
    for number, (wanted, found) in enumerate(pairs):
        rows = slow[number :: len(pairs)][: wanted.shape[1]]
        query[head, rows], key[group, rows] = strength * wanted.T, strength * found.T
    masters[f"layers.{layer}.attention.sinks"][head] = 5.0


def _look_back(
    config: ModelConfig, masters: dict[str, Tensor], layer: int, distances: tuple[int, ...]
) -> None:
    """Let the first heads of a layer attend to the tokens so far before, by their biases alone.

    The score of biases q and k at distance d is the sum over frequencies w of |q||k| cos(w d + arg q - arg
    k); the fastest frequencies suffice.
    """
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-torch.arange(_NUM_FAST) / half)
    query = masters[f"layers.{layer}.attention.q.bias"].view(-1, 2, half)
    key = masters[f"layers.{layer}.attention.k.bias"].view(-1, 2, half)
    key[:, 0, :_NUM_FAST] = _STRENGTH
    for head, distance in enumerate(distances):
        query[head, 0, :_NUM_FAST] = _STRENGTH * torch.cos(frequencies * distance)
        query[head, 1, :_NUM_FAST] = -_STRENGTH * torch.sin(frequencies * distance)
