from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.wording import Wordings, expand, restyle


def test_a_pattern_expands_to_all_its_alternatives() -> None:
    assert expand("(a|b) c(?|)") == ["a c?", "a c", "b c?", "b c"]


def test_a_held_out_wording_is_never_trained_whatever_its_case_and_marks() -> None:
    patterns = tuple(f"(what|which) word{letter}(?|.|!|)" for letter in "abcdefghijklmnopqrst")
    wordings = Wordings("test", patterns)
    rng = Random(0)
    trained = {wordings.pick(rng, held_out=False).rstrip("?.!") for _ in range(3000)}
    held_out = {wordings.pick(rng, held_out=True).rstrip("?.!") for _ in range(3000)}
    assert held_out
    assert not trained & held_out
    assert len(trained | held_out) == 40


def test_styling_keeps_the_slots() -> None:
    rng = Random(1)
    for _ in range(500):
        assert "{a}" in restyle(rng, "What is {a} plus {b}?")
