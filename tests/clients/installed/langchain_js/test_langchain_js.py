"""LangChain for JavaScript."""

from tests.support.chat_facts import (
    RECALL,
    SUM,
    SUM_ANSWER,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_CALL,
    WEATHER_RESULT,
    WEATHER_TOOL,
    chat_facts,
)


def expected(demo, messages):
    """LangChain does not show reasoning."""
    facts = chat_facts(demo, messages)
    del facts["reasoning"]
    return facts


def test_an_invoked_chat_has_answer_and_usage_of_the_server(client, demo):
    for messages in (SUM, RECALL):
        assert client.ask(demo, "whole", messages) == expected(demo, messages)
    assert expected(demo, SUM)["content"] == SUM_ANSWER


def test_a_streamed_chat_adds_up_to_the_same(client, demo):
    assert client.ask(demo, "streamed", SUM) == expected(demo, SUM)


def test_a_bound_tool_is_called_once_and_its_result_told(client, demo):
    answer = client.ask(demo, "tool_loop", WEATHER, WEATHER_TOOL, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER}
