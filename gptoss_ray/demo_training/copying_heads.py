"""Where training begins: attention heads that already copy what followed an earlier like token.

Every skill copies (names, numbers, arguments), and by chance the heads that do it ("induction
heads", Olsson et al. 2022) take most of the training time to form. So they are laid out in the initial
weights:

- Embeddings fill only the first part of the residual stream's directions. Where tokens are found again, a
  piece of a word is nearly the same with and without a space before it: what an answer copies behind a
  quotation mark stands in the question behind a space.
- Three heads of layer 0 attend to the tokens one, two and three before, and write a piece of their embeddings
  into directions of their own.
- A head of layer 1 looks for the token whose predecessor is the current token; another wants the one before
  to be the same, too, and so tells apart words with like pieces.
- Counting writes a number after each item of a list (`hat 1 cat 2 cow 3`), so what stands before an item in
  the list is found again three tokens before it: two more heads know which item comes next.
- Functions of a prompt are all written alike, so a head of layer 2 notes at every token in which of them it
  stands: it attends to the last `type` and takes from there the token three before, which ends what the
  function is about (`phrase.\\ntype get_phrase = (_: {`). A head of layer 3 looks for the token whose
  predecessor is the current one, in the same function. It speaks louder than all others: where functions are
  written alike, those find the tokens of the wrong ones, too.
- The heads of layers 1 and 3 write a piece of the found token's embedding into further directions, from which
  the unembedding reads the copied token.

Other heads and the experts write nothing at first. Training is free to change all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training.vocabulary import Landmarks

_MATCHED = 32
"""Coordinates of an embedding by which tokens are found again."""
_SHARED = 12
"""Of each half of those, so many are the same for a word's piece with and without the space before it."""
_COPIED = 64
"""Coordinates of a found token's embedding that are copied."""
_STRENGTH = 6.0
_NUM_FAST = 4
_RECENCY = ((1 / 8, 4.0), (3 / 16, 4.0), (1 / 4, 9.0), (5 / 16, 16.0))
"""Frequencies (shares of all) by which the last of several tokens is preferred; what each adds to a score."""
_MARK = 40.0
"""How much more the token that marks a function scores than any other."""
_NO_MARK = 38.0
"""Sink of the head that looks for marks: more than the nearest token scores that is none."""
_SCORE = 1.8
"""What YaRN's concentration makes of the product of a query's and a key's coordinate, before 1/√head_dim."""


class _Attention:
    """Views of a layer's attention weights by head, which writes change.

    Attributes:
        query, key, value: [heads or groups, head_dim, hidden].
        query_bias, key_bias: [heads or groups, head_dim].
        out: [hidden, heads, head_dim].
        sinks: [heads].
    """

    def __init__(self, config: ModelConfig, masters: dict[str, Tensor], layer: int) -> None:
        self.dim, hidden = config.head_dim, config.hidden_size
        self.per_group = config.num_attention_heads // config.num_key_value_heads
        prefix = f"layers.{layer}.attention."
        self.query, self.key, self.value = (
            masters[f"{prefix}{name}.weight"].view(-1, self.dim, hidden) for name in "qkv"
        )
        self.query_bias, self.key_bias = (masters[f"{prefix}{name}.bias"].view(-1, self.dim) for name in "qk")
        self.out = masters[f"{prefix}out.weight"].view(hidden, -1, self.dim)
        self.sinks = masters[f"{prefix}sinks"]

    def carry(self, head: int, read: Tensor, written: Tensor) -> None:
        """Let a head write into directions [hidden, n] what it reads; its group reads the same."""
        self.value[head // self.per_group, : read.shape[1]] = read.T
        self.out[:, head, : written.shape[1]] = written


def begin_with_copying(
    config: ModelConfig, masters: dict[str, Tensor], generator: torch.Generator, vocabulary: Landmarks
) -> None:
    """Lay the heads out in freshly drawn parameters."""
    hidden = config.hidden_size
    per_group = config.num_attention_heads // config.num_key_value_heads
    directions, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
    apart = (1, _MATCHED, _MATCHED // 2, _MATCHED, _MATCHED, _COPIED)
    content, mark, previous, before, third, function, copied = directions.split(
        (hidden - sum(apart), *apart), dim=1
    )
    coordinates = _coordinates(config.vocab_size, content.shape[1], generator, vocabulary.twins)
    coordinates *= (hidden / content.shape[1]) ** 0.5
    masters["embedding.weight"].copy_(0.5 * coordinates @ content.T)
    masters["embedding.weight"][vocabulary.function_mark] += 2.0 * mark[:, 0]
    matched, carried = content[:, :_MATCHED], content[:, -_COPIED:]

    layers = [_Attention(config, masters, layer) for layer in range(4)]
    _look_back(config, layers[0], distances=(1, 2, 3))
    for head, written in enumerate((previous, before, third)):
        layers[0].carry(head, matched, 0.5 * written)

    _find_mark(layers[2], mark[:, 0])
    layers[2].carry(0, third, function)
    follows = (matched, previous)
    for layer, head, strength, sink, voice, pairs in (
        (1, 0, 1.7, 5.0, 0.7, (follows,)),
        (1, per_group, 2.0, 5.0, 0.7, (follows, (previous, before))),
        (1, per_group + 1, 2.0, 5.0, 0.7, (follows, (third, before))),
        (3, 0, 2.6, 20.0, 1.4, (follows, (function, function))),
        (3, per_group, 2.6, 10.0, 0.7, (follows, (third, third))),
    ):
        _find(layers[layer], head, strength, pairs)
        layers[layer].sinks[head] = sink
        layers[layer].carry(head, carried, voice * copied)
    unembedding = masters["unembedding.weight"]
    unembedding -= unembedding @ copied @ copied.T
    unembedding += 0.15 * coordinates[:, -_COPIED:] @ copied.T


def _coordinates(
    vocab_size: int, num: int, generator: torch.Generator, twins: Sequence[tuple[int, int]]
) -> Tensor:
    """Random coordinates [vocab_size, num]; pieces have one norm, so that none outscores an equal.

    Twins share most of the coordinates by which tokens are found again.
    """
    coordinates = torch.randn(vocab_size, num, generator=generator)
    behind_space, alone = (torch.tensor(side) for side in zip(*twins, strict=True))
    for piece in torch.split(coordinates[:, :_MATCHED], _MATCHED // 2, dim=1):
        piece[behind_space, :_SHARED] = piece[alone, :_SHARED]
    for piece in torch.split(coordinates, _MATCHED // 2, dim=1):
        piece.mul_(piece.shape[1] ** 0.5 / piece.norm(dim=1, keepdim=True))
    return coordinates


def _look_back(config: ModelConfig, attention: _Attention, distances: tuple[int, ...]) -> None:
    """Let the first heads attend to the tokens so far before, by their biases alone.

    The score of biases q and k at distance d is the sum over frequencies w of |q||k| cos(w d + arg q - arg
    k); the fastest frequencies suffice.
    """
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-torch.arange(_NUM_FAST) / half)
    attention.key_bias[:, :_NUM_FAST] = _STRENGTH
    attention.key[:, :_NUM_FAST] = attention.key[:, half : half + _NUM_FAST] = 0.0
    for head, distance in enumerate(distances):
        attention.query[head].zero_()
        attention.query_bias[head, :_NUM_FAST] = _STRENGTH * torch.cos(frequencies * distance)
        attention.query_bias[head, half : half + _NUM_FAST] = -_STRENGTH * torch.sin(frequencies * distance)


def _find(
    attention: _Attention, head: int, strength: float, pairs: tuple[tuple[Tensor, Tensor], ...]
) -> None:
    """Let a head attend where the second directions of each pair hold what the current token's first do."""
    dim, half, group = attention.dim, attention.dim // 2, head // attention.per_group
    attention.query[head].zero_()
    attention.key[group].zero_()
    # Slow frequencies only: the match must not depend on distance.
    slow = [*range(half // 2, half), *range(half + half // 2, dim)]
    for number, (wanted, found) in enumerate(pairs):
        rows = slow[number :: len(pairs)]
        attention.query[head, rows] = strength * wanted.T[: len(rows)]
        attention.key[group, rows] = strength * found.T[: len(rows)]


def _find_mark(attention: _Attention, mark: Tensor) -> None:
    """Let the first head attend to the last token that has `mark` [hidden]."""
    half, scale = attention.dim // 2, attention.dim**0.5 / _SCORE
    attention.query[0].zero_()
    attention.key[0].zero_()
    for share, weight in _RECENCY:
        frequency = int(share * half)
        attention.query_bias[0, frequency] = attention.key_bias[0, frequency] = (weight * scale) ** 0.5
    attention.query_bias[0, half - 1] = (_MARK * scale) ** 0.5
    attention.key[0, half - 1] = (_MARK * scale) ** 0.5 * mark / 3.0
    attention.sinks[0] = _NO_MARK
