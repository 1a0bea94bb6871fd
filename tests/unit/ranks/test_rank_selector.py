from __future__ import annotations

import random

import pytest

from gptoss_ray.kvcache.prefix_cache import BlockHashes
from gptoss_ray.ranks.rank_room import RankRoom
from gptoss_ray.ranks.rank_selector import REQUEST_WORTH_TOKENS, RankSelector, Seat

BLOCK = 16


class Ranks:
    """A selector whose requests are known by the rank that they went to."""

    def __init__(self, num_ranks: int, max_live: int, num_blocks: int) -> None:
        room = RankRoom(max_live, num_blocks, blocks_of=lambda num_tokens: -(-num_tokens // BLOCK))
        self.selector = RankSelector(num_ranks, BLOCK, room)
        self.seats: list[Seat] = []

    def acquire(self, token_ids: tuple[int, ...], salt: str = "", num_output_tokens: int = 0) -> int | None:
        hashes = BlockHashes(salt, BLOCK).of_complete_blocks(token_ids, len(token_ids))
        seat = self.selector.acquire(hashes, len(token_ids), num_output_tokens)
        if seat is None:
            return None
        self.seats.append(seat)
        return seat.rank

    def release(self, rank: int) -> None:
        seat = next(seat for seat in self.seats if seat.rank == rank)
        self.seats.remove(seat)
        self.selector.release(seat)

    @property
    def num_live(self) -> int:
        return self.selector.num_live


def selector(num_ranks: int = 3, max_live: int = 64, num_blocks: int = 1 << 20) -> Ranks:
    return Ranks(num_ranks, max_live, num_blocks)


def prompt(number: int, num_tokens: int = 4 * BLOCK) -> tuple[int, ...]:
    return tuple(random.Random(number).choices(range(1000), k=num_tokens))


def test_requests_without_a_common_prefix_go_round_the_ranks():
    ranks = selector()
    assert [ranks.acquire(prompt(number)) for number in range(6)] == [0, 1, 2, 0, 1, 2]
    assert ranks.num_live == 6


def test_the_next_turn_of_a_conversation_goes_to_the_rank_that_has_its_blocks():
    ranks = selector()
    first_turns = {number: ranks.acquire(prompt(number)) for number in range(6)}
    for rank in first_turns.values():
        ranks.release(rank)
    for number, rank in reversed(first_turns.items()):
        assert ranks.acquire(prompt(number) + prompt(100 + number)) == rank
        ranks.release(rank)


def test_of_two_matches_the_longer_one_wins():
    ranks = selector(num_ranks=2)
    shared, tail = prompt(1), prompt(2)
    assert ranks.acquire(shared) == 0
    assert ranks.acquire(shared + tail) == 1, "rank 0 is busy"
    ranks.release(0)
    ranks.release(1)
    for number in range(3):
        ranks.release(rank := ranks.acquire(shared + tail + prompt(10 + number)))
        assert rank == 1


def test_a_match_does_not_outweigh_a_rank_that_is_much_busier():
    ranks = selector(num_ranks=2)
    text = prompt(1, 4 * BLOCK)
    first = ranks.acquire(text)
    assert ranks.acquire(text) == 1 - first, "64 cached tokens are worth less than a live request"
    ranks.release(0)
    ranks.release(1)
    long = prompt(2, 4 * REQUEST_WORTH_TOKENS)
    home = ranks.acquire(long)
    assert [ranks.acquire(long) for _ in range(3)] == [home] * 3
    assert ranks.acquire(prompt(3)) == 1 - home


def test_another_tenants_prefix_is_not_a_match():
    ranks = selector(num_ranks=2)
    text = prompt(1, 8 * REQUEST_WORTH_TOKENS)
    home = ranks.acquire(text, "tenant a")
    assert ranks.acquire(text, "tenant b") == 1 - home
    assert ranks.acquire(text, "tenant a") == home


def test_a_rank_takes_so_many_requests_at_once_and_then_there_is_none():
    ranks = selector(num_ranks=2, max_live=2)
    text = prompt(1, 100 * REQUEST_WORTH_TOKENS)
    assert [ranks.acquire(text) for _ in range(5)] == [0, 0, 1, 1, None]
    ranks.release(1)
    assert ranks.acquire(text) == 1


def test_a_rank_takes_what_its_kv_blocks_hold_the_output_included_and_one_request_in_any_case():
    ranks = selector(num_ranks=1, num_blocks=10)
    assert ranks.acquire(prompt(1, 4 * BLOCK), num_output_tokens=2 * BLOCK) == 0
    assert ranks.acquire(prompt(2, 4 * BLOCK), num_output_tokens=1) is None
    assert ranks.acquire(prompt(2, 4 * BLOCK)) == 0
    ranks.release(0)
    ranks.release(0)
    assert ranks.acquire(prompt(3, 99 * BLOCK)) == 0


def test_blocks_that_a_rank_has_already_need_no_room():
    ranks = selector(num_ranks=1, num_blocks=10)
    text = prompt(1, 8 * BLOCK)
    assert [ranks.acquire(text, num_output_tokens=BLOCK) for _ in range(3)] == [0, 0, None]


def test_a_new_prompt_goes_to_a_least_loaded_rank_whatever_comes_and_goes():
    ranks, live = selector(num_ranks=4), []
    rng = random.Random(0)
    for number in range(300):
        while live and rng.random() < 0.4:
            ranks.release(live.pop(rng.randrange(len(live))))
        counts = [live.count(rank) for rank in range(4)]
        live.append(ranks.acquire(prompt(number, rng.randrange(1, 5 * BLOCK))))
        assert counts[live[-1]] == min(counts)


def test_a_request_is_released_once():
    ranks = selector()
    ranks.release(ranks.acquire(prompt(0)))
    with pytest.raises(AssertionError):
        ranks.selector.release(Seat(0, 0))
