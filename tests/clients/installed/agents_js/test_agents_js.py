"""openai-agents for JavaScript: an agent with a tool, over chat completions and over the Responses API."""

import pytest

from tests.support.chat_facts import WEATHER, WEATHER_ANSWER, WEATHER_CALL, WEATHER_RESULT, weather_usage

pytestmark = pytest.mark.parametrize("api", ["chat", "responses"])

QUESTION = WEATHER[0]["content"]
ITEMS = ["reasoning_item", "tool_call_item", "tool_call_output_item", "reasoning_item", "message_output_item"]


def test_an_agent_calls_its_tool_once_and_tells_the_result(client, demo, api):
    run = client.ask(demo, "whole", api, QUESTION, WEATHER_RESULT)
    assert (run["calls"], run["answer"], run["items"]) == ([WEATHER_CALL], WEATHER_ANSWER, ITEMS)


def test_a_streamed_agent_does_the_same(client, demo, api):
    run = client.ask(demo, "streamed", api, QUESTION, WEATHER_RESULT)
    assert (run["calls"], run["answer"], run["items"]) == ([WEATHER_CALL], WEATHER_ANSWER, ITEMS)
    assert run["streamed"] == WEATHER_ANSWER


def test_an_agent_counts_the_tokens_that_the_server_counts(client, demo, api):
    for way in ("whole", "streamed"):
        run = client.ask(demo, way, api, QUESTION, WEATHER_RESULT)
        usage = weather_usage(demo)
        assert {name: run[name] for name in usage} == usage
