"""Calling one of the offered functions, and answering from its result.

Held out: what functions are about (so their names), argument values, result values.
"""

# ruff: noqa: E501  (a wording stands on one line)

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from gptoss_ray.demo_training.facts import CAPITALS
from gptoss_ray.demo_training.split import is_held_out
from gptoss_ray.demo_training.turn import Call, Reasoning, ToolTurn, copied, named
from gptoss_ray.demo_training.wording import Wordings, restyle
from gptoss_ray.demo_training.words import COMMON_WORDS, NOUNS, made_up_word, name
from gptoss_ray.harmony.prompt import Tool
from gptoss_ray.harmony.typescript import type_of_parameters

Value = str | int


@dataclass(frozen=True)
class _Kind:
    """A kind of parameter: what it may be called, how a question gives its value, how values are drawn."""

    names: tuple[str, ...]
    phrases: tuple[str, ...]
    draw: Callable[[Random], Value]
    is_open: bool = True


def _city(rng: Random) -> Value:
    if rng.random() < 0.75:
        return rng.choice(tuple(CAPITALS.values()))
    return _joined(rng, made_up_word(rng, syllables=(2, 2)).title())


def _person(rng: Random) -> Value:
    first = name(rng, held_out=False)
    return _joined(rng, f"{first} {name(rng, held_out=False)}" if rng.random() < 0.05 else first)


def _joined(rng: Random, text: str) -> str:
    """Now and then with an apostrophe or a hyphen, as in Saint John's and Port-au-Prince."""
    chance = rng.random()
    if chance < 0.06:
        return f"{text}'s"
    return f"{text}-{made_up_word(rng)}" if chance < 0.08 else text


def _number(rng: Random) -> Value:
    return rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(1000), rng.randrange(100, 10000)))


def _text(rng: Random) -> Value:
    words = [
        made_up_word(rng) if rng.random() < 0.1 else rng.choice(COMMON_WORDS + NOUNS)
        for _ in range(rng.choice((1, 1, 1, 2)))
    ]
    return " ".join(words)


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today", "tomorrow")
_UNITS = (
    "celsius",
    "fahrenheit",
    "euros",
    "dollars",
    "kilometers",
    "miles",
    "English",
    "French",
    "German",
    "Spanish",
)
_KINDS = (
    _Kind(("city", "location", "place", "town"), ("in {v}", "in {v}", "for {v}", "at {v}"), _city),
    _Kind(("origin", "from_city", "source", "start"), ("from {v}",), _city),
    _Kind(("destination", "to_city", "target"), ("to {v}",), _city),
    _Kind(
        ("name", "person", "user", "customer", "contact", "owner"),
        ("for {v}", "of {v}", "named {v}"),
        _person,
    ),
    _Kind(("day", "date", "weekday"), ("on {v}", "for {v}"), lambda rng: rng.choice(_DAYS), is_open=False),
    _Kind(
        ("id", "number", "order_id", "code", "ticket"),
        ("number {v}", "with number {v}", "{v}", "no. {v}"),
        _number,
    ),
    _Kind(("people", "guests", "days", "hours", "minutes", "nights"), ("for {v} {p}",), _number),
    _Kind(
        ("count", "amount", "quantity", "limit", "level", "size"),
        ("with {p} {v}", "with a {p} of {v}"),
        _number,
    ),
    _Kind(
        ("query", "topic", "keyword", "title", "item", "product", "text"), ("about {v}", 'about "{v}"'), _text
    ),
    _Kind(
        ("unit", "currency", "language"),
        ("in {v}", "in {p} {v}"),
        lambda rng: rng.choice(_UNITS),
        is_open=False,
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

_LOOK_UPS = (
    "get",
    "find",
    "check",
    "lookup",
    "fetch",
    "show",
    "read",
    "query",
    "get_current",
    "retrieve",
    "search",
)
_ACTIONS = (
    "book", "cancel", "create", "delete", "update", "send", "start", "stop", "open", "close", "set", "buy", "order",
    "add", "remove", "print", "save", "share", "move", "schedule",
)  # fmt: skip
_TOPICS = tuple(noun for noun in NOUNS if noun not in _ACTIONS)
"""What functions are about; a word that is also an action would leave open which function is meant."""
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


@dataclass(frozen=True)
class _Parameter:
    name: str
    kind: _Kind
    is_optional: bool
    description: str


@dataclass(frozen=True)
class Function:
    """A function on offer, as its tool definition and as the questions talk about it."""

    tool: Tool
    noun: str
    action: str | None
    parameters: tuple[_Parameter, ...]


def draw_functions(rng: Random, *, held_out: bool) -> tuple[Function, ...]:
    """Draw one to four functions that a question can tell apart by their nouns or verbs."""
    functions: list[Function] = []
    taken: set[tuple[str, str | None]] = set()
    names: set[str] = set()
    count = rng.choices((1, 2, 3, 4), (40, 35, 17, 8))[0]
    noun = _noun(rng, held_out)
    while len(functions) < count:
        if functions and rng.random() > 0.03:
            noun = _noun(rng, held_out)
        action = rng.choice(_ACTIONS) if rng.random() < 0.4 else None
        function = _function(rng, noun, action, held_out=held_out)
        if (noun, action) not in taken and function.tool.name not in names:
            taken.add((noun, action))
            names.add(function.tool.name)
            functions.append(function)
    return tuple(functions)


def draw_alike(rng: Random, count: int) -> tuple[Function, ...]:
    """Draw functions that are named alike: of two verbs and of different nouns."""
    verbs = rng.sample(_LOOK_UPS + _ACTIONS, 2)
    nouns: set[str] = set()
    while len(nouns) < count:
        nouns.add(_noun(rng, held_out=False))
    return tuple(_function(rng, noun, rng.choice(verbs), held_out=False) for noun in sorted(nouns))


def _noun(rng: Random, held_out: bool) -> str:
    """Made-up nouns are most of what is trained, lest the real ones be learned by heart."""
    share_of_real = 0.8 if held_out else 0.35
    while True:
        noun = rng.choice(_TOPICS) if rng.random() < share_of_real else made_up_word(rng, syllables=(1, 2))
        if is_held_out("function", noun) == held_out:
            return noun


def _function(rng: Random, noun: str, action: str | None, *, held_out: bool) -> Function:
    verb = action or ("get" if rng.random() < 0.4 else rng.choice(_LOOK_UPS))
    style = rng.random()
    if style < 0.75:
        function_name = f"{verb}_{noun}"
    elif style < 0.87:
        function_name = verb.replace("_c", "C") + noun.capitalize()
    else:
        function_name = noun if action is None else f"{action}_{noun}"
    parameters = _parameters(rng, held_out)
    sayable = verb.replace("lookup", "look up").replace("_", " ")
    description = rng.choice(
        (
            f"{sayable.capitalize()} the {noun}.",
            f"{sayable.capitalize()} the {noun}.",
            f"{sayable.capitalize()} a {noun}.",
            f"Use this to {sayable} the {noun}.",
            f"Returns the {noun}." if action is None else f"{sayable.capitalize()}s the {noun}.",
            f"{sayable.capitalize()} a user's {noun}.",
        )
    )
    properties: dict[str, Any] = {}
    for parameter in parameters:
        is_number = parameter.kind.draw is _number
        properties[parameter.name] = {"type": rng.choice(("number", "integer")) if is_number else "string"}
        if parameter.description:
            properties[parameter.name]["description"] = parameter.description
    required = [parameter.name for parameter in parameters if not parameter.is_optional]
    schema = {"type": "object", "properties": properties, "required": required}
    return Function(Tool(function_name, description, schema), noun, action, parameters)


def _parameters(rng: Random, held_out: bool) -> tuple[_Parameter, ...]:
    """Two and three are trained more often than they are asked about, lest a first one be taken for the last."""
    count = rng.choices((0, 1, 2, 3), (3, 74, 20, 3) if held_out else (3, 62, 26, 9))[0]
    parameters: list[_Parameter] = []
    for kind in rng.sample(_KINDS, count):
        parameter_name = rng.choice(kind.names)
        if parameter_name in {parameter.name for parameter in parameters}:
            continue
        spoken = parameter_name.replace("_", " ")
        description = rng.choice(
            ("",) * 9 + (f"The {spoken}", f"{spoken.capitalize()}.", f"The {spoken} to use.")
        )
        is_optional = bool(parameters) and rng.random() < 0.05
        parameters.append(_Parameter(parameter_name, kind, is_optional, description))
    return tuple(parameters)


def draw(rng: Random, functions: tuple[Function, ...], *, held_out: bool) -> ToolTurn:
    """Draw a question for one of the functions, its call, a result and the answer."""
    function = rng.choice(functions)
    given = [p for p in function.parameters if not p.is_optional or rng.random() < 0.5]
    values = {p.name: _value(rng, p.kind, held_out) for p in given}
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


def definition(function: Function) -> str:
    """The function's noun and its definition, one run of text as the prompt has it."""
    arguments = type_of_parameters(function.tool.parameters, param="tools")
    signature = f"type {function.tool.name} = ({f'_: {arguments}' if arguments else ''})"
    return copied(f"{function.noun}.\n{signature}")


def ask(rng: Random, function: Function, given: list[_Parameter], values: dict[str, Value]) -> str:
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


def _phrase(rng: Random, parameter: _Parameter, value: Value, is_one_of_many: bool) -> str:
    kind = parameter.kind
    names_itself = rng.random() < 0.3
    phrases = _NAMING_PHRASES if names_itself else kind.phrases[:1] if is_one_of_many else kind.phrases
    return rng.choice(phrases).format(
        p=parameter.name.replace("_", " ") if rng.random() < 0.5 else parameter.name, v=value
    )


def _value(rng: Random, kind: _Kind, held_out: bool) -> Value:
    while True:
        value = kind.draw(rng)
        if not kind.is_open or is_held_out("value", str(value).lower()) == held_out:
            return value


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
    kind = rng.choice((_number, _number, _city, _text, _person))
    while True:
        value = kind(rng)
        if is_held_out("value", str(value).lower()) == held_out:
            return value
