from __future__ import annotations

from random import Random

import pytest

from gptoss_ray.demo_training.conversations import (
    SKILLS,
    Mixture,
    branch,
    draw_chat,
    draw_group,
    draw_setting,
    prefix_tokens,
    prompt_tokens,
)
from gptoss_ray.demo_training.skills import tools
from gptoss_ray.demo_training.skills.functions import draw_functions
from gptoss_ray.demo_training.turn import Call, unmarked
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.stream_parser import StreamParser


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("held_out", [False, True])
def test_the_server_reads_back_the_answer_that_is_taught(
    encoding: HarmonyEncoding, skill: str, held_out: bool
) -> None:
    rng = Random(0)
    for _ in range(10):
        setting = draw_setting(rng, with_tools=skill.startswith("tool"), held_out=held_out)
        chat = draw_chat(rng, setting, skill, held_out=held_out)
        sample = branch(encoding, prefix_tokens(encoding, setting), chat)
        prompt = sum(sample.prefix, ()) + sample.tokens[: sample.num_prompt_tokens]
        assert prompt == tuple(prompt_tokens(encoding, chat))
        parser = StreamParser(encoding)
        deltas = [*parser.feed(list(sample.tokens[sample.num_prompt_tokens :])), *parser.finish()]
        texts = {
            channel: "".join(delta.text for delta in deltas if delta.channel == channel)
            for channel in ("analysis", "commentary", "final")
        }
        assert texts["analysis"] == unmarked(chat.reasoning)
        if isinstance(chat.reply, Call):
            assert texts["commentary"] == unmarked(chat.reply.arguments)
            assert {delta.recipient for delta in deltas if delta.channel == "commentary"} == {
                f"functions.{chat.reply.name}"
            }
        else:
            assert texts["final"] == unmarked(chat.reply)


def test_the_same_seed_draws_the_same_data(encoding: HarmonyEncoding) -> None:
    assert draw_group(encoding, Random("0 7"), Mixture()) == draw_group(encoding, Random("0 7"), Mixture())


def test_more_effort_is_more_reasoning(encoding: HarmonyEncoding) -> None:
    lengths: dict[str, list[int]] = {"low": [], "medium": [], "high": []}
    rng = Random(0)
    for _ in range(300):
        setting = draw_setting(rng, with_tools=False, held_out=False)
        chat = draw_chat(rng, setting, "sums", held_out=False)
        lengths[setting.options.reasoning_effort].append(len(encoding.encode(chat.reasoning)))
    means = [sum(lengths[effort]) / len(lengths[effort]) for effort in ("low", "medium", "high")]
    assert means == sorted(means)


@pytest.mark.parametrize("mark", ["'s", "-"])
def test_some_argument_values_hold_apostrophes_and_hyphens(mark: str) -> None:
    rng = Random(0)
    turns = [tools.draw(rng, draw_functions(rng, held_out=False), held_out=False) for _ in range(300)]
    calls = [turn.call.arguments for turn in turns if mark in turn.call.arguments]
    assert calls
    assert len(calls) < 60
