"""What a request demands of the output, as one grammar text over harmony's control tokens.

A grammar runs from the first generated token, right behind the prompt's `<|start|>assistant`, to the stop
token: nothing has to be waited for, and nothing can be written beside it. It is Lark as llguidance reads it;
control tokens stand in it by name, so one text serves every vocabulary. Pure functions of their arguments.

The *rules* that these functions take and return are right sides of Lark rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import regex_to_lark

from gptoss_ray.errors import InvalidRequestError

ANY_TEXT = "TEXT"
"""The rule for text of any kind."""

ANY_OBJECT: dict[str, Any] = {"type": "object"}
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

MAX_SCHEMA_DEPTH = 64
"""Objects and lists inside each other in a schema's JSON; llguidance reads 128, and recurses."""

MAX_SCHEMA_KEYS = 500
"""Of one object in a schema's JSON, such as its properties: the time to compile grows with their square."""

MAX_SCHEMA_VALUES = 50_000
"""In a schema's JSON. More would not fit into a grammar, and writing them out holds the GIL."""

MAX_LARK_CHARS = 1 << 14
"""Of a client's own grammar, which could have thousands of alternatives in more: the time of a step grows
with the square of their number."""

MAX_WHITESPACE = 40
"""Characters of white space in a row between the parts of a JSON value: without a bound, a model that knows
nothing better goes on with spaces until its tokens are used up."""

_JSON_KEYWORD = re.compile(r"%json\s*")
_JSON_DECODER = json.JSONDecoder()

_TERMINALS = "TEXT: /(?s:.*)/\n"
_MESSAGES = (
    'thought: <|channel|> "analysis" <|message|> TEXT <|end|> <|start|> "assistant"\n'
    'remark: <|channel|> "commentary" <|message|> TEXT <|end|> <|start|> "assistant"\n'
    'form: (" json" | " "? <|constrain|> "json")?\n'
)


def json_rule(schema: dict[str, Any], *, is_strict: bool, param: str) -> str:
    """Return the rule for JSON that satisfies a schema.

    Args:
        schema: JSON schema.
        is_strict: Whether a keyword that cannot be enforced is an error; if not, it is ignored.
        param: The request field that the schema came from.

    Raises:
        InvalidRequestError: The schema is nested too deeply, or has too many values or keys of an object.
    """
    _check_size(schema, param)
    # Replaces options of that name in the client's schema: they are the compiler's, not JSON schema's.
    options = {
        "whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{1,{MAX_WHITESPACE}}}",
        "lenient": not is_strict,
        "coerce_one_of": not is_strict,
    }
    return f"%json {json.dumps({**schema, 'x-guidance': options}, separators=(',', ':'))}"


def regex_rule(pattern: str) -> str:
    """Return the rule for text that a regular expression (Rust's syntax) matches as a whole."""
    return f"/{regex_to_lark(pattern, use_ascii='')}/"


def choice_rule(choices: Sequence[str]) -> str:
    """Return the rule for one of several texts."""
    return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def lark_rule(lark: str, *, param: str) -> str:
    """Return the rule for what a Lark grammar of its own describes, from its `start`.

    Raises:
        InvalidRequestError: The grammar is too long, or a schema in it, behind `%json`, is malformed or what
            `json_rule` refuses; `param` names the request field that the grammar came from.
    """
    if len(lark) > MAX_LARK_CHARS:
        raise InvalidRequestError(
            f"{param} has {len(lark)} characters; write it in at most {MAX_LARK_CHARS}.", param=param
        )
    # Wherever the keyword stands, also in a string or in a schema: what is what only llguidance knows.
    for keyword in _JSON_KEYWORD.finditer(lark):
        try:
            schema, _ = _JSON_DECODER.raw_decode(lark, keyword.end())
        except (ValueError, RecursionError):
            message = f"{param} has %json without a JSON schema behind it, at character {keyword.start()}."
            raise InvalidRequestError(message, param=param) from None
        _check_size(schema, param)
    return f"%lark {{\n{lark}\n}}"


def plain_grammar(content: str) -> str:
    """Return the grammar of an output without any chat format.

    Args:
        content: Rule of the whole output.
    """
    return f"start: content\ncontent: {content}\n{_TERMINALS}"


def chat_grammar(final: str | None, calls: Mapping[str, str]) -> str:
    """Return the grammar of a chat's output: reasoning and remarks, then one call or the final answer.

    Where the answer has a form, no remark comes before it: clients see remarks as content, too.

    Args:
        final: Rule of the final message; None: the model must call.
        calls: Name -> rule of the arguments of each function that may be called, perhaps none.
    """
    endings = []
    if calls:
        endings.append("(thought | remark)* call")
    if final is not None:
        endings.append("(thought | remark)* final" if final == ANY_TEXT else "thought* final")
    rules = [f"start: {' | '.join(endings)}\n", _MESSAGES]
    if calls:
        rules.append(f"call: {' | '.join(f'call_{number}' for number in range(len(calls)))}\n")
    for number, (name, arguments) in enumerate(calls.items()):
        recipient = json.dumps(f" to=functions.{name}")
        rules.append(
            f'call_{number}: (<|channel|> "commentary" {recipient} form'
            f' | {recipient} <|channel|> "commentary" form) <|message|> arguments_{number} <|call|>\n'
            f"arguments_{number}: {arguments}\n"
        )
    if final is not None:
        rules.append(f'final: <|channel|> "final" form <|message|> content\ncontent: {final}\n')
    return "".join([*rules, _TERMINALS])


def _check_size(schema: Any, param: str) -> None:
    """Raise InvalidRequestError where a schema, as JSON, is too deep or too wide to compile in time."""
    level: list[Any] = [schema]
    num_values = 1
    for _ in range(MAX_SCHEMA_DEPTH):
        objects = [value for value in level if isinstance(value, dict)]
        if any(len(value) > MAX_SCHEMA_KEYS for value in objects):
            raise InvalidRequestError(
                f"{param} has an object of more than {MAX_SCHEMA_KEYS} keys; split it.", param=param
            )
        lists = [value for value in level if isinstance(value, list)]
        level = [child for value in objects for child in value.values()]
        level += [child for value in lists for child in value]
        num_values += len(level)
        if num_values > MAX_SCHEMA_VALUES:
            raise InvalidRequestError(
                f"{param} has more than {MAX_SCHEMA_VALUES} values; shorten it.", param=param
            )
        if not level:
            return
    raise InvalidRequestError(
        f"{param} is nested more than {MAX_SCHEMA_DEPTH} levels deep; flatten it, or use $defs.", param=param
    )
