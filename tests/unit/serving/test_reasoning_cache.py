from hypothesis import given
from hypothesis import strategies as st

from gptoss_ray.serving.reasoning_cache import ReasoningCache


def test_any_of_a_messages_calls_brings_its_reasoning_back():
    cache = ReasoningCache(10, 1000)
    cache.keep("t", ["a", "b"], "look it up")
    assert cache.find("t", ["x", "b"]) == "look it up"
    assert cache.find("t", ["x"]) is None
    assert cache.find("t", []) is None


def test_no_tenant_finds_what_another_thought():
    cache = ReasoningCache(10, 1000)
    cache.keep("one", ["a"], "secret")
    assert cache.find("two", ["a"]) is None
    assert cache.find("", ["a"]) is None


def test_the_least_recently_used_is_dropped_first():
    cache = ReasoningCache(2, 1000)
    cache.keep("t", ["a"], "1")
    cache.keep("t", ["b"], "2")
    cache.find("t", ["a"])
    cache.keep("t", ["c"], "3")
    assert [cache.find("t", [name]) for name in "abc"] == ["1", None, "3"]


def test_an_empty_thought_and_one_that_never_fits_are_not_kept():
    cache = ReasoningCache(10, 5)
    cache.keep("t", ["a"], "")
    cache.keep("t", ["b"], "too long")
    assert len(cache) == 0
    off = ReasoningCache(0, 1000)
    off.keep("t", ["a"], "1")
    assert len(off) == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.text(max_size=12)), max_size=40))
def test_it_never_holds_more_than_its_bounds(thoughts):
    cache = ReasoningCache(4, 30)
    for call_id, reasoning in thoughts:
        cache.keep("t", [call_id], reasoning)
        assert len(cache) <= 4
        found = [text for name in "abcdef" if (text := cache.find("t", [name]))]
        assert sum(len(text.encode()) for text in found) <= 30
        assert len(found) == len(cache)
