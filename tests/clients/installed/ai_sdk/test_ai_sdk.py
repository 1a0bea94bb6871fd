"""Vercel's AI SDK: chat completions by its provider for compatible servers, responses by OpenAI's."""

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

pytestmark = pytest.mark.parametrize("api", ["chat", "responses"])


def shown(facts, api):
    """Return what the provider shows; OpenAI's has an eye for summaries of reasoning, not for reasoning."""
    return {name: fact for name, fact in facts.items() if name != "reasoning" or api == "chat"}


def test_generated_text_has_answer_reasoning_and_usage_of_the_server(client, demo, api):
    for messages, content in ((SUM, SUM_ANSWER), (RECALL, RECALL_ANSWER)):
        facts = client.ask(demo, "whole", api, messages)
        assert shown(facts, api) == shown(chat_facts(demo, messages), api)
        assert facts["content"] == content


def test_streamed_text_adds_up_to_the_same(client, demo, api):
    facts = client.ask(demo, "streamed", api, SUM)
    assert shown(facts, api) == shown(chat_facts(demo, SUM), api)


@pytest.mark.parametrize("way", ["tool_loop", "streamed_tool_loop"])
def test_a_tool_is_called_once_and_its_result_told(client, demo, api, way):
    answer = client.ask(demo, way, api, WEATHER, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER, "num_steps": 2}


def test_an_output_object_is_one_of_the_schema_asked_for(client, demo, api):
    assert client.ask(demo, "object", api, SUM) == {"city": "Bern"}


def test_a_wrong_key_is_an_error_with_its_status(client, demo, api):
    assert client.ask(demo, "refused", api, SUM) == {"is_api_error": True, "status": 401}
