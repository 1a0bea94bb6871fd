"""From a request's fields to the grammar of its output, checked off the event loop before anything runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from gptoss_ray.errors import InvalidRequestError, OverloadedError
from gptoss_ray.harmony.prompt import ResponseFormat
from gptoss_ray.serving.openai_types import ChatFields, CompletionRequest, SamplingFields
from gptoss_ray.serving.structured_types import ToolChoice
from gptoss_ray.structured.grammar import (
    ANY_OBJECT,
    ANY_TEXT,
    NO_ARGUMENTS,
    chat_grammar,
    choice_rule,
    json_rule,
    lark_rule,
    plain_grammar,
    regex_rule,
)
from gptoss_ray.structured.grammar_compiler import MAX_GRAMMAR_CHARS, grammar_checker

MAX_CHECK_S = 2.0

# A few threads of their own: whoever sends hostile grammars only holds up others who send grammars.
_CHECKERS = ThreadPoolExecutor(4, thread_name_prefix="grammar")


@dataclass(frozen=True, slots=True)
class Rule:
    """What one field demands: the right side of a grammar's rule."""

    param: str
    text: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """A request's grammar, and the rules of clients in it."""

    text: str
    rules: tuple[Rule, ...]


async def grammar_of_chat(request: ChatFields) -> str | None:
    """Return the grammar of a chat's output, None where the request demands nothing of it.

    Raises:
        InvalidRequestError: Demands contradict each other or cannot be enforced; `param` names the field.
    """
    is_free = _calls_are_free(request) and not request.demands_content
    return None if is_free else await _checked(lambda: _of_chat(request))


async def grammar_of_completion(request: CompletionRequest) -> str | None:
    """Return the grammar of a completion's output; see `grammar_of_chat`."""
    return await _checked(lambda: _of_completion(request)) if request.demands_content else None


def described_format(request: ChatFields) -> ResponseFormat | None:
    """Return the form of the answer that the prompt tells the model, which then finds it more easily."""
    schema = request.response_format and request.response_format.json_schema
    if not schema or schema.schema_ is None:
        return None
    return ResponseFormat(schema.name, schema.schema_, schema.description or "")


async def _checked(make: Callable[[], Grammar | None]) -> str | None:
    checking = _CHECKERS.submit(_make_and_check, make)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(checking), MAX_CHECK_S)
    except asyncio.TimeoutError:
        if checking.cancelled():
            raise OverloadedError("Too many grammars wait to be checked; try again in a moment.") from None
        raise InvalidRequestError(
            f"The form demanded of the output took more than {MAX_CHECK_S:g} s to check; simplify it."
        ) from None


def _make_and_check(make: Callable[[], Grammar | None]) -> str | None:
    grammar = make()
    if grammar is None:
        return None
    checker = grammar_checker()
    try:
        checker.compile(grammar.text)
    except InvalidRequestError as error:
        for rule in grammar.rules:
            try:
                checker.compile(plain_grammar(rule.text))
            except InvalidRequestError as wrong:
                raise InvalidRequestError(f"{rule.param}: {wrong.message}", param=rule.param) from None
        raise InvalidRequestError(error.message, param=grammar.rules[0].param) from None
    return grammar.text


def _of_completion(request: CompletionRequest) -> Grammar | None:
    content = _content(request)
    return Grammar(plain_grammar(content.text), (content,)) if content is not None else None


def _of_chat(request: ChatFields) -> Grammar | None:
    content = _content(request)
    choice = request.tool_choice or ToolChoice("auto")
    names = _callable_names(request, choice)
    if content is None and (not request.tools or _calls_are_free(request)):
        return None
    calls: dict[str, Rule] = {}
    for index, tool in enumerate(request.tools or ()):
        function, param = tool.function, f"tools[{index}].function.parameters"
        if function.name in names:
            schema = NO_ARGUMENTS if function.parameters is None else function.parameters
            calls[function.name] = _json(param, schema, is_strict=bool(function.strict))
    final = None if choice.mode == "required" else ANY_TEXT if content is None else content.text
    text = chat_grammar(final, {name: rule.text for name, rule in calls.items()})
    return Grammar(text, (*calls.values(), *filter(None, [content])))


def _calls_are_free(request: ChatFields) -> bool:
    """Whether nothing is demanded of calls: the model may make any, and none has strict arguments."""
    is_strict = any(tool.function.strict for tool in request.tools or ())
    return request.tool_choice in (None, ToolChoice("auto")) and not is_strict


def _callable_names(request: ChatFields, choice: ToolChoice) -> set[str]:
    """Return the functions that may be called; InvalidRequestError where the choice has none to choose."""
    known = {tool.function.name for tool in request.tools or ()}
    if choice.mode == "required" and not known:
        raise InvalidRequestError("tool_choice asks for a call, but there are no tools.", param="tool_choice")
    for name in choice.names or ():
        if name not in known:
            raise InvalidRequestError(
                f"tool_choice names {name!r}, which is none of the tools.", param="tool_choice"
            )
    if choice.mode == "none":
        return set()
    return known if choice.names is None else set(choice.names)


def _content(request: SamplingFields) -> Rule | None:
    """Return what the request demands of its content, by whichever field; None: nothing."""
    rules = [rule for rule in (*_by_response_format(request), *_by_extras(request)) if rule is not None]
    if len(rules) > 1:
        raise InvalidRequestError(
            f"{rules[0].param} and {rules[1].param} both demand a form of the output; send one of them.",
            param=rules[1].param,
        )
    return rules[0] if rules else None


def _by_response_format(request: SamplingFields) -> list[Rule]:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return []
    if wanted.type == "json_object" or wanted.json_schema is None:
        return [_json("response_format", ANY_OBJECT)]
    schema = wanted.json_schema
    return [
        _json(
            "response_format",
            ANY_OBJECT if schema.schema_ is None else schema.schema_,
            is_strict=bool(schema.strict),
        )
    ]


def _by_extras(request: SamplingFields) -> list[Rule | None]:
    """Return the demands of vLLM's fields, new and old; None for those that demand nothing."""
    wanted = request.structured_outputs
    rules = [
        _any(_json, "guided_json", request.guided_json),
        _any(_regex, "guided_regex", request.guided_regex),
        _any(_choice, "guided_choice", request.guided_choice),
        _any(_lark, "guided_grammar", request.guided_grammar),
    ]
    if wanted is not None:
        rules += [
            _any(_json, "structured_outputs.json", wanted.json_),
            _any(_regex, "structured_outputs.regex", wanted.regex),
            _any(_choice, "structured_outputs.choice", wanted.choice),
            _any(_lark, "structured_outputs.grammar", wanted.grammar),
            _any(_json, "structured_outputs.json_object", ANY_OBJECT if wanted.json_object else None),
        ]
    return rules


def _any(make: Callable[[str, Any], Rule], param: str, value: Any) -> Rule | None:
    """Return the rule that `make` makes of a value, None of none; a text that is far too long is not read."""
    if isinstance(value, str) and len(value) > MAX_GRAMMAR_CHARS:
        raise InvalidRequestError(
            f"{param} has {len(value)} characters; send at most {MAX_GRAMMAR_CHARS}.", param=param
        )
    return None if value is None else make(param, value)


def _json(param: str, schema: dict[str, Any] | str, *, is_strict: bool = False) -> Rule:
    if isinstance(schema, str):
        try:
            schema = from_json(schema)
        except ValueError as error:
            raise InvalidRequestError(f"{param} is not valid JSON: {error}.", param=param) from None
    if not isinstance(schema, dict):
        raise InvalidRequestError(f"{param} must be a JSON schema, which is an object.", param=param)
    return Rule(param, json_rule(schema, is_strict=is_strict, param=param))


def _regex(param: str, pattern: str) -> Rule:
    return Rule(param, regex_rule(pattern))


def _choice(param: str, choices: list[str]) -> Rule:
    return Rule(param, choice_rule(choices))


def _lark(param: str, lark: str) -> Rule:
    return Rule(param, lark_rule(lark, param=param))
