"""Which drafts are checked, and what is learnt from them. No engine."""

from __future__ import annotations

import pytest

from gptoss_ray.config import MAX_DRAFTED_TOKENS, EngineConfig
from gptoss_ray.engine.ngram_drafter import NgramDrafter
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.speculation import (
    FIRST_LIKELIHOOD,
    Speculation,
    before_stop,
    make_speculation,
)
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry


class Says:
    """Always the same, as long as it may be."""

    def __init__(self, *draft):
        self.draft = draft

    def propose(self, sequences, max_lengths):
        return [self.draft[: max(0, length)] for length in max_lengths]


class RowsCost:
    """A step costs 1, and each row behind the first as much as is said."""

    def __init__(self, per_row):
        self.per_row = per_row

    def of(self, num_rows):
        return 1 + self.per_row * (num_rows - 1)


def make_sequence(num_output=0, **params):
    params = {"max_tokens": 100} | params
    table = BlockTable(BlockPool(2), KVGeometry(16, 16, 16))
    return Sequence(GenerationRequest("r", (1, 2), SamplingParams(**params), (5,) * num_output), table, 1000)


def lengths(speculation, sequences, max_num_tokens=1000):
    drafts = speculation.drafts(sequences, num_other_rows=0, max_num_tokens=max_num_tokens)
    return [len(drafts.get(sequence, ())) for sequence in sequences]


def test_a_draft_has_no_more_tokens_than_are_left_behind_it():
    speculation = Speculation(Says(*range(8)), 8, None)
    sequences = [make_sequence(num_output, max_tokens=20) for num_output in (0, 11, 15, 18, 19)]
    assert lengths(speculation, sequences) == [8, 8, 4, 1, 0]


def test_a_draft_ends_before_a_token_that_ends_the_sequence():
    assert before_stop((4, 5, 6), ()) == (4, 5, 6)
    assert before_stop((4, 5, 6), (6, 5)) == (4,)
    speculation = Speculation(Says(4, 5, 6), 8, None)
    assert lengths(speculation, [make_sequence(stop_token_ids=(6,)), make_sequence(stop_token_ids=(4,))]) == [
        2,
        0,
    ]


def test_a_sequence_whose_prompt_is_scored_has_none():
    assert lengths(Speculation(Says(4, 5), 8, None), [make_sequence(prompt_logprobs=1)]) == [0]


def test_all_drafts_of_a_step_have_a_limit():
    speculation = Speculation(Says(*range(8)), 8, None)
    sequences = [make_sequence() for _ in range(20)]
    assert sum(lengths(speculation, sequences)) == MAX_DRAFTED_TOKENS
    assert lengths(speculation, sequences[:3], max_num_tokens=11) == [8, 3, 0]


def test_what_was_wrong_before_is_no_longer_checked_and_what_became_right_is_again():
    """Also of drafts that were not checked: what came in their place is known afterwards."""
    speculation, sequence = Speculation(Says(7), 8, RowsCost(0.3)), make_sequence()
    assert lengths(speculation, [sequence]) == [1]
    for _ in range(3):
        [length] = lengths(speculation, [sequence])
        speculation.note(sequence, (7,)[:length], [9])
    assert lengths(speculation, [sequence]) == [0]
    speculation.note(sequence, (), [7])
    for _ in range(3):
        lengths(speculation, [sequence])
        speculation.note(sequence, (), [7])
    assert lengths(speculation, [sequence]) == [1]
    other = make_sequence()
    assert speculation._likelihoods.get(other, FIRST_LIKELIHOOD) == FIRST_LIKELIHOOD


def test_each_token_of_a_draft_counts_up_to_the_first_wrong_one():
    speculation, sequence = Speculation(Says(1, 2, 3, 4), 8, None), make_sequence()
    speculation.note(sequence, (1, 2, 3, 4), [1, 2, 9])
    whole = FIRST_LIKELIHOOD
    for was_right in (True, True, False):
        whole += 0.125 * (was_right - whole)
    assert speculation._likelihoods[sequence] == pytest.approx(whole)
    speculation.note(sequence, (1, 2), [1, 2, 5])
    assert speculation._likelihoods[sequence] > whole


def test_drafts_their_tokens_and_what_became_output_are_counted():
    speculation, sequence = Speculation(Says(), 8, None), make_sequence()
    speculation.note(sequence, (1, 2, 3), [1, 2, 9])
    speculation.note(sequence, (), [4])
    speculation.note(sequence, (1,), [5])
    counts = speculation.counts
    assert (counts.num_drafts, counts.num_tokens, counts.num_accepted) == (2, 4, 2)


@pytest.mark.parametrize(
    ("speculation", "device", "makes_drafts", "counts_cost"),
    [
        ("off", "cpu", False, False),
        ("ngram", "cpu", True, False),
        ("ngram", "cuda", True, False),
        ("auto", "cpu", True, True),
        ("auto", "cuda", False, False),
    ],
)
def test_auto_counts_the_cost_and_makes_none_where_that_is_not_known(
    speculation, device, makes_drafts, counts_cost
):
    config = EngineConfig(speculation=speculation)
    made = make_speculation(NgramDrafter(), config, RowsCost(1.0), device)
    assert (made is not None) is makes_drafts
    assert (made is not None and made._cost is not None) is counts_cost
