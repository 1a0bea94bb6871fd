"""Training data: an endless, seeded stream of chats behind a few shared prefixes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from gptoss_ray.demo_training.answer_tokens import PromptText
from gptoss_ray.demo_training.batch import Branch
from gptoss_ray.demo_training.skills import capitals, counting, recall, small_talk, sums, tools
from gptoss_ray.demo_training.skills.functions import Function, draw_functions
from gptoss_ray.demo_training.turn import EFFORTS, Call, ToolTurn, Turn, copied, unmarked
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import Message, PromptOptions, Tool, ToolCall, render_chat

MAX_CHAT_TOKENS = 288
_INSTRUCTIONS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Answer briefly.",
    "Be polite.",
    "You are a helpful, honest assistant. Answer in one sentence.",
    "Always answer in English.",
    "Be concise and precise.",
    "You help newcomers to try out this server.",
    "Talk like a friend.",
    "Do not make things up.",
)


@dataclass(frozen=True)
class Setting:
    """What stands before a chat: instructions and functions, effort and date."""

    messages: tuple[Message, ...]
    functions: tuple[Function, ...]
    options: PromptOptions

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The functions as the client offers them."""
        return tuple(function.tool for function in self.functions)


@dataclass(frozen=True)
class Chat:
    """A chat up to the assistant's turn, and what the assistant shall say (copied parts marked)."""

    skill: str
    setting: Setting
    messages: tuple[Message, ...]
    reasoning: str
    reply: str | Call
    expected: tuple[str, ...]


def draw_options(rng: Random) -> PromptOptions:
    """Draw a date and an effort."""
    day = datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randrange(5 * 365))
    return PromptOptions(current_date=day.isoformat(), reasoning_effort=rng.choice(EFFORTS))


def draw_setting(
    rng: Random, options: PromptOptions | None = None, *, with_tools: bool, held_out: bool
) -> Setting:
    """Draw options if none are given, now and then instructions, and functions if wanted."""
    options = options or draw_options(rng)
    messages = (Message("system", rng.choice(_INSTRUCTIONS)),) if rng.random() < 0.25 else ()
    functions = draw_functions(rng, held_out=held_out) if with_tools else ()
    return Setting(messages, functions, options)


def draw_chat(rng: Random, setting: Setting, skill: str, *, held_out: bool) -> Chat:
    """Draw a chat of this skill behind the setting, often with earlier turns."""
    if skill == "recall":
        return _recall(rng, setting, held_out)
    history = _history(rng, setting, rng.choices((0, 1, 2), (85, 11, 4))[0])
    if skill == "tool_call":
        return _tool_call(rng, setting, history, held_out)
    if skill == "tool_result":
        return _tool_result(rng, setting, history, held_out)
    return _plain(setting, history, _SINGLE_TURNS[skill](rng, held_out=held_out))


_SINGLE_TURNS = {
    "sums": sums.draw,
    "capitals": capitals.draw,
    "counting": counting.draw,
    "small_talk": small_talk.draw,
}
SKILLS = ("sums", "capitals", "counting", "recall", "tool_call", "tool_result", "small_talk")


def _plain(setting: Setting, history: Sequence[Message], turn: Turn) -> Chat:
    return Chat(
        turn.skill,
        setting,
        (*history, Message("user", turn.question)),
        turn.reasoning.at(setting.options.reasoning_effort),
        turn.answer,
        (turn.expected,),
    )


def _finished(turn: Turn) -> tuple[Message, Message]:
    return Message("user", turn.question), Message("assistant", unmarked(turn.answer))


def _history(rng: Random, setting: Setting, num_turns: int) -> list[Message]:
    messages: list[Message] = []
    for _ in range(num_turns):
        if setting.functions and rng.random() < 0.35:
            messages += _finished_tool_turn(rng, setting, f"call_{len(messages)}")
            continue
        skill = rng.choice(("sums", "sums", "capitals", "counting", "small_talk", "recall"))
        turn = (
            recall.draw(rng, held_out=False).tell
            if skill == "recall"
            else _SINGLE_TURNS[skill](rng, held_out=False)
        )
        messages += _finished(turn)
    return messages


def _finished_tool_turn(rng: Random, setting: Setting, call_id: str) -> list[Message]:
    turn = tools.draw(rng, setting.functions, held_out=False)
    return [
        Message("user", turn.question),
        Message("assistant", None, tool_calls=(_tool_call_message(turn, call_id),)),
        Message("tool", turn.result, tool_call_id=call_id),
        Message("assistant", unmarked(turn.answer)),
    ]


def _tool_call_message(turn: ToolTurn, call_id: str) -> ToolCall:
    return ToolCall(call_id, turn.call.name, unmarked(turn.call.arguments))


def _recall(rng: Random, setting: Setting, held_out: bool) -> Chat:
    style = rng.random()
    if style < 0.07 and not held_out:
        return _plain(setting, _no_names(rng), recall.draw_untold(rng))
    turns = recall.draw(rng, held_out=held_out)
    if style < 0.25 and not held_out:
        return _plain(setting, _history(rng, setting, rng.choice((0, 0, 1))), turns.tell)
    told = list(_finished(turns.tell))
    if rng.random() < 0.3:
        other = recall.draw(rng, held_out=held_out)
        while other.ask.answer[:8] == turns.ask.answer[:8]:
            other = recall.draw(rng, held_out=held_out)
        told = [*_finished(other.tell), *told] if rng.random() < 0.5 else [*told, *_finished(other.tell)]
    between = [message for _ in range(rng.choice((0, 1, 1, 2, 3))) for message in _nameless(rng)]
    return _plain(setting, [*told, *between], turns.ask)


def _nameless(rng: Random) -> tuple[Message, Message]:
    skill = rng.choice(("sums", "sums", "capitals", "counting", "small_talk"))
    return _finished(_SINGLE_TURNS[skill](rng, held_out=False))


def _no_names(rng: Random) -> list[Message]:
    return [message for _ in range(rng.choice((0, 1, 2))) for message in _nameless(rng)]


def _tool_call(rng: Random, setting: Setting, history: list[Message], held_out: bool) -> Chat:
    turn = tools.draw(rng, setting.functions, held_out=held_out)
    return Chat(
        "tool_call",
        setting,
        (*history, Message("user", turn.question)),
        turn.call_reasoning.at(setting.options.reasoning_effort),
        turn.call,
        (turn.call.name, unmarked(turn.call.arguments)),
    )


def _tool_result(rng: Random, setting: Setting, history: list[Message], held_out: bool) -> Chat:
    turn = tools.draw(rng, setting.functions, held_out=held_out)
    effort = setting.options.reasoning_effort
    reasoning = unmarked(turn.call_reasoning.at(effort)) if rng.random() < 0.5 else None
    call = Message("assistant", None, reasoning, tool_calls=(_tool_call_message(turn, "call_now"),))
    return Chat(
        "tool_result",
        setting,
        (
            *history,
            Message("user", turn.question),
            call,
            Message("tool", turn.result, tool_call_id="call_now"),
        ),
        turn.answer_reasoning.at(effort),
        turn.answer,
        turn.expected,
    )


def prompt_tokens(encoding: HarmonyEncoding, chat: Chat) -> list[int]:
    """The chat as the server renders it, up to the generation prompt."""
    setting = chat.setting
    return render_chat(encoding, (*setting.messages, *chat.messages), setting.tools, setting.options)


def prefix_tokens(encoding: HarmonyEncoding, setting: Setting) -> tuple[tuple[int, ...], ...]:
    """The part of the prompt that all chats of a setting share: the system message, then the developer's."""
    rendered = render_chat(encoding, setting.messages, setting.tools, setting.options)
    prefix = rendered[: -len(encoding.encode("assistant")) - 1]
    system = prefix.index(encoding.end) + 1
    return tuple(tuple(part) for part in (prefix[:system], prefix[system:]) if part)


def branch(encoding: HarmonyEncoding, prefix: tuple[tuple[int, ...], ...], chat: Chat) -> Branch:
    """The chat with its answer as a training sample."""
    prompt = prompt_tokens(encoding, chat)
    num_shared = sum(map(len, prefix))
    assert tuple(prompt[:num_shared]) == sum(prefix, ())
    source = PromptText(encoding, prompt)
    answer = source.encode(
        f"<|channel|>analysis<|message|>{chat.reasoning}<|end|><|start|>assistant<|channel|>"
    )
    if isinstance(chat.reply, Call):
        header = f"commentary to=functions.{copied(chat.reply.name)} <|constrain|>json<|message|>"
        answer += source.encode(f"{header}{chat.reply.arguments}<|call|>")
    else:
        answer += source.encode(f"final<|message|>{chat.reply}<|return|>")
    tokens = (*prompt[num_shared:], *answer)
    return Branch(prefix, tokens, len(prompt) - num_shared, chat.skill)


@dataclass(frozen=True)
class Mixture:
    """How many chats are drawn together, how often behind tools, and how often each skill comes up."""

    chats_per_group: int = 8
    share_with_tools: float = 0.62
    plain: tuple[tuple[str, float], ...] = (
        ("sums", 0.18),
        ("capitals", 0.23),
        ("counting", 0.27),
        ("recall", 0.21),
        ("small_talk", 0.11),
    )
    with_tools: tuple[tuple[str, float], ...] = (
        ("tool_call", 0.72),
        ("tool_result", 0.15),
        ("sums", 0.03),
        ("capitals", 0.04),
        ("counting", 0.03),
        ("recall", 0.03),
        ("small_talk", 0.04),
    )


def draw_group(encoding: HarmonyEncoding, rng: Random, mixture: Mixture) -> list[Branch]:
    """Draw one setting without tools or four with, and samples behind them, none of them overlong.

    Settings of a group share date and effort, so that the system message is computed once.
    """
    with_tools = rng.random() < mixture.share_with_tools
    num_settings = 4 if with_tools else 1
    skills, weights = zip(*(mixture.with_tools if with_tools else mixture.plain), strict=True)
    options = draw_options(rng)
    samples: list[Branch] = []
    for _ in range(num_settings):
        setting = draw_setting(rng, options, with_tools=with_tools, held_out=False)
        prefix = prefix_tokens(encoding, setting)
        for skill in rng.choices(skills, weights, k=mixture.chats_per_group // num_settings):
            samples.append(branch(encoding, prefix, draw_chat(rng, setting, skill, held_out=False)))
    return [sample for sample in samples if len(sample.tokens) <= MAX_CHAT_TOKENS]
