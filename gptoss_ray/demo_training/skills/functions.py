"""Functions on offer: what they are about, their definitions, and how descriptions put it.

Held out: what functions are about, so their names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Any

from gptoss_ray.demo_training.skills.arguments import KINDS, ArgumentKind, draw_number
from gptoss_ray.demo_training.split import is_held_out
from gptoss_ray.demo_training.turn import copied
from gptoss_ray.demo_training.words import COMMON_WORDS, NOUNS, made_up_word
from gptoss_ray.harmony.prompt import Tool
from gptoss_ray.harmony.typescript import type_of_parameters

_LOOK_UPS = (
    "get", "find", "check", "lookup", "fetch", "show", "read", "query", "get_current", "retrieve", "search",
)  # fmt: skip
_ACTIONS = (
    "book", "cancel", "create", "delete", "update", "send", "start", "stop", "open", "close",
    "set", "buy", "order", "add", "remove", "print", "save", "share", "move", "schedule",
)  # fmt: skip
_TOPICS = tuple(noun for noun in NOUNS if noun not in _ACTIONS)
"""What functions are about; a word that is also an action would leave open which function is meant."""
_EVERYDAY = ("weather", "temperature", "time", "date", "news")
"""What people ask first, with functions for it and without (small talk): neither is held out."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function: name, kind of values, whether a call may leave it out, and comment."""

    name: str
    kind: ArgumentKind
    is_optional: bool
    description: str


@dataclass(frozen=True)
class Function:
    """A function on offer, as its tool definition and as the questions talk about it."""

    tool: Tool
    noun: str
    action: str | None
    parameters: tuple[Parameter, ...]


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
    """Draw functions that are named alike: of two verbs and of different nouns, each in its description."""
    verbs = rng.sample(_LOOK_UPS + _ACTIONS, 2)
    functions: dict[str, Function] = {}
    while len(functions) < count:
        noun = _noun(rng, held_out=False)
        function = _function(rng, noun, rng.choice(verbs), held_out=False)
        if _from_noun(noun, function.tool.description):
            functions[noun] = function
    return tuple(functions[noun] for noun in sorted(functions))


def _noun(rng: Random, held_out: bool) -> str:
    """Made-up nouns are most of what is trained, lest the real ones be learned by heart."""
    if not held_out and rng.random() < 0.05:
        return rng.choice(_EVERYDAY)
    share_of_real = 0.8 if held_out else 0.35
    while True:
        noun = rng.choice(_TOPICS) if rng.random() < share_of_real else made_up_word(rng, syllables=(1, 2))
        if is_held_out_topic(noun) == held_out:
            return noun


def is_held_out_topic(noun: str) -> bool:
    """Whether no function about this is ever trained."""
    return noun not in _EVERYDAY and is_held_out("function", noun)


def _function(rng: Random, noun: str, action: str | None, *, held_out: bool) -> Function:
    verb = action or ("get" if rng.random() < 0.4 else rng.choice(_LOOK_UPS))
    style = rng.random()
    if style < 0.75:
        function_name = f"{verb}_{noun}"
    elif style < 0.87:
        function_name = verb.replace("_c", "C") + noun.capitalize()
    else:
        function_name = noun if action is None else f"{action}_{noun}"
    parameters = _parameters(rng, noun, held_out)
    sayable = verb.replace("lookup", "look up").replace("_", " ")
    description = _function_description(rng, sayable, noun, action, parameters) if rng.random() < 0.97 else ""
    properties: dict[str, Any] = {}
    for parameter in parameters:
        is_number = parameter.kind.draw is draw_number
        properties[parameter.name] = {"type": rng.choice(("number", "integer")) if is_number else "string"}
        if parameter.description:
            properties[parameter.name]["description"] = parameter.description
    required = [parameter.name for parameter in parameters if not parameter.is_optional]
    schema = {"type": "object", "properties": properties, "required": required}
    return Function(Tool(function_name, description, schema), noun, action, parameters)


def _parameters(rng: Random, noun: str, held_out: bool) -> tuple[Parameter, ...]:
    """Two and three are trained more often than asked about, lest a first one be taken for the last."""
    count = rng.choices((0, 1, 2, 3), (3, 74, 20, 3) if held_out else (3, 62, 26, 9))[0]
    parameters: list[Parameter] = []
    for kind in rng.sample(KINDS, count):
        parameter_name = rng.choice(kind.names)
        if parameter_name in {noun, *(parameter.name for parameter in parameters)}:
            continue
        spoken = parameter_name.replace("_", " ")
        description = _parameter_description(rng, spoken, kind) if rng.random() < 0.3 else ""
        is_optional = bool(parameters) and rng.random() < 0.05
        parameters.append(Parameter(parameter_name, kind, is_optional, description))
    return tuple(parameters)


def _function_description(
    rng: Random, verb: str, noun: str, action: str | None, parameters: tuple[Parameter, ...]
) -> str:
    """Half of them end with the noun; people's say more."""
    of = parameters[0].name.replace("_", " ") if parameters else "user"
    said = verb.capitalize()
    short = (
        f"{said} the {noun}.",
        f"{said} a {noun}.",
        f"Use this to {verb} the {noun}.",
        f"Returns the {noun}." if action is None else f"{said}s the {noun}.",
        f"{said} a user's {noun}.",
    )
    long = (
        f"{said} the {noun} {rng.choice(('in', 'of', 'for', 'by'))} a {of}.",
        f"{said} the {noun} {rng.choice(('in', 'of', 'for'))} a given {of}",
        f"{said} {rng.choice(('current', 'latest', 'new'))} {noun} {rng.choice(('data', 'details'))}",
        f"{said} the {noun}. {_words(rng).capitalize()}.",
    )
    return rng.choice(short if rng.random() < 0.5 else long)


def _parameter_description(rng: Random, spoken: str, kind: ArgumentKind) -> str:
    """Examples are values of the same kind, which no call takes from there."""
    return rng.choice(
        (
            f"The {spoken}",
            f"{spoken.capitalize()}.",
            f"The {spoken} to use.",
            f"Name of the {spoken}.",
            f"The name of the {spoken}",
            f"{spoken.capitalize()}, e.g. {kind.draw(rng)}",
            f"The {spoken}, for example {kind.draw(rng)}.",
            f"{_words(rng).capitalize()}.",
        )
    )


def _words(rng: Random) -> str:
    return " ".join(rng.choice(COMMON_WORDS) for _ in range(rng.randint(2, 6)))


def definition(function: Function) -> str:
    """The function's definition from its noun on, one run of text where the description holds the noun."""
    arguments = type_of_parameters(function.tool.parameters, param="tools")
    signature = f"type {function.tool.name} = ({f'_: {arguments}' if arguments else ''})"
    described = _from_noun(function.noun, function.tool.description)
    if not described:
        return f"{copied(function.noun)}.\n{copied(signature)}"
    return copied(f"{described}\n{signature}")


def _from_noun(noun: str, description: str) -> str:
    """What the description says from the noun on, nothing if it does not hold the noun."""
    found = re.search(rf"\b{noun}\b.*", description)
    return found[0] if found else ""
