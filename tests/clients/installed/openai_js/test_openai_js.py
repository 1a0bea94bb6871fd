"""The openai SDK for JavaScript: chat and responses."""

from tests.support.chat_facts import (
    RECALL,
    RECALL_ANSWER,
    SUM,
    SUM_ANSWER,
    WEATHER,
    WEATHER_ANSWER,
    WEATHER_CALL,
    WEATHER_RESULT,
    WEATHER_TOOL,
    chat_facts,
    chat_logprobs,
)


def test_a_whole_chat_has_answer_reasoning_and_usage_of_the_server(client, demo):
    for messages, content in ((SUM, SUM_ANSWER), (RECALL, RECALL_ANSWER)):
        facts = client.ask(demo, "whole", messages)
        assert facts == chat_facts(demo, messages)
        assert facts["content"] == content


def test_a_streamed_chat_adds_up_to_the_same(client, demo):
    assert client.ask(demo, "streamed", SUM) == chat_facts(demo, SUM)


def test_log_probabilities_are_the_server_s_to_the_last_bit(client, demo):
    assert client.ask(demo, "logprobs", SUM) == chat_logprobs(demo, SUM)


def test_run_tools_calls_the_function_once_and_tells_its_result(client, demo):
    answer = client.ask(demo, "tool_loop", WEATHER, WEATHER_TOOL, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER}


def test_a_streamed_call_comes_with_its_arguments(client, demo):
    assert client.ask(demo, "streamed_call", WEATHER, WEATHER_TOOL) == [WEATHER_CALL]


def test_a_parsed_answer_is_an_object_of_the_schema_asked_for(client, demo):
    assert client.ask(demo, "parsed", SUM) == {"city": "Bern"}


def test_each_mistake_is_an_error_of_its_own(client, demo):
    assert client.ask(demo, "refusals", SUM) == {
        "key": ["AuthenticationError", "invalid_api_key"],
        "model": ["NotFoundError", "model_not_found"],
        "field": ["BadRequestError", "temperature"],
    }


def test_a_response_has_answer_reasoning_and_usage_of_a_chat(client, demo):
    assert client.ask(demo, "response", SUM) == chat_facts(demo, SUM)


def test_a_streamed_response_adds_up_to_the_same(client, demo):
    assert client.ask(demo, "streamed_response", SUM) == chat_facts(demo, SUM)


def test_a_parsed_response_is_an_object_of_the_schema_asked_for(client, demo):
    assert client.ask(demo, "parsed_response", SUM) == {"city": "Bern"}
