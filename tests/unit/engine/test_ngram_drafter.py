from __future__ import annotations

import gc
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ray.engine import ngram_drafter
from gptoss_ray.engine.ngram_drafter import (
    MAX_CANDIDATES,
    MAX_MATCH,
    MAX_READ,
    MIN_MATCH,
    NgramDrafter,
    NgramIndex,
    continuation,
)
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kvcache.block_pool import BlockPool
from gptoss_ray.kvcache.block_table import BlockTable
from gptoss_ray.kvcache.geometry import KVGeometry


def make_sequence(text):
    request = GenerationRequest("r", tuple(text), SamplingParams(max_tokens=1000))
    return Sequence(request, BlockTable(BlockPool(2), KVGeometry(16, 16, 16)), 1 << 20)


def propose(text, length=5):
    [draft] = NgramDrafter().propose([make_sequence(text)], [length])
    return draft


def slow_find(text):
    """The reference: every earlier place, the latest first."""
    best, best_length, num_candidates = None, 0, 0
    for place in range(len(text) - 1, MIN_MATCH - 1, -1):
        length = 0
        while length < min(MAX_MATCH, place) and text[place - 1 - length] == text[len(text) - 1 - length]:
            length += 1
        if length >= MIN_MATCH and num_candidates < MAX_CANDIDATES and best_length < MAX_MATCH:
            num_candidates += 1
            if length > best_length:
                best, best_length = place, length
    return best


def test_what_followed_the_last_tokens_before_is_guessed_to_follow_again():
    assert propose((1, 2, 3, 4, 5, 6, 9, 1, 2, 3)) == (4, 5, 6, 9, 1)
    assert propose((1, 2, 3, 4, 5, 6, 9, 1, 2, 3), length=2) == (4, 5)


def test_nothing_is_guessed_where_the_last_tokens_are_new():
    assert propose((1, 2, 3, 4, 5)) == ()
    assert propose((1, 2, 9, 1, 2)) == ()  # fewer than MIN_MATCH
    assert propose((1,)) == ()


def test_nothing_is_guessed_where_nothing_is_wanted():
    assert propose((1, 2, 3, 4, 1, 2, 3), length=0) == ()
    assert propose((1, 2, 3, 4, 1, 2, 3), length=-1) == ()


def test_the_longest_match_wins_and_of_equal_ones_the_latest():
    assert propose((7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 7, 1, 2, 3), length=1) == (4,)
    assert propose((7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 6, 1, 2, 3), length=1) == (5,)


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so():
    assert propose((8, 1, 2, 1, 2, 1, 2, 1), length=7) == (2, 1, 2, 1, 2, 1, 2)
    assert continuation((4, 5, 6), 1, 5) == (5, 6, 5, 6, 5)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=120), st.integers(1, 9), st.integers(1, 9))
def test_an_index_that_grows_finds_what_a_search_of_the_whole_text_finds(text, growth, max_read):
    index = NgramIndex()
    for end in range(1, len(text) + 1, growth):
        for _ in range(growth):
            index.read(text[:end], max_read)
        assert index.read(text[:end])
        assert index.find(text[:end]) == slow_find(text[:end])


def test_a_long_prompt_is_read_in_several_look_ups(monkeypatch):
    text = [*range(100), *range(50)]
    monkeypatch.setattr(ngram_drafter.NgramIndex.read, "__defaults__", (60,))
    drafter, sequence = NgramDrafter(), make_sequence(text)
    assert [drafter.propose([sequence], [1]) for _ in range(3)] == [[()], [()], [(50,)]]
    assert MAX_READ >= 1024


def test_it_follows_a_sequence_as_it_grows_and_forgets_it_with_it():
    drafter, sequence = NgramDrafter(), make_sequence((1, 2, 3, 4, 9, 1, 2))
    assert drafter.propose([sequence], [3]) == [()]
    sequence.append(3)
    assert drafter.propose([sequence], [3]) == [(4, 9, 1)]
    assert len(drafter._indices) == 1
    del sequence
    gc.collect()
    assert len(drafter._indices) == 0


def test_sequences_do_not_see_each_others_texts():
    first, second = make_sequence((1, 2, 3, 4, 9)), make_sequence((8, 1, 2, 3))
    assert NgramDrafter().propose([first, second], [3, 3]) == [(), ()]


def test_a_look_up_takes_no_more_steps_in_a_longer_text():
    """Counted, not timed: tokens that are compared."""

    class Counted(list):
        num_reads = 0

        def __getitem__(self, key):
            if isinstance(key, int):
                Counted.num_reads += 1
            return super().__getitem__(key)

    def reads(length):
        text = Counted(random.Random(1).choices(range(3), k=length))
        index = NgramIndex()
        while not index.read(text):
            pass
        Counted.num_reads = 0
        index.find(text)
        return Counted.num_reads

    assert max(reads(1000), reads(20_000)) <= 2 * MAX_CANDIDATES * MAX_MATCH
