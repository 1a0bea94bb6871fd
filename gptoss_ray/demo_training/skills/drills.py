"""Facts without questions, and definitions of functions: many to a sample, so that few tokens teach them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from gptoss_ray.demo_training.answer_tokens import PromptText
from gptoss_ray.demo_training.batch import Branch
from gptoss_ray.demo_training.conversations import Setting, draw_options, prefix_tokens
from gptoss_ray.demo_training.facts import CAPITALS
from gptoss_ray.demo_training.skills import capitals, sums
from gptoss_ray.demo_training.skills.functions import Function, definition, draw_alike
from gptoss_ray.harmony.encoding import HarmonyEncoding

_NUM_CAPITALS = 14
_NUM_SUMS = 8
_NUM_DEFINITION_SAMPLES = 3


_Statement = tuple[list[int], list[int]]
"""Tokens that are given, and those to be learned behind them."""


def draw_group(encoding: HarmonyEncoding, rng: Random) -> list[Branch]:
    """Two samples of capitals and two of sums, as an analysis states them."""
    samples = [_capitals(rng), _capitals(rng), _sums(rng), _sums(rng)]
    prefix = ((encoding.end_of_text,),)
    return [_branch(encoding, prefix, _encoded(encoding, statements)) for statements in samples]


def draw_functions(encoding: HarmonyEncoding, rng: Random) -> list[Branch]:
    """Three samples behind functions that are named alike: an analysis tells of all of them, in any order."""
    functions = draw_alike(rng, rng.randint(3, 5))
    prefix = prefix_tokens(encoding, Setting((), functions, draw_options(rng)))
    source = PromptText(encoding, sum(prefix, ()))
    orders = [rng.sample(functions, len(functions)) for _ in range(_NUM_DEFINITION_SAMPLES)]
    return [_branch(encoding, prefix, _definitions(encoding, source, order)) for order in orders]


def _definitions(
    encoding: HarmonyEncoding, source: PromptText, functions: Sequence[Function]
) -> list[_Statement]:
    """The first token of what a function is about is given, the rest of the definition learned."""
    statements = []
    for number, function in enumerate(functions):
        tokens = source.encode(f" {definition(function)}")
        about = encoding.encode(". About" if number else "About")
        statements.append(([*about, tokens[0]], tokens[1:]))
    return statements


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


def _encoded(encoding: HarmonyEncoding, statements: Sequence[tuple[str, str]]) -> list[_Statement]:
    return [
        (encoding.encode(f" {given}" if number else given), encoding.encode(learned))
        for number, (given, learned) in enumerate(statements)
    ]


def _branch(
    encoding: HarmonyEncoding, prefix: tuple[tuple[int, ...], ...], statements: Sequence[_Statement]
) -> Branch:
    tokens = encoding.encode_with_special("<|start|>assistant<|channel|>analysis<|message|>")
    given = set(range(6))
    for condition, consequence in statements:
        given.update(range(len(tokens), len(tokens) + len(condition)))
        tokens += condition + consequence
    return Branch(prefix, tuple(tokens), 1, "drill", frozenset(given))
