"""Where training begins: attention heads that already copy what followed an earlier like token.

Every skill copies (names, numbers, arguments), and by chance the heads that do it ("induction
heads", Olsson et al. 2022) take most of the training time to form. So they are laid out in the initial
weights:

- Embeddings fill only the first part of the residual stream's directions.
- Two heads of layer 0 attend to the token before and the one before that, and write a piece of its embedding
  into directions of their own.
- A head of layer 1 looks for the token whose predecessor is the current token; another wants the one before
  to be the same, too, and so tells apart words with like pieces. Both write a piece of the found token's
  embedding into further directions, from which the unembedding reads the copied token.

Training is free to change all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig

_MATCHED = 16
"""Coordinates of an embedding by which tokens are found again."""
_STRENGTH = 5.0
_NUM_FAST = 4


def begin_with_copying(config: ModelConfig, masters: dict[str, Tensor], generator: torch.Generator) -> None:
    """Lay the heads out in freshly drawn parameters."""
    hidden, dim, half = config.hidden_size, config.head_dim, config.head_dim // 2
    per_group = config.num_attention_heads // config.num_key_value_heads
    directions, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
    content, previous, before, copied = directions.split(
        (hidden - 2 * _MATCHED - dim, _MATCHED, _MATCHED, dim), dim=1
    )
    coordinates = torch.randn(config.vocab_size, content.shape[1], generator=generator)
    coordinates *= (hidden / content.shape[1]) ** 0.5
    masters["embedding.weight"].copy_(0.5 * coordinates @ content.T)
    matched, carried = content[:, :_MATCHED], content[:, _MATCHED : _MATCHED + dim]

    _look_back(config, masters)
    masters["layers.0.attention.v.weight"][:_MATCHED] = matched.T
    masters["layers.0.attention.out.weight"][:, :_MATCHED] = 0.5 * previous
    masters["layers.0.attention.out.weight"][:, dim : dim + _MATCHED] = 0.5 * before

    # Slow frequencies only: the match must not depend on distance.
    slow = [*range(half // 2, half), *range(half + half // 2, dim)]
    query, key = (masters[f"layers.1.attention.{name}.weight"].view(-1, dim, hidden) for name in "qk")
    for head, group in ((0, 0), (per_group, 1)):
        query[head].zero_()
        key[group].zero_()
        masters["layers.1.attention.v.weight"][group * dim : (group + 1) * dim] = carried.T
        masters["layers.1.attention.out.weight"][:, head * dim : (head + 1) * dim] = 0.7 * copied
        masters["layers.1.attention.sinks"][head] = 5.0
    query[0, slow], key[0, slow] = 1.4 * matched.T, 1.4 * previous.T
    one, two = slow[::2], slow[1::2]
    matched, previous, before = (
        2.3 * directions[:, : _MATCHED // 2] for directions in (matched, previous, before)
    )
    query[per_group, one], key[1, one] = matched.T, previous.T
    query[per_group, two], key[1, two] = previous.T, before.T
    unembedding = masters["unembedding.weight"]
    unembedding -= unembedding @ copied @ copied.T
    unembedding += 0.15 * coordinates[:, _MATCHED : _MATCHED + dim] @ copied.T


def _look_back(config: ModelConfig, masters: dict[str, Tensor]) -> None:
    """Let the first two heads of layer 0 attend to the tokens one and two before, by their biases alone.

    The score of biases q and k at distance d is the sum over frequencies w of |q||k| cos(w d + arg q - arg
    k); the fastest frequencies suffice.
    """
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-torch.arange(_NUM_FAST) / half)
    query = masters["layers.0.attention.q.bias"].view(-1, 2, half)
    key = masters["layers.0.attention.k.bias"].view(-1, 2, half)
    key[0, 0, :_NUM_FAST] = _STRENGTH
    for head, distance in enumerate((1, 2)):
        query[head, 0, :_NUM_FAST] = _STRENGTH * torch.cos(frequencies * distance)
        query[head, 1, :_NUM_FAST] = -_STRENGTH * torch.sin(frequencies * distance)
