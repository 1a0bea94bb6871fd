"""A little of what `make fuzz` does at length: random bytes, and seeds with bytes changed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS


@st.composite
def spoiled(draw, seeds):
    """A seed with some bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        data[at : at + length] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_errors_that_are_meant_comes_of_random_bytes(name):
    target, seeds = TARGETS[name], SEEDS[name]

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(max_size=400) | spoiled(seeds))
    def feed(data):
        target(data)

    for seed in seeds:
        target(seed)
    feed()
