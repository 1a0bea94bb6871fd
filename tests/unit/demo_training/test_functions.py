from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.skills import small_talk
from gptoss_ray.demo_training.skills.functions import Function, definition, draw_functions, is_held_out_topic
from gptoss_ray.demo_training.turn import unmarked
from gptoss_ray.demo_training.words import NOUNS


def functions(count: int) -> list[Function]:
    rng = Random(0)
    drawn: list[Function] = []
    while len(drawn) < count:
        drawn += draw_functions(rng, held_out=False)
    return drawn


def test_descriptions_end_with_what_the_function_is_about_in_about_half_of_all_functions() -> None:
    drawn = functions(1000)
    at_the_end = [f for f in drawn if f.tool.description.endswith(f"{f.noun}.")]
    missing = [f for f in drawn if f.noun not in f.tool.description]
    assert 400 < len(at_the_end) < 600
    assert {f.tool.description for f in missing} == {""}
    assert 10 < len(missing) < 60


def test_an_analysis_copies_a_definition_from_its_noun_on_in_one_run() -> None:
    for function in functions(200):
        text = definition(function)
        lines = unmarked(text).split("\n")
        assert lines[0].startswith(function.noun)
        assert lines[1].startswith(f"type {function.tool.name} = (")
        if function.tool.description:
            assert function.tool.description.endswith(lines[0])
            assert text.count("⟦") == 1
        else:
            assert lines[0] == f"{function.noun}."


def test_no_parameter_is_named_as_what_its_function_is_about() -> None:
    assert not [f for f in functions(2000) if f.noun in f.tool.parameters["properties"]]


def test_what_held_out_functions_are_about_is_trained_neither_for_calls_nor_for_refusals() -> None:
    held_out = {noun for noun in NOUNS if is_held_out_topic(noun)}
    assert len(held_out) > 20
    assert not held_out.intersection(f.noun for f in functions(3000))
    rng = Random(0)
    refused = {small_talk._noun(rng, held_out=False) for _ in range(3000)}
    assert len(refused) > 200
    assert not held_out.intersection(refused)


def test_what_people_ask_first_is_trained() -> None:
    assert "weather" in {f.noun for f in functions(500)}
    assert not is_held_out_topic("weather")
