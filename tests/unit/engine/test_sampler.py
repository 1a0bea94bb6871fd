from __future__ import annotations

import pytest
import torch

from gptoss_ray.engine.sampler import SampledToken, Sampler
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.errors import GptossError, InternalError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry

VOCAB_SIZE = 301


def make_sequence(prompt=(1, 2, 3), emitted=(), **params):
    table = BlockTable(BlockPool(2), KVGeometry(16, 16, 16))
    params.setdefault("max_tokens", 100)
    request = GenerationRequest("r", tuple(prompt), SamplingParams(**params), tuple(emitted))
    return Sequence(request, table, 1000)


def make_logits(num_rows=1, seed=0):
    return torch.randn(num_rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 2


def sample(logits, *sequences, suppressed=()):
    """What each sequence draws: one token, or why not."""
    draws = Sampler(VOCAB_SIZE, suppressed).sample(logits.clone(), sequences, {})
    return [draw if isinstance(draw, GptossError) else only(draw) for draw in draws]


def only(draw):
    [token] = draw
    return token


EVERY_KIND = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.0, "presence_penalty": 1.5, "repetition_penalty": 1.3},
    {"seed": 5, "logprobs": 0},
    {"seed": 6, "top_p": 0.9},
    {"seed": 7, "top_k": 9, "min_p": 0.02},
    {"seed": 8, "logit_bias": ((4, 5.0),), "frequency_penalty": 0.5, "logprobs": 20},
    {"seed": 9, "min_tokens": 50, "stop_token_ids": (7, 8)},
]


def test_a_row_draws_the_same_bits_alone_and_in_any_batch():
    logits = make_logits(len(EVERY_KIND))
    sequences = [make_sequence(emitted=(4, 4, 9), **kind) for kind in EVERY_KIND]
    together = sample(logits, *sequences)
    alone = [sample(logits[row : row + 1], sequence)[0] for row, sequence in enumerate(sequences)]
    reversed_order = sample(logits.flip(0), *sequences[::-1])[::-1]
    assert together == alone == reversed_order


def test_greedy_takes_the_lowest_id_among_equal_logits():
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [40, 30, 90]] = 1.0
    assert sample(logits, make_sequence(temperature=0.0)) == [SampledToken(30)]


def test_a_row_that_cannot_be_drawn_fails_alone(caplog):
    logits = make_logits(4)
    logits[1, 3] = torch.nan
    logits[2, 3] = torch.inf
    sequences = [make_sequence(seed=seed) for seed in range(4)]
    draws = sample(logits, *sequences)
    assert isinstance(draws[1], InternalError)
    assert isinstance(draws[2], InternalError)
    assert draws[0] == sample(logits[:1], sequences[0])[0]
    assert draws[3] == sample(logits[3:], sequences[3])[0]
    assert "sampling_failed request_id=r" in caplog.text


def test_a_request_whose_every_token_is_masked_fails_and_no_other():
    impossible = make_sequence(min_tokens=5, stop_token_ids=tuple(range(VOCAB_SIZE)))
    draws = sample(make_logits(2), impossible, make_sequence(temperature=0.0))
    assert isinstance(draws[0], InternalError)
    assert isinstance(draws[1], SampledToken)


def test_an_unexpected_exception_becomes_an_internal_error_without_its_text():
    broken = make_sequence(temperature=0.0, logit_bias=((VOCAB_SIZE + 5, 1.0),))
    [draw] = sample(make_logits(), broken)
    assert isinstance(draw, InternalError)
    assert "index" not in str(draw)


def test_suppressed_ids_are_neither_drawn_nor_reported():
    logits = make_logits()
    best, second = logits[0].argsort(descending=True)[:2].tolist()
    [greedy] = sample(logits, make_sequence(temperature=0.0, logprobs=2), suppressed=[best])
    assert greedy.token_id == second
    without_best = logits[0].clone()
    without_best[best] = -torch.inf
    expected = torch.log_softmax(without_best.double(), 0)[second]
    assert greedy.logprobs[0].logprob == pytest.approx(float(expected), abs=1e-5)
    assert best not in [token_id for token_id, _ in greedy.logprobs[0].top]


def test_logprobs_are_of_the_models_distribution_before_any_adjustment():
    logits = make_logits()
    expected = torch.log_softmax(logits[0].double(), 0)
    sequence = make_sequence(temperature=0.2, seed=3, logprobs=4, logit_bias=((11, 100.0),))
    [draw] = sample(logits, sequence)
    assert draw.token_id == 11
    assert draw.logprobs[0].logprob == pytest.approx(float(expected[11]), abs=1e-5)
    top_ids, top_logprobs = zip(*draw.logprobs[0].top, strict=True)
    assert list(top_ids) == expected.argsort(descending=True)[:4].tolist()
    assert top_logprobs == pytest.approx(expected[list(top_ids)].tolist(), abs=1e-5)


def test_no_logprobs_are_made_unless_asked_for_and_zero_means_only_the_tokens_own():
    [without] = sample(make_logits(), make_sequence())
    [own] = sample(make_logits(), make_sequence(logprobs=0))
    assert without.logprobs == ()
    assert own.logprobs[0].top == ()


def test_stop_tokens_cannot_come_before_min_tokens_and_can_afterwards():
    logits = make_logits()
    best = int(logits.argmax())
    params = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": (best,)}
    assert sample(logits, make_sequence(emitted=(5,), **params))[0].token_id != best
    assert sample(logits, make_sequence(emitted=(5, 6), **params))[0].token_id == best


def greedy_token(logits, **params):
    [draw] = sample(logits, make_sequence(temperature=0.0, **params))
    return draw.token_id


def test_presence_penalty_counts_a_token_once_and_frequency_penalty_each_time():
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 10], logits[0, 20] = 3.0, 1.5
    assert greedy_token(logits, emitted=(10, 10, 10), presence_penalty=1.4) == 10
    assert greedy_token(logits, emitted=(10, 10, 10), presence_penalty=1.6) == 20
    assert greedy_token(logits, emitted=(10, 10), frequency_penalty=0.7) == 10
    assert greedy_token(logits, emitted=(10, 10, 10), frequency_penalty=0.7) == 20


def test_output_penalties_leave_prompt_tokens_alone_and_repetition_penalty_does_not():
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 10], logits[0, 20] = 3.0, 2.0
    assert greedy_token(logits, prompt=(10,), presence_penalty=2.0, frequency_penalty=2.0) == 10
    assert greedy_token(logits, prompt=(10,), repetition_penalty=1.6) == 20
    assert greedy_token(logits, emitted=(10,), repetition_penalty=1.6) == 20


def test_repetition_penalty_pushes_negative_logits_down():
    logits = torch.full((1, VOCAB_SIZE), -9.0)
    logits[0, 10], logits[0, 20] = -1.0, -1.5
    assert greedy_token(logits, prompt=(10,), repetition_penalty=2.0) == 20


def test_the_bias_is_added_after_the_penalties():
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 10] = 4.0
    assert greedy_token(logits, emitted=(20,), repetition_penalty=10.0, logit_bias=((20, 4.5),)) == 20


def test_the_draw_is_keyed_by_seed_choice_and_position():
    logits = make_logits()

    def draws(**params):
        sequences = [make_sequence(emitted=(1,) * position, **params) for position in range(30)]
        return [draw.token_id for draw in sample(logits.expand(30, -1), *sequences)]

    assert draws(seed=1) == draws(seed=1)
    assert draws(seed=1) != draws(seed=2)
    assert draws(seed=1) != draws(seed=1, choice_index=1)
    assert len(set(draws(seed=1))) > 5


def test_extreme_but_allowed_parameters_raise_no_numpy_warning():
    [draw] = sample(make_logits() * 1e4, make_sequence(temperature=1e-9, top_p=1e-300))
    assert isinstance(draw, SampledToken)
