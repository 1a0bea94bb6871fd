"""The openai SDK for Python: chat, completions, responses."""

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
        assert facts["reasoning_tokens"] > 0


def test_a_streamed_chat_adds_up_to_the_same(client, demo):
    assert client.ask(demo, "streamed", SUM) == chat_facts(demo, SUM)


def test_log_probabilities_are_the_server_s_to_the_last_bit(client, demo):
    entries = client.ask(demo, "logprobs", SUM)
    assert entries == chat_logprobs(demo, SUM)
    assert "".join(token for token, _ in entries) == SUM_ANSWER


def test_a_tool_is_called_once_and_its_result_told(client, demo):
    answer = client.ask(demo, "tool_loop", WEATHER, WEATHER_TOOL, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER}


def test_a_streamed_call_comes_with_its_arguments(client, demo):
    assert client.ask(demo, "streamed_call", WEATHER, WEATHER_TOOL) == [WEATHER_CALL]


def test_a_parsed_answer_is_an_object_of_the_type_asked_for(client, demo):
    assert client.ask(demo, "parsed", SUM) == {"city": "Bern", "content": '{"city": "Bern"}'}


def test_an_echoed_completion_is_aligned_with_its_log_probabilities(client, demo):
    answer = client.ask(demo, "completion", "The capital of France is")
    assert answer["text"].startswith("The capital of France is")
    assert "".join(answer["tokens"]) == answer["text"]
    plain = demo.post(
        "/v1/completions",
        model=demo.model,
        prompt="The capital of France is",
        echo=True,
        logprobs=0,
        max_tokens=8,
        temperature=0,
    )
    assert answer["token_logprobs"] == plain["choices"][0]["logprobs"]["token_logprobs"]
    assert answer["token_logprobs"][0] is None


def test_the_served_model_is_listed(client, demo):
    assert client.ask(demo, "models") == [demo.model]


def test_each_mistake_is_an_error_of_its_own(client, demo):
    assert client.ask(demo, "refusals", SUM) == {
        "key": ["AuthenticationError", "invalid_api_key"],
        "model": ["NotFoundError", "model_not_found"],
        "field": ["BadRequestError", "temperature"],
        "length": ["BadRequestError", "context_length_exceeded"],
    }


def test_a_response_has_answer_reasoning_and_usage_of_a_chat(client, demo):
    for messages, content in ((SUM, SUM_ANSWER), (RECALL, RECALL_ANSWER)):
        facts = client.ask(demo, "response", messages)
        assert facts == chat_facts(demo, messages)
        assert facts["content"] == content


def test_a_streamed_response_adds_up_to_the_same(client, demo):
    assert client.ask(demo, "streamed_response", SUM) == chat_facts(demo, SUM)


def test_a_response_calls_a_tool_and_goes_on_from_what_the_server_kept(client, demo):
    answer = client.ask(demo, "response_tool_loop", WEATHER, WEATHER_TOOL, WEATHER_RESULT)
    assert answer == {"calls": [WEATHER_CALL], "content": WEATHER_ANSWER}


def test_a_parsed_response_is_an_object_of_the_type_asked_for(client, demo):
    assert client.ask(demo, "parsed_response", SUM) == "Bern"


def test_a_stored_response_is_fetched_as_it_was_until_it_is_deleted(client, demo):
    assert client.ask(demo, "stored_response", SUM) == {
        "is_same": True,
        "input": [SUM[0]["content"]],
        "missed": 404,
    }
