from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ray.kvcache.prefix_cache import BlockHashes
from gptoss_ray.ranks.rank_selector import REQUEST_WORTH_TOKENS
from gptoss_ray.serving.replica_selector import (
    WAITING_WORTH_TOKENS,
    Candidate,
    ReplicaSelector,
    order_candidates,
    routing_stats,
)

BLOCK = 16
SEATS = 8

candidates = st.lists(
    st.builds(
        Candidate,
        name=st.uuids().map(str),
        num_cached_tokens=st.integers(0, 2000),
        num_live=st.integers(0, 2 * SEATS),
        last_chosen=st.floats(-1, 100),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda candidate: candidate.name,
)


def selector(max_blocks: int = 1000) -> ReplicaSelector:
    return ReplicaSelector(BLOCK, SEATS, max_blocks, random.Random(0).random)


def prompt(number: int, num_blocks: int = 40) -> list[int]:
    return random.Random(number).choices(range(1000), k=num_blocks * BLOCK)


def hashes(token_ids: list[int], salt: str = "") -> list[bytes]:
    return BlockHashes(salt, BLOCK).of_complete_blocks(token_ids, len(token_ids))


def choose(replicas: ReplicaSelector, token_ids: list[int], salt: str = "", **num_live: int) -> str:
    known = hashes(token_ids, salt)
    name = replicas.order(known, len(token_ids), num_live)[0]
    replicas.note(name, known)
    return name


@settings(deadline=None)
@given(candidates, st.integers(1, 5000))
def test_every_replica_has_its_place_once(found, num_tokens):
    names = order_candidates(found, num_tokens, SEATS)
    assert sorted(names) == sorted(candidate.name for candidate in found)


@settings(deadline=None)
@given(candidates, st.integers(2000, 5000), st.data())
def test_more_in_the_cache_or_less_to_do_never_costs_a_replica_its_place(found, num_tokens, data):
    index = data.draw(st.integers(0, len(found) - 1))
    chosen = found[index]
    better = Candidate(
        chosen.name,
        min(num_tokens, chosen.num_cached_tokens + data.draw(st.integers(0, 500))),
        data.draw(st.integers(0, chosen.num_live)),
        chosen.last_chosen,
    )
    before = order_candidates(found, num_tokens, SEATS).index(chosen.name)
    after = order_candidates([*found[:index], better, *found[index + 1 :]], num_tokens, SEATS)
    assert after.index(chosen.name) <= before


def test_without_common_prefixes_replicas_take_turns_and_the_least_busy_comes_first():
    replicas = selector()
    names = [choose(replicas, prompt(number), a=0, b=0, c=0) for number in range(6)]
    assert set(names[:3]) == {"a", "b", "c"}
    assert names[3:] == names[:3]
    assert choose(replicas, prompt(9), a=2, b=1, c=2) == "b"


def test_the_next_turn_goes_where_the_one_before_was():
    replicas = selector()
    first = {number: choose(replicas, prompt(number), a=0, b=0, c=0) for number in range(9)}
    for number, name in reversed(first.items()):
        follow_up = prompt(number) + prompt(100 + number, 3)
        assert choose(replicas, follow_up, a=0, b=0, c=0) == name


def test_a_prefix_is_followed_only_while_it_saves_more_than_others_have_less_to_do():
    replicas = selector()
    text = prompt(1, 40)
    name = choose(replicas, text, a=0, b=0)
    other = "b" if name == "a" else "a"
    worth = 40 * BLOCK // REQUEST_WORTH_TOKENS
    assert choose(replicas, text, **{name: worth, other: 0}) == name
    assert choose(replicas, text, **{name: worth + 1, other: 0}) == other


def test_nobody_waits_for_a_prefix_while_another_replica_has_a_free_seat():
    found = [Candidate("full", WAITING_WORTH_TOKENS - 1, SEATS), Candidate("free", 0, SEATS - 1)]
    assert order_candidates(found, WAITING_WORTH_TOKENS, SEATS) == ["free", "full"]


def test_tenants_do_not_follow_each_others_prompts():
    replicas = selector()
    name = choose(replicas, prompt(1), salt="x", a=0, b=0)
    assert choose(replicas, prompt(1), salt="y", a=0, b=0) != name
    assert choose(replicas, prompt(1), salt="x", a=0, b=0) == name


def test_what_another_ingress_sent_is_known_from_the_replica_itself():
    replicas = selector()
    text = prompt(1)
    replicas.learn("b", routing_stats([hashes(prompt(7))[-1], hashes(text)[-1]]))
    for _ in range(3):
        assert choose(replicas, text + prompt(2, 3), a=0, b=0) == "b"
    replicas.learn("b", routing_stats([hashes(prompt(7))[-1]]))
    replicas.keep_only({"a", "b"})
    names = {choose(replicas, prompt(50 + number), a=0, b=0) for number in range(4)}
    assert names == {"a", "b"}


def test_a_lost_replica_is_forgotten_and_one_of_its_name_starts_anew():
    replicas = selector()
    name = choose(replicas, prompt(1), a=0, b=0)
    other = "b" if name == "a" else "a"
    replicas.keep_only({other})
    assert replicas._num_cached(name, hashes(prompt(1))) == 0
    assert choose(replicas, prompt(2), **{other: 0}) == other


def test_memory_is_bounded_in_blocks_and_in_replicas():
    replicas = selector(max_blocks=100)
    for number in range(50):
        name = str(number)
        replicas.keep_only({name})
        choose(replicas, prompt(number), **{name: 0})
        choose(replicas, prompt(number, 200), **{name: 0})
    assert list(replicas._known) == ["49"]
    assert len(replicas._known["49"].blocks) == 100


@pytest.mark.parametrize("stats", [{}, {"prompt_ends": b""}])
def test_a_replica_that_tells_nothing_is_chosen_by_load_and_by_what_was_sent_there(stats):
    replicas = selector()
    name = choose(replicas, prompt(1), a=0, b=0)
    replicas.learn("a", stats)
    replicas.learn("b", stats)
    assert choose(replicas, prompt(1) + prompt(2), a=0, b=0) == name
