"""LiteLLM, by both of its names for a server like this one."""

import pytest

from tests.support.chat_facts import (
    SUM,
    SUM_ANSWER,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_CALL,
    WEATHER_RESULT,
    WEATHER_TOOL,
    chat_facts,
)

pytestmark = pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])


def test_a_whole_chat_has_answer_reasoning_and_usage_of_the_server(client, demo, provider):
    facts = client.ask(demo, "whole", provider, SUM)
    assert facts == chat_facts(demo, SUM)
    assert facts["content"] == SUM_ANSWER


def test_a_streamed_chat_adds_up_to_the_same(client, demo, provider):
    assert client.ask(demo, "streamed", provider, SUM) == chat_facts(demo, SUM)


def test_a_tool_is_called_once_and_its_result_told(client, demo, provider):
    answer = client.ask(demo, "tool_loop", provider, WEATHER, WEATHER_TOOL, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER}


def test_each_mistake_is_an_error_of_its_own(client, demo, provider):
    assert client.ask(demo, "refusals", provider, SUM) == {
        "key": "AuthenticationError",
        "field": "BadRequestError",
        "length": "ContextWindowExceededError",
    }
