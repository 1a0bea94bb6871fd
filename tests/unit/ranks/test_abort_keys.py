from __future__ import annotations

from gptoss_ray.generation import GenerationRequest
from gptoss_ray.ranks.abort_keys import AbortKeys


def request(request_id, key=""):
    return GenerationRequest(request_id, (1,), abort_key=key)


def test_live_requests_are_found_by_their_key_until_they_end():
    keys = AbortKeys()
    for each in (request("a", "k"), request("b", "k"), request("c", "other"), request("d")):
        keys.add(each)
    assert sorted(keys.ids("k")) == ["a", "b"]
    keys.discard("a")
    keys.discard("a")
    assert keys.ids("k") == ("b",)
    keys.discard("b")
    assert keys.ids("k") == ()
    assert keys.ids("") == ()
