"""openai-harmony as the oracle of rendering and parsing; each difference is listed with its reason."""

from __future__ import annotations

from random import Random
from typing import Any

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import Message, PromptOptions, Tool, render_chat
from gptoss_ray.harmony.stream_parser import StreamParser
from tests.support.random_chats import random_chat, random_name, random_tools
from tests.support.random_text import random_text

OPTIONS = PromptOptions(current_date="2025-06-28", reasoning_effort="high")


def _oracle_messages(messages: list[Message], tools: list[Tool]) -> list[Any]:
    """Convert a chat, with two of our differences applied beforehand.

    1. Analysis is dropped here: openai-harmony drops only what precedes the *first* final, and nothing within
       a tool loop, so reasoning of finished turns stays in longer chats.
    2. A developer message with neither text nor tools is left out: openai-harmony writes an empty one.
    """
    from openai_harmony import (
        Author,
        DeveloperContent,
        ReasoningEffort,
        Role,
        SystemContent,
        ToolDescription,
    )
    from openai_harmony import Message as OracleMessage

    def developer(text: str, tools: list[Tool]) -> Any:
        content = DeveloperContent.new()
        if text:
            content = content.with_instructions(text)
        if tools:
            described = [
                ToolDescription.new(tool.name, tool.description, parameters=tool.parameters) for tool in tools
            ]
            content = content.with_function_tools(described)
        return OracleMessage.from_role_and_content(Role.DEVELOPER, content)

    system = (
        SystemContent.new()
        .with_conversation_start_date(OPTIONS.current_date)
        .with_reasoning_effort(ReasoningEffort.HIGH)
    )
    result = [OracleMessage.from_role_and_content(Role.SYSTEM, system)]
    rest = list(messages)
    leading = []
    while rest and rest[0].role in ("system", "developer"):
        leading.append(rest.pop(0).content or "")
    if leading or tools:
        result.append(developer("\n\n".join(leading), tools))
    finals = [
        i for i, m in enumerate(rest) if m.role == "assistant" and not m.tool_calls and m.content is not None
    ]
    names: dict[str, str] = {}
    for index, message in enumerate(rest):
        if message.role in ("system", "developer"):
            result.append(developer(message.content or "", []))
        elif message.role == "user":
            result.append(OracleMessage.from_role_and_content(Role.USER, message.content or ""))
        elif message.role == "tool":
            author = Author.new(Role.TOOL, f"functions.{names[message.tool_call_id or '']}")
            answer = OracleMessage.from_author_and_content(author, message.content or "")
            result.append(answer.with_channel("commentary").with_recipient("assistant"))
        else:
            said = []
            if message.reasoning and index > max(finals, default=-1):
                said.append((message.reasoning, "analysis"))
            if message.content is not None:
                said.append((message.content, "commentary" if message.tool_calls else "final"))
            for text, channel in said:
                result.append(OracleMessage.from_role_and_content(Role.ASSISTANT, text).with_channel(channel))
            for call in message.tool_calls:
                names[call.id] = call.name
                made = OracleMessage.from_role_and_content(Role.ASSISTANT, call.arguments)
                made = made.with_channel("commentary").with_recipient(f"functions.{call.name}")
                result.append(made.with_content_type("json"))
    return result


def _in_the_models_order(token_ids: list[int], encoding: HarmonyEncoding) -> list[int]:
    """Rewrite the header of each call.

    3. openai-harmony writes `assistant to=functions.f<|channel|>commentary json`; the model
       emits `assistant<|channel|>commentary to=functions.f <|constrain|>json`, and a prompt that repeats
       the model's own tokens hits the prefix cache.
    """
    result: list[int] = []
    position = 0
    while position < len(token_ids):
        stop = position + 1
        while stop < len(token_ids) and token_ids[stop] != encoding.start:
            stop += 1
        message = token_ids[position:stop]
        if message[-1] == encoding.call:
            body = message.index(encoding.message)
            header = encoding.decode_bytes(message[:body]).decode()
            recipient = header.removeprefix("<|start|>assistant to=").removesuffix(
                "<|channel|>commentary json"
            )
            ours = f"<|start|>assistant<|channel|>commentary to={recipient} <|constrain|>json"
            message = encoding.encode_with_special(ours) + message[body:]
        result += message
        position = stop
    return result


def test_1000_random_chats_render_as_in_openai_harmony(encoding: HarmonyEncoding, oracle: Any) -> None:
    from openai_harmony import Conversation, RenderConversationConfig, Role

    random = Random(3)
    config = RenderConversationConfig(auto_drop_analysis=False)
    num_calls = num_tools = 0
    for _ in range(1_000):
        messages, tools = random_chat(random), random_tools(random)
        conversation = Conversation.from_messages(_oracle_messages(messages, tools))
        expected = oracle.render_conversation_for_completion(conversation, Role.ASSISTANT, config=config)
        token_ids = render_chat(encoding, messages, tools, OPTIONS)
        assert token_ids == _in_the_models_order(expected, encoding), (messages, tools)
        num_calls += token_ids.count(encoding.call)
        num_tools += len(tools)
    assert num_calls > 1_000
    assert num_tools > 1_000


def test_openai_harmony_still_keeps_reasoning_of_finished_turns(
    encoding: HarmonyEncoding, oracle: Any
) -> None:
    """The reason for the first difference; once this fails, openai-harmony has mended it."""
    from openai_harmony import Conversation, RenderConversationConfig, Role
    from openai_harmony import Message as OracleMessage

    said = [("analysis", "first"), ("final", "1"), ("analysis", "second"), ("final", "2")]
    messages = [
        OracleMessage.from_role_and_content(Role.ASSISTANT, text).with_channel(channel)
        for channel, text in said
    ]
    config = RenderConversationConfig(auto_drop_analysis=True)
    kept = oracle.render_conversation(Conversation.from_messages(messages), config=config)
    assert b"first" not in encoding.decode_bytes(kept)
    assert b"second" in encoding.decode_bytes(kept)


HEADERS = (
    ("<|channel|>analysis", "analysis", None),
    ("<|channel|>commentary", "commentary", None),
    ("<|channel|>final", "final", None),
    ("<|channel|>commentary to=functions.{name} <|constrain|>json", "commentary", "functions.{name}"),
    ("<|channel|>commentary to=functions.{name}<|constrain|>json", "commentary", "functions.{name}"),
    ("<|channel|>commentary to=functions.{name} json", "commentary", "functions.{name}"),
    ("<|channel|>commentary to=functions.{name}", "commentary", "functions.{name}"),
    (" to=functions.{name}<|channel|>commentary json", "commentary", "functions.{name}"),
    (" to=functions.{name}<|channel|>commentary <|constrain|>json", "commentary", "functions.{name}"),
    (" to=functions.{name}<|channel|>commentary", "commentary", "functions.{name}"),
    ("<|channel|>analysis to=python code", "analysis", "python"),
    ("<|channel|>analysis to=browser.search code", "analysis", "browser.search"),
)

ParsedMessage = tuple[str, str | None, str]


def random_output(random: Random, encoding: HarmonyEncoding) -> list[int]:
    """Return a well-formed output of one to five messages, cut at any token of its last content."""
    token_ids: list[int] = []
    for number in range(random.randrange(1, 6)):
        header, _, recipient = random.choice(HEADERS)
        opening = "<|start|>assistant" if number else ""
        token_ids += encoding.encode_with_special(
            opening + header.format(name=random_name(random)) + "<|message|>"
        )
        content = encoding.encode(random_text(random))
        stop = encoding.call if recipient else random.choice((encoding.end, encoding.end, encoding.return_))
        if stop == encoding.return_:
            return [*token_ids, *content[: random.randrange(len(content) + 1)]]
        token_ids += [*content, encoding.end if recipient is None else stop]
        if stop == encoding.call:
            return token_ids
    return token_ids


def parse(encoding: HarmonyEncoding, token_ids: list[int], *, chunk: int) -> list[ParsedMessage]:
    """Return (channel, recipient, text) of each message, feeding `chunk` tokens at a time."""
    parser = StreamParser(encoding)
    deltas = []
    for position in range(0, len(token_ids), chunk):
        deltas += parser.feed(token_ids[position : position + chunk])
    deltas += parser.finish()
    assert not parser.repairs
    messages: dict[int, ParsedMessage] = {}
    for delta in deltas:
        assert delta.starts_message == (delta.message_index not in messages)
        text = messages.get(delta.message_index, ("", None, ""))[2] + delta.text
        messages[delta.message_index] = (delta.channel, delta.recipient, text)
    return list(messages.values())


def test_2000_well_formed_outputs_parse_as_in_openai_harmony(encoding: HarmonyEncoding, oracle: Any) -> None:
    from openai_harmony import Role

    random = Random(4)
    for _ in range(2_000):
        token_ids = random_output(random, encoding)
        expected = [
            (message.channel, message.recipient, "".join(part.text for part in message.content))
            for message in oracle.parse_messages_from_completion_tokens(token_ids, Role.ASSISTANT)
        ]
        for chunk in (1, 7, 10_000):
            assert parse(encoding, token_ids, chunk=chunk) == expected, encoding.decode_bytes(token_ids)
