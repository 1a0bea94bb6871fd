from __future__ import annotations

from gptoss_ray.generation import GenerationRequest
from gptoss_ray.ranks.prefix_index import PrefixIndex, request_hashes


def test_blocks_that_were_long_unused_are_forgotten_from_their_end():
    index = PrefixIndex(6)
    old, new = [b"a1", b"a2", b"a3", b"a4"], [b"b1", b"b2", b"b3", b"b4"]
    index.add(old)
    index.add(new)
    assert index.num_leading(new) == 4
    assert index.num_leading(old) == 2
    assert len(index) == 6


def test_a_prompt_longer_than_the_memory_leaves_its_beginning():
    index = PrefixIndex(2)
    index.add([b"a1", b"a2", b"a3"])
    assert index.num_leading([b"a1", b"a2", b"a3"]) == 2


def test_a_resumed_request_has_the_hashes_of_its_prompt_and_of_its_output_up_to_a_bound():
    first = request_hashes(GenerationRequest("r", tuple(range(9)), cache_salt="x"), 4, 100)
    resumed = GenerationRequest("r", tuple(range(9)), emitted_token_ids=(9, 10, 11), cache_salt="x")
    assert len(first) == 2
    assert request_hashes(resumed, 4, 100)[:2] == first
    assert len(request_hashes(resumed, 4, 100)) == 3
    assert request_hashes(resumed, 4, 2) == first
    assert request_hashes(GenerationRequest("r", tuple(range(9))), 4, 100)[0] != first[0]
