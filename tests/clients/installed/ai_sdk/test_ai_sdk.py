"""Vercel's AI SDK, chat completions by its provider for compatible servers."""

import pytest

from tests.support.chat_facts import (
    RECALL,
    RECALL_ANSWER,
    SUM,
    SUM_ANSWER,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_CALL,
    WEATHER_RESULT,
    chat_facts,
)


def test_generated_text_has_answer_reasoning_and_usage_of_the_server(client, demo):
    for messages, content in ((SUM, SUM_ANSWER), (RECALL, RECALL_ANSWER)):
        facts = client.ask(demo, "whole", "chat", messages)
        assert facts == chat_facts(demo, messages)
        assert facts["content"] == content


def test_streamed_text_adds_up_to_the_same(client, demo):
    assert client.ask(demo, "streamed", "chat", SUM) == chat_facts(demo, SUM)


@pytest.mark.parametrize("way", ["tool_loop", "streamed_tool_loop"])
def test_a_tool_is_called_once_and_its_result_told(client, demo, way):
    answer = client.ask(demo, way, "chat", WEATHER, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER, "num_steps": 2}


def test_an_output_object_is_one_of_the_schema_asked_for(client, demo):
    assert client.ask(demo, "object", "chat", SUM) == {"city": "Bern"}


def test_a_wrong_key_is_an_error_with_its_status(client, demo):
    assert client.ask(demo, "refused", "chat", SUM) == {"is_api_error": True, "status": 401}
