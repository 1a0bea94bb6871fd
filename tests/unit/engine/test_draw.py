from __future__ import annotations

import numpy as np
import pytest

from gptoss_ray.engine.draw import (
    RUN_LENGTH,
    draw_token,
    keyed_uniform,
    log_normalizer,
    most_likely,
)
from gptoss_ray.generation import SamplingParams

NUM_DRAWS = 4000


def make_logits(vocab_size=50, seed=0, scale=2.0):
    return (np.random.default_rng(seed).standard_normal(vocab_size) * scale).astype(np.float32)


def draw_many(logits, params, count=NUM_DRAWS):
    scratch = np.empty_like(logits)
    return [
        draw_token(logits, params, keyed_uniform(params.seed, 0, position), scratch)
        for position in range(count)
    ]


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def chi_square_per_degree(tokens, probabilities):
    """Pearson's statistic over its degrees of freedom, rare tokens pooled; about 1 for a good draw."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    expected = probabilities * len(tokens)
    is_common = expected >= 5
    pooled = (expected[~is_common].sum(), counts[~is_common].sum())
    statistic = (((counts - expected) ** 2)[is_common] / expected[is_common]).sum()
    if pooled[0] > 0:
        statistic += (pooled[1] - pooled[0]) ** 2 / pooled[0]
    return statistic / max(1, is_common.sum() - (pooled[0] == 0))


def allowed(logits, params):
    """Slow reference of the filters: the set of tokens that can be drawn."""
    probabilities = softmax(logits / params.temperature)
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.top_k:
        ranked = ranked[: params.top_k]
    total = sum(probabilities[token] for token in ranked)
    kept, mass = [], 0.0
    for token in ranked:
        if mass >= params.top_p * total:
            break
        kept.append(token)
        mass += probabilities[token]
    best = probabilities.max()
    return {token for token in kept if probabilities[token] >= params.min_p * best}


def test_uniforms_depend_on_every_part_of_the_key_and_on_nothing_else():
    assert keyed_uniform(1, 2, 3) == keyed_uniform(1, 2, 3)
    keys = [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (-1, 2, 3), (2**64 - 2, 2, 3)]
    assert len({keyed_uniform(*key) for key in keys}) == len(keys)


def test_the_key_of_a_draw_never_changes_between_versions():
    assert keyed_uniform(42, 1, 7) == 0.041368867471240134  # else resumed requests would change their text


def test_uniforms_are_uniform_over_positions_seeds_and_choices():
    for uniforms in (
        [keyed_uniform(0, 0, position) for position in range(NUM_DRAWS)],
        [keyed_uniform(seed, 0, 0) for seed in range(NUM_DRAWS)],
        [keyed_uniform(0, choice, 5) for choice in range(NUM_DRAWS)],
    ):
        bins = (np.array(uniforms) * 20).astype(int)
        assert chi_square_per_degree(bins, np.full(20, 1 / 20)) < 2.0
        assert 0 <= min(uniforms) < max(uniforms) < 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_draws_follow_the_softmax_at_each_temperature(temperature):
    logits = make_logits()
    tokens = draw_many(logits, SamplingParams(temperature=temperature))
    assert chi_square_per_degree(tokens, softmax(logits / temperature)) < 1.8


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 7},
        {"top_k": 1},
        {"top_k": 10**6},
        {"top_p": 0.8},
        {"top_p": 0.999999},
        {"top_p": 1e-9},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.05},
        {"top_k": 5, "top_p": 0.99, "temperature": 2.0},
    ],
)
def test_filters_leave_exactly_their_tokens_in_the_right_proportions(filters):
    logits = make_logits(scale=1.5)
    params = SamplingParams(**filters)
    tokens = draw_many(logits, params)
    members = allowed(logits, params)
    probabilities = softmax(logits / params.temperature)
    probabilities[[token for token in range(len(logits)) if token not in members]] = 0.0
    assert set(tokens) <= members
    likely = {token for token in members if probabilities[token] / probabilities.sum() > 20 / NUM_DRAWS}
    assert likely <= set(tokens)
    assert chi_square_per_degree(tokens, probabilities / probabilities.sum()) < 1.8


@pytest.mark.parametrize("filters", [{"top_k": 3}, {"top_p": 0.3}])
def test_among_equal_logits_the_lower_ids_stay(filters):
    logits = np.zeros(10, dtype=np.float32)
    assert set(draw_many(logits, SamplingParams(**filters), 300)) == {0, 1, 2}


def test_a_nucleus_over_a_large_flat_vocabulary_has_the_right_size():
    logits = np.zeros(20_000, dtype=np.float32)
    logits[::2] = -1e-3
    tokens = draw_many(logits, SamplingParams(top_p=0.25), 500)
    assert all(token % 2 == 1 and token < 10_020 for token in tokens)


def test_a_token_of_no_weight_is_never_drawn():
    logits = np.full(8, -np.inf, dtype=np.float32)
    logits[[2, 5]] = 0.0
    scratch = np.empty_like(logits)
    almost_one = 1 - 2.0**-53
    assert draw_token(logits, SamplingParams(), 0.0, scratch) == 2
    assert draw_token(logits, SamplingParams(), almost_one, scratch) == 5


def test_a_vanishing_temperature_is_greedy():
    logits = make_logits()
    tokens = draw_many(logits, SamplingParams(temperature=5e-324), 50)
    assert set(tokens) == {int(logits.argmax())}


@pytest.mark.parametrize("count", [1, 5, RUN_LENGTH, 3 * RUN_LENGTH - 1, 10 * RUN_LENGTH])
def test_most_likely_sorts_by_logit_then_id(count):
    logits = np.round(make_logits(vocab_size=3 * RUN_LENGTH - 1), 1)  # many ties
    expected = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:count]
    assert most_likely(logits, count).tolist() == expected


def test_the_log_normalizer_survives_large_logits():
    logits = make_logits() + np.float32(1e4)
    assert log_normalizer(logits, np.empty_like(logits)) == pytest.approx(
        1e4 + np.log(np.exp(logits.astype(np.float64) - 1e4).sum()), abs=1e-3
    )
