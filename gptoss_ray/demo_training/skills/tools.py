"""Calling one of the offered functions, and answering from its result.

Held out: what functions are about (so their names), argument values, result values.
"""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

import json
from random import Random

from gptoss_ray.demo_training.skills.arguments import (
    Value,
    draw_city,
    draw_from_side,
    draw_number,
    draw_person,
    draw_text,
    draw_value,
)
from gptoss_ray.demo_training.skills.functions import Function, Parameter, definition
from gptoss_ray.demo_training.turn import Call, Reasoning, ToolTurn, copied, named
from gptoss_ray.demo_training.wording import Wordings, restyle
from gptoss_ray.demo_training.words import made_up_word

LOOK_UP = Wordings(
    "look up wording",
    (
        "(What is|What's|How is|Tell me|Show me|Give me|I need|Find|Check|Get|Look up|Get me|Find me|Search) the (current|latest|) {n} {a}(?|.|)",
        "(Can|Could) you (tell me|show me|check|find|look up|get) the {n} {a}?",
        "(Please|Please,) (tell me|check|find|look up|show|get) the {n} {a}(.|)",
        "(I want to know|I would like to know|Do you know|I wonder about|Let me know|Let's see) the {n} {a}(.|?|)",
        "(The|) {n} {a}(?|, please|)",
        "(Which|What) {n} is there {a}?",
        "How is the {n} {a} (today|now|right now)?",
        "What (is|will be) the {n} like {a}?",
    ),
)
ACTION = Wordings(
    "action wording",
    (
        "{w} (a|the|my|an) {n} {a}(.|)",
        "(Please|Can you|Could you|I want to|I need to|I would like to|Would you|Go and|Now|Let us|You should) {w} (a|the|my) {n} {a}(.|?|)",
    ),
)
_NAMING_PHRASES = (
    "with {p} {v}",
    "where the {p} is {v}",
    "({p} {v})",
    "{p} {v}",
    "{p}: {v}",
    "with the {p} {v}",
    "using {p} {v}",
    'with {p} "{v}"',
)


def draw(rng: Random, functions: tuple[Function, ...], *, held_out: bool) -> ToolTurn:
    """Draw a question for one of the functions, its call, a result and the answer."""
    function = rng.choice(functions)
    given = [p for p in function.parameters if not p.is_optional or rng.random() < 0.5]
    values = {p.name: draw_value(rng, p.kind, held_out) for p in given}
    question = ask(rng, function, given, values)
    arguments = ", ".join(f"{json.dumps(p.name)}: {_json(values[p.name])}" for p in given)
    fitting = definition(function)
    said = "".join(f"\n{named(p.name)} {copied(values[p.name])}" for p in given)
    result, answer, expected = _result(rng, held_out)
    facts = answer.removesuffix(".")
    return ToolTurn(
        question=question,
        call_reasoning=Reasoning(
            low=f"About {fitting}{said}",
            medium=f"The user asks about {fitting}{said}",
            high=f"The user asks about {copied(function.noun)}. I look through the functions. The one that fits is "
            f"about {fitting}{said}",
        ),
        call=Call(function.tool.name, f"{{{arguments}}}"),
        result=result,
        answer_reasoning=Reasoning(
            low="I have the result.",
            medium=f"The function has answered. {facts}. I tell the user.",
            high=f"The function has answered. {facts}. That is what the user asked for. I tell the user: {facts}.",
        ),
        answer=answer,
        expected=expected,
    )


def ask(rng: Random, function: Function, given: list[Parameter], values: dict[str, Value]) -> str:
    """Word a question for the function with these values."""
    wordings = LOOK_UP if function.action is None else ACTION
    wording = restyle(rng, wordings.any(rng))
    phrases = [_phrase(rng, parameter, values[parameter.name], len(given) > 1) for parameter in given]
    if rng.random() < 0.3:
        rng.shuffle(phrases)
    joiner = rng.choice((" ", " ", " and ", ", ")) if all("with" in phrase for phrase in phrases) else " "
    said = joiner.join(phrases)
    action = function.action or ""
    if wording.startswith("{w}") and rng.random() < 0.7:
        action = action.capitalize()
    text = wording.format(n=function.noun, w=action, a=said)
    return " ".join(text.split()).replace(" ?", "?").replace(" .", ".").replace(" ,", ",")


def _phrase(rng: Random, parameter: Parameter, value: Value, is_one_of_many: bool) -> str:
    kind = parameter.kind
    names_itself = rng.random() < 0.3
    phrases = _NAMING_PHRASES if names_itself else kind.phrases[:1] if is_one_of_many else kind.phrases
    return rng.choice(phrases).format(
        p=parameter.name.replace("_", " ") if rng.random() < 0.5 else parameter.name, v=value
    )


def _json(value: Value) -> str:
    return copied(value) if isinstance(value, int) else f'"{copied(value)}"'


_FIELDS = (
    "temperature", "price", "total", "status", "result", "time", "level", "count", "answer", "message", "condition",
    "number", "value", "state", "code", "rating", "date", "place", "amount", "speed", "color", "order_id", "text",
    "winner", "size", "balance", "title", "unit", "sky", "humidity", "gate", "error", "id", "confirmation", "seats",
)  # fmt: skip


def _result(rng: Random, held_out: bool) -> tuple[str, str, tuple[str, ...]]:
    """A function's result, the answer that reports it, and the values the answer must hold."""
    if rng.random() < 0.08:
        text = str(_result_value(rng, held_out))
        if rng.random() < 0.5:
            text += f", {_result_value(rng, held_out)}"
        return text, f"The result is {copied(text)}.", (text,)
    names = rng.sample(_FIELDS, rng.choice((1, 1, 1, 2, 2)))
    names = [made_up_word(rng, syllables=(2, 2)) if rng.random() < 0.05 else field for field in names]
    fields = {field: _result_value(rng, held_out) for field in names}
    facts = [f"the {copied(field)} is {copied(value)}" for field, value in fields.items()]
    answer = " and ".join(facts)
    separators = (",", ":") if rng.random() < 0.2 else None
    return (
        json.dumps(fields, separators=separators, ensure_ascii=False),
        f"{answer[0].upper()}{answer[1:]}.",
        tuple(str(value) for value in fields.values()),
    )


def _result_value(rng: Random, held_out: bool) -> Value:
    drawing = rng.choice((draw_number, draw_number, draw_city, draw_text, draw_person))
    return draw_from_side(rng, drawing, held_out)
