from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gptoss_ray.bench import demo_quality
from gptoss_ray.bench.demo_quality import (
    Reply,
    held_out_chats,
    is_right,
    judge_all,
    markdown_table,
    request_body,
)
from gptoss_ray.demo_training.conversations import SKILLS, Chat
from gptoss_ray.demo_training.turn import Call, unmarked


@pytest.fixture(scope="module")
def chats() -> list[Chat]:
    return held_out_chats(4)


def _perfect(chat: Chat) -> Reply:
    if isinstance(chat.reply, Call):
        return Reply("because", "", ((chat.reply.name, unmarked(chat.reply.arguments)),))
    return Reply(unmarked(chat.reasoning), unmarked(chat.reply))


def test_the_taught_answers_are_right_and_the_questions_the_same_every_time(chats: list[Chat]) -> None:
    assert chats == held_out_chats(4)
    assert [chat.skill for chat in chats[::4]] == list(SKILLS)
    assert all(is_right(chat, _perfect(chat)) for chat in chats)


def test_another_chats_answer_an_empty_one_and_a_failure_are_wrong(chats: list[Chat]) -> None:
    for chat, other in zip(chats, chats[4:] + chats[:4], strict=True):
        assert not is_right(chat, _perfect(other))
        assert not is_right(chat, Reply("because"))
        assert not is_right(chat, Reply(*vars_of(_perfect(chat)), problem="ended by length"))


def vars_of(reply: Reply) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    return reply.reasoning, reply.content, reply.calls


def test_a_call_with_one_wrong_argument_is_wrong(chats: list[Chat]) -> None:
    chat = next(chat for chat in chats if isinstance(chat.reply, Call))
    name, arguments = _perfect(chat).calls[0]
    wrong = dict.fromkeys(json.loads(arguments), "nonsense") or {"x": 1}
    assert not is_right(chat, Reply("because", "", ((name, json.dumps(wrong)),)))


def test_results_count_what_was_right_and_reasoned(chats: list[Chat]) -> None:
    replies = [_perfect(chat) if number % 2 else Reply() for number, chat in enumerate(chats)]
    results = judge_all(chats, replies)
    assert [(result.num_questions, result.num_right, result.num_reasoned) for result in results] == [
        (4, 2, 2)
    ] * 7
    assert "| sums | 4 | 2 | 50.0% | 50% |" in markdown_table(results)


def test_a_chat_goes_out_as_an_openai_request_and_the_answer_is_read_back(chats: list[Chat]) -> None:
    chat = next(chat for chat in chats if chat.skill == "tool_result")
    body = request_body("demo", chat)
    assert body["messages"][-1]["role"] == "tool"
    assert body["messages"][-2]["tool_calls"][0]["id"] == body["messages"][-1]["tool_call_id"]
    assert body["tools"][0]["function"]["name"] == chat.setting.tools[0].name
    message = {"content": "The price is 3.", "reasoning_content": "I have the result."}
    answer = {"choices": [{"message": message, "finish_reason": "stop"}]}

    async def ask() -> Reply:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await demo_quality._ask(client, "demo", chat)

    assert asyncio.run(ask()) == Reply("I have the result.", "The price is 3.")
