"""LangChain for Python."""

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
    chat_logprobs,
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


def test_log_probabilities_are_the_server_s_to_the_last_bit(client, demo):
    assert client.ask(demo, "logprobs", SUM) == chat_logprobs(demo, SUM)


def test_structured_output_is_an_object_of_the_type_asked_for(client, demo):
    assert client.ask(demo, "parsed", SUM) == {"city": "Bern"}


def test_a_batch_answers_each_chat_in_its_place(client, demo):
    answers = [expected(demo, messages)["content"] for messages in (SUM, RECALL)]
    assert client.ask(demo, "batch", [SUM, RECALL, SUM]) == [*answers, answers[0]]


def test_a_completion_is_the_server_s_whole_and_streamed(client, demo):
    prompt = "The capital of"
    plain = demo.post("/v1/completions", model=demo.model, prompt=prompt, max_tokens=8, temperature=0)
    text = plain["choices"][0]["text"]
    assert client.ask(demo, "completion", prompt) == {"whole": text, "streamed": text}
