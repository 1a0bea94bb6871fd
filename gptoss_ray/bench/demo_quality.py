"""Asks a served demo model questions that it was never trained on, and judges every answer.

Held out are operand pairs (sums), wordings (capitals, counting, small talk), names (recall), function names
and values (tools): `demo_training.split` decides, in training and here. Answers are greedy; a skill's score
is the share of its questions that were answered exactly right.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gptoss_ray.demo_training.conversations import SKILLS, Chat, draw_chat, draw_setting
from gptoss_ray.demo_training.turn import EFFORTS
from gptoss_ray.harmony.prompt import Message
from gptoss_ray.http_client import bearer

SEED = 20_25
MAX_TOKENS = 512
_CHATS_PER_SETTING = 4


@dataclass(frozen=True)
class Reply:
    """What the server answered, or why it did not."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    problem: str = ""


@dataclass
class SkillResult:
    """How one skill fared.

    Attributes:
        num_right: Answers that were exactly right.
        num_reasoned: Answers with some reasoning before them.
        reasoning_characters: Mean length of the reasoning at each effort.
        mistakes: Question, expectation and answer of the first wrong ones.
    """

    skill: str
    num_questions: int = 0
    num_right: int = 0
    num_reasoned: int = 0
    reasoning_characters: dict[str, float] = field(default_factory=dict)
    mistakes: list[dict[str, str]] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Share of the questions that were answered exactly right."""
        return self.num_right / self.num_questions


def run(
    base_url: str,
    api_key: str = "",
    *,
    questions_per_skill: int = 200,
    concurrency: int = 32,
    json_path: Path | None = None,
) -> list[SkillResult]:
    """Ask the server, print a table, and write the results as JSON if a path is given."""
    console = Console()
    chats = held_out_chats(questions_per_skill)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("asking", total=len(chats))
        replies = asyncio.run(_ask_all(base_url, api_key, chats, concurrency, lambda: progress.advance(task)))
    results = judge_all(chats, replies)
    console.print(_table(results))
    if json_path is not None:
        rows = [asdict(result) | {"accuracy": result.accuracy} for result in results]
        json_path.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def held_out_chats(questions_per_skill: int, seed: int = SEED) -> list[Chat]:
    """Draw chats from the held-out side of the split, the same ones every time."""
    chats: list[Chat] = []
    for skill in SKILLS:
        rng = Random(f"{seed} {skill}")
        for number in range(questions_per_skill):
            if number % _CHATS_PER_SETTING == 0:
                setting = draw_setting(rng, with_tools=skill.startswith("tool"), held_out=True)
            chats.append(draw_chat(rng, setting, skill, held_out=True))
    return chats


async def _ask_all(
    base_url: str, api_key: str, chats: Sequence[Chat], concurrency: int, on_reply: Callable[[], None]
) -> list[Reply]:
    limit = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=base_url, headers=bearer(api_key), timeout=300) as client:
        models = (await client.get("/v1/models")).raise_for_status().json()
        model = models["data"][0]["id"]

        async def ask(chat: Chat) -> Reply:
            async with limit:
                reply = await _ask(client, model, chat)
            on_reply()
            return reply

        return list(await asyncio.gather(*[ask(chat) for chat in chats]))


async def _ask(client: httpx.AsyncClient, model: str, chat: Chat) -> Reply:
    response = await client.post("/v1/chat/completions", json=request_body(model, chat))
    if response.status_code != 200:
        return Reply(problem=f"HTTP {response.status_code}: {response.text[:200]}")
    choice = response.json()["choices"][0]
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return Reply(
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        content=message.get("content") or "",
        calls=tuple((call["name"], call["arguments"]) for call in calls),
        problem=""
        if choice["finish_reason"] in ("stop", "tool_calls")
        else f"ended by {choice['finish_reason']}",
    )


def request_body(model: str, chat: Chat) -> dict[str, Any]:
    """The chat as a request of the OpenAI API."""
    setting = chat.setting
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in (*setting.messages, *chat.messages)],
        "reasoning_effort": setting.options.reasoning_effort,
        "temperature": 0,
        "max_completion_tokens": MAX_TOKENS,
    }
    if setting.tools:
        body["tools"] = [{"type": "function", "function": asdict(tool)} for tool in setting.tools]
    return body


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        body["reasoning_content"] = message.reasoning
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return body


def judge_all(chats: Sequence[Chat], replies: Sequence[Reply]) -> list[SkillResult]:
    """Judge every reply; one result a skill, in the order of the chats."""
    results: dict[str, SkillResult] = {}
    lengths: dict[tuple[str, str], list[int]] = {}
    for chat, reply in zip(chats, replies, strict=True):
        result = results.setdefault(chat.skill, SkillResult(chat.skill))
        result.num_questions += 1
        result.num_reasoned += bool(reply.reasoning)
        lengths.setdefault((chat.skill, chat.setting.options.reasoning_effort), []).append(
            len(reply.reasoning)
        )
        if is_right(chat, reply):
            result.num_right += 1
        elif len(result.mistakes) < 20:
            result.mistakes.append(_mistake(chat, reply))
    for (skill, effort), of_effort in lengths.items():
        results[skill].reasoning_characters[effort] = mean(of_effort)
    return list(results.values())


def is_right(chat: Chat, reply: Reply) -> bool:
    """Whether the reply says exactly what was expected."""
    if reply.problem:
        return False
    if chat.skill == "tool_call":
        name, arguments = chat.expected
        return (
            len(reply.calls) == 1
            and reply.calls[0][0] == name
            and _parsed(reply.calls[0][1]) == json.loads(arguments)
        )
    if reply.calls:
        return False
    if chat.skill == "sums":
        return _numbers(reply.content)[-1:] == [int(chat.expected[0])]
    if chat.skill == "counting":
        return _numbers(reply.content) == _numbers(chat.expected[0])
    return all(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", reply.content) for text in chat.expected)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(?<!\d)-?\d+", text.replace(" - ", " minus "))]


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def _mistake(chat: Chat, reply: Reply) -> dict[str, str]:
    return {
        "question": chat.messages[-1].content or "",
        "expected": " ".join(chat.expected),
        "reasoning": reply.reasoning,
        "answer": reply.problem or reply.content or str(reply.calls),
    }


def _table(results: Sequence[SkillResult]) -> Table:
    table = Table(title="Demo model on held-out questions")
    for heading in ("skill", "questions", "right", "accuracy", "reasoned", *EFFORTS):
        table.add_column(heading, justify="left" if heading == "skill" else "right")
    for cells in _cells(results):
        table.add_row(*cells)
    return table


def markdown_table(results: Sequence[SkillResult]) -> str:
    """The table for the documentation; efforts are mean characters of reasoning."""
    headings = ("skill", "questions", "right", "accuracy", "reasoned", *EFFORTS)
    rows = [headings, ["---"] * len(headings), *_cells(results)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(results: Sequence[SkillResult]) -> list[list[str]]:
    return [
        [
            result.skill,
            str(result.num_questions),
            str(result.num_right),
            f"{result.accuracy:.1%}",
            f"{result.num_reasoned / result.num_questions:.0%}",
            *[f"{result.reasoning_characters.get(effort, 0):.0f}" for effort in EFFORTS],
        ]
        for result in results
    ]
