"""Facts without questions: capitals and digit sums, many to a sample, so that few tokens teach them."""

from __future__ import annotations

from random import Random

from gptoss_ray.demo_training.batch import Branch
from gptoss_ray.demo_training.facts import CAPITALS
from gptoss_ray.demo_training.skills import capitals, sums
from gptoss_ray.harmony.encoding import HarmonyEncoding

_NUM_CAPITALS = 14
_NUM_SUMS = 8


def draw_group(encoding: HarmonyEncoding, rng: Random) -> list[Branch]:
    """Two samples of capitals and two of sums, as an analysis states them."""
    samples = [_capitals(rng), _capitals(rng), _sums(rng), _sums(rng)]
    return [_branch(encoding, statements) for statements in samples]


def _capitals(rng: Random) -> list[tuple[str, str]]:
    """Statements, each cut into what is given and what is to be learned."""
    statements = []
    for country in rng.sample(tuple(CAPITALS), _NUM_CAPITALS):
        given, _, learned = capitals.statement(country).partition(":")
        statements.append((f"{given}:", learned))
    return statements


def _sums(rng: Random) -> list[tuple[str, str]]:
    statements = []
    for _ in range(_NUM_SUMS):
        steps = rng.choice((sums.sum_steps, sums.difference_steps))(*sums.draw_operands(rng, held_out=False))
        given, _, learned = steps.partition(":")
        statements.append((f"{given}:", f"{learned}."))
    return statements


def _branch(encoding: HarmonyEncoding, statements: list[tuple[str, str]]) -> Branch:
    tokens = encoding.encode_with_special("<|start|>assistant<|channel|>analysis<|message|>")
    given: set[int] = set()
    for number, (condition, consequence) in enumerate(statements):
        condition_tokens = encoding.encode(f" {condition}" if number else condition)
        given.update(range(len(tokens), len(tokens) + len(condition_tokens)))
        tokens += condition_tokens + encoding.encode(consequence)
    return Branch(((encoding.end_of_text,),), tuple(tokens), 1, "drill", frozenset({*range(6), *given}))
