"""One keyed random draw from the logits of one row. Pure functions of their arguments.

Law 1: nothing here sees the batch. Arrays have the fixed shape [vocab]; sums run in float64 in a
fixed order (by token id, or most likely first), so equal logits give equal tokens.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt
import torch

from gptoss_ray.generation import SamplingParams

Floats = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]

# Below this, float32 logits that differ at all differ by many temperatures: it is greedy.
MIN_TEMPERATURE = 1e-6
# Logits are first looked at through the maxima of runs of so many: most hold none of the largest.
RUN_LENGTH = 256


def keyed_uniform(seed: int, choice_index: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but the key; 53 random bits."""
    key = struct.pack("<QQQ", seed & (1 << 64) - 1, choice_index, position)
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (bits >> 11) * 2.0**-53


def draw_token(logits: Floats, params: SamplingParams, uniform: float, scratch: Floats) -> int:
    """Draw a token id by inverse CDF over the token ids. O(vocab).

    Temperature first; then top_k, then top_p of what top_k left, then min_p of that.

    Args:
        logits: [vocab], adjusted, their maximum finite.
        params: Temperature above 0, and the filters.
        uniform: In [0, 1).
        scratch: [vocab], overwritten.
    """
    weights = np.subtract(logits, logits.max(), out=scratch)
    weights /= max(params.temperature, MIN_TEMPERATURE)
    np.exp(weights, out=weights)  # the most likely token weighs 1
    if 0 < params.top_k < len(logits):
        _keep_only(weights, most_likely(logits, params.top_k))
    if params.top_p < 1.0:
        _keep_nucleus(weights, params.top_p)
    if params.min_p > 0.0:
        weights[weights < params.min_p] = 0.0
    cumulative = torch.from_numpy(weights).cumsum(0, dtype=torch.float64).numpy()  # 5 x numpy's speed
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def most_likely(logits: Floats, count: int) -> TokenIds:
    """Ids of the `count` largest logits, largest first, lower id first among equals."""
    count = min(count, len(logits))
    maxima = np.maximum.reduceat(logits, np.arange(0, len(logits), RUN_LENGTH))
    # So many runs have a logit of at least `floor`, so the `count` largest logits have too.
    floor = _nth_largest(maxima if count <= len(maxima) else logits, count)
    candidates = np.flatnonzero(logits >= floor)
    largest_first = np.argsort(-logits[candidates], kind="stable")
    return candidates[largest_first[:count]]


def log_normalizer(logits: Floats, scratch: Floats) -> float:
    """log(sum(exp(logits))) of logits [vocab]; `scratch` [vocab] is overwritten."""
    largest = logits.max()
    np.subtract(logits, largest, out=scratch)
    np.exp(scratch, out=scratch)
    return float(largest) + float(np.log(scratch.sum(dtype=np.float64)))


def _keep_nucleus(weights: Floats, top_p: float) -> None:
    """Zero all but the fewest heaviest tokens whose share of the weight reaches top_p."""
    total = float(weights.sum(dtype=np.float64))
    # All tokens no heavier than this weigh at most 1 - top_p together: the rest is enough.
    negligible = total * (1.0 - top_p) / len(weights)
    heaviest_first = np.sort(weights[weights > negligible])[::-1]
    cumulative = np.cumsum(heaviest_first, dtype=np.float64)
    num_kept = min(int(np.searchsorted(cumulative, top_p * total)) + 1, len(heaviest_first))
    lightest = heaviest_first[num_kept - 1]
    num_equals_kept = int(np.count_nonzero(heaviest_first[:num_kept] == lightest))
    weights[weights < lightest] = 0.0
    weights[np.flatnonzero(weights == lightest)[num_equals_kept:]] = 0.0


def _keep_only(weights: Floats, token_ids: TokenIds) -> None:
    kept = weights[token_ids]
    weights.fill(0.0)
    weights[token_ids] = kept


def _nth_largest(values: Floats, n: int) -> float:
    return float(np.partition(values, len(values) - n)[len(values) - n])
