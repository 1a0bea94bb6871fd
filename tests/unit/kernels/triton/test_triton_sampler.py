"""Draws on the device against `engine/draw.py`, under Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptoss_ray.engine.draw import draw_token, keyed_uniform
from gptoss_ray.generation import SamplingParams
from gptoss_ray.kernels.device_sampler import NO_TOKEN
from gptoss_ray.kernels.triton import sampler
from gptoss_ray.kernels.triton.sampler import TritonSampler
from tests.support.draw_columns import draw_columns

VOCAB_SIZE = 1500  # two chunks, the last one not full
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """The interpreter takes as long for a large tile as for a small one."""
    monkeypatch.setattr(sampler, "_TILE", 2048)


def make_logits(num_rows, seed=0, scale=3.0, vocab_size=VOCAB_SIZE):
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def draw(logits, rows, suppressed=()):
    drawer = TritonSampler(logits.shape[1], suppressed, CPU)
    return drawer.draw(logits.clone(), draw_columns(rows)).tolist()


def expected(logits, rows):
    scratch = np.empty(logits.shape[1], dtype=np.float32)
    return [
        int(row.argmax()) if params.temperature == 0 else draw_token(row, params, uniform, scratch)
        for row, (params, uniform) in zip(logits.numpy(), rows, strict=True)
    ]


def with_uniforms(params, count):
    return [(params, keyed_uniform(params.seed, 0, position)) for position in range(count)]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 0.3},
        {"temperature": 5e-324},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 40, "temperature": 2.0},
        {"top_k": 10**6},
        {"top_p": 0.9},
        {"top_p": 1e-9},
        {"top_p": 0.999999},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.05},
    ],
    ids=str,
)
def test_tokens_are_those_of_the_host(params):
    logits = make_logits(6)
    rows = with_uniforms(SamplingParams(**params), 6)
    assert draw(logits, rows) == expected(logits, rows)


@pytest.mark.parametrize(
    "params", [{"top_k": 3}, {"top_k": 1000}, {"top_p": 0.3}, {"top_k": 9, "top_p": 0.5}]
)
def test_among_equal_logits_the_lower_ids_stay(params):
    logits = torch.zeros(4, 1300)
    logits[:, ::2] = 1.0
    rows = with_uniforms(SamplingParams(**params), 4)
    assert draw(logits, rows) == expected(logits, rows)


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_k": 300}, {"top_k": 300, "top_p": 0.9}])
def test_more_candidates_than_fit_their_list_change_nothing(params, monkeypatch):
    logits = make_logits(2, scale=0.5)
    rows = with_uniforms(SamplingParams(**params), 2)
    listed = draw(logits, rows)
    monkeypatch.setattr(sampler, "_MAX_CANDIDATES", 16)
    assert draw(logits, rows) == listed == expected(logits, rows)


def test_a_row_draws_the_same_token_alone_and_in_any_batch():
    kinds = [{"temperature": 0.0}, {}, {"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.2, "temperature": 0.7}]
    logits = make_logits(len(kinds), seed=4)
    rows = [(SamplingParams(**kind), keyed_uniform(3, 0, place)) for place, kind in enumerate(kinds)]
    together = draw(logits, rows)
    assert together == [draw(logits[[row]], [rows[row]])[0] for row in range(len(rows))]
    assert together[::-1] == draw(logits.flip(0), rows[::-1])


def test_greedy_takes_the_lowest_id_among_equal_logits_of_several_chunks():
    logits = torch.full((1, VOCAB_SIZE), -1.0)
    logits[0, [1030, 1031, 1400]] = 4.0
    assert draw(logits, [(SamplingParams(temperature=0.0), 0.0)]) == [1030]


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf])
def test_a_row_that_cannot_be_drawn_says_so_and_no_other_notices(rubbish):
    logits = make_logits(3)
    rows = with_uniforms(SamplingParams(top_p=0.9), 3)
    before = draw(logits, rows)
    logits[1, 1300] = rubbish
    assert draw(logits, rows) == [before[0], NO_TOKEN, before[2]]
    logits[1] = -torch.inf
    assert draw(logits, rows) == [before[0], NO_TOKEN, before[2]]


def test_suppressed_ids_are_never_drawn():
    logits = make_logits(6)
    suppressed = sorted({int(row.argmax()) for row in logits})
    rows = [(SamplingParams(temperature=0.0), 0.0)] * 3 + with_uniforms(SamplingParams(), 3)
    without = logits.clone()
    without[:, suppressed] = -torch.inf
    assert draw(logits, rows, suppressed) == expected(without, rows)


def test_a_token_of_no_weight_is_never_drawn():
    logits = torch.full((2, 1100), -torch.inf)
    logits[:, [2, 1050]] = 0.0
    assert draw(logits, [(SamplingParams(), 0.0), (SamplingParams(), 1 - 2.0**-53)]) == [2, 1050]


def test_no_rows_draw_nothing():
    assert draw(make_logits(0), []) == []
