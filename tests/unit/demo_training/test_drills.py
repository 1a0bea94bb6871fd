from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.skills import drills
from gptoss_ray.harmony.encoding import HarmonyEncoding


def test_a_drill_of_functions_tells_of_each_what_the_prompt_defines(encoding: HarmonyEncoding) -> None:
    samples = drills.draw_functions(encoding, Random(0))
    orders = set()
    for sample in samples:
        prompt = encoding.decode_bytes(sample.prefix[1]).decode()
        analysis = encoding.decode_bytes(sample.tokens).decode().partition("<|message|>About ")[2]
        definitions = analysis.split(". About ")
        assert len(definitions) >= 3
        assert all(definition in prompt and "\ntype " in definition for definition in definitions)
        orders.add(tuple(definitions))
    assert len(orders) == len(samples)


def test_a_drill_of_functions_gives_how_each_begins_and_asks_for_the_rest(encoding: HarmonyEncoding) -> None:
    for sample in drills.draw_functions(encoding, Random(1)):
        about = encoding.encode(". About")
        starts = [
            index
            for index in range(len(sample.tokens))
            if list(sample.tokens[index : index + len(about)]) == about
        ]
        assert len(starts) >= 2
        for start in starts:
            given = range(start, start + len(about) + 1)
            assert sample.given.issuperset(given)
            assert given.stop not in sample.given
