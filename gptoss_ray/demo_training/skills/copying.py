"""Repeating a random run of tokens: the first thing to learn, because every other skill copies.

It settles the heads that copy within a hundred steps; and each token of the vocabulary comes up, so that
names are copied whose pieces no training chat holds.
"""

from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.batch import Branch


def draw(rng: Random, num_ranks: int, prefix: tuple[int, ...]) -> Branch:
    """A few runs of random tokens, then one of them again, all of which but the first token is learned."""
    runs = [[rng.randrange(num_ranks) for _ in range(rng.randint(4, 16))] for _ in range(rng.randint(1, 4))]
    again = rng.choice(runs)
    tokens = [token for run in runs for token in run]
    return Branch((prefix,), (*tokens, *again), len(tokens) + 1, "copying")


def draw_group(rng: Random, num_ranks: int, start: int, size: int) -> list[Branch]:
    """Samples behind a prefix of random length, so that copying does not hang on positions."""
    prefix = (start, *[rng.randrange(num_ranks) for _ in range(rng.randrange(0, 120, 8))])
    return [draw(rng, num_ranks, prefix) for _ in range(size)]
