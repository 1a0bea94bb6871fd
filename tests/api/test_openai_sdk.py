"""The openai package as a client, over a real connection."""

from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from gptoss_ray.errors import UnavailableError
from tests.support.ingresses import ANSWER, CALL, FORMED, MODEL, http_server, make_ingress, tokens
from tests.support.scripted_source import Pause, ScriptedSource

MESSAGES = [{"role": "user", "content": "What is 17 + 25?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Weather(BaseModel):
    """Where to look for the weather."""

    city: str


def script(request):
    """Answer, call, break off, answer choice by choice or in JSON, as the test's seed says."""
    if request.params.seed == 3:  # The last choice is the first to speak.
        return [Pause(0.1 * (2 - request.params.choice_index)), *tokens(ANSWER)]
    failing = [*tokens(ANSWER)[:12], UnavailableError("The replica was lost.")]
    return {0: tokens(ANSWER), 1: tokens(CALL), 2: failing, 4: tokens(FORMED)}[request.params.seed]


@pytest.fixture(scope="module")
def source() -> ScriptedSource:
    return ScriptedSource(script)


@pytest.fixture(scope="module")
def client(source) -> Iterator[openai.OpenAI]:
    with (
        http_server(make_ingress(source, api_keys=["key"])) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0) as client,
    ):
        yield client


def ask(client, **options):
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **{"seed": 0, **options})


def test_a_whole_answer(client):
    answer = ask(client, logprobs=True, top_logprobs=1)
    message = answer.choices[0].message
    assert message.content == "It is 42."
    assert message.reasoning == message.reasoning_content == "17 and 25."
    assert answer.choices[0].finish_reason == "stop"
    assert "".join(entry.token for entry in answer.choices[0].logprobs.content) == "It is 42."
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_a_streamed_answer(client):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "It is 42."
    assert "".join(getattr(delta, "reasoning", "") for delta in deltas) == "17 and 25."
    assert chunks[-1].usage.total_tokens > 0


def test_the_sdks_own_accumulator_takes_content_and_tool_calls(client):
    for seed, tools in ((0, openai.omit), (1, [WEATHER])):
        with client.chat.completions.stream(model=MODEL, messages=MESSAGES, seed=seed, tools=tools) as stream:
            for _ in stream:
                pass
            message = stream.get_final_completion().choices[0].message
        if seed:
            assert message.tool_calls[0].function.arguments == '{"city":"Bern"}'
        else:
            assert message.content == "It is 42."


def test_a_tool_call_and_its_result_make_a_conversation(client):
    call = ask(client, seed=1, tools=[WEATHER]).choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "sunny"}
    history = [*MESSAGES, call.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=MODEL, messages=history, tools=[WEATHER], seed=0)
    assert answer.choices[0].message.content == "It is 42."


def test_a_completion_whole_and_streamed(client):
    whole = client.completions.create(model=MODEL, prompt="17 + 25 =", seed=0, max_tokens=99)
    chunks = client.completions.create(model=MODEL, prompt="17 + 25 =", seed=0, max_tokens=99, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_models_are_listed_and_found_by_an_id_with_a_slash(client):
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_become_the_sdks_own(client):
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad_request:
        ask(client, temperature=9)
    assert bad_request.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="wrong"))


def test_a_failure_within_a_stream_raises_with_its_message(client):
    with pytest.raises(openai.APIError, match="The replica was lost"):
        list(ask(client, seed=2, stream=True))


def test_a_completion_with_its_echo_and_the_best_of_several(client):
    # Keys as OpenAI's own answers have them, null where a prompt's first token has nothing before it.
    scored = client.completions.create(
        model=MODEL, prompt=[5, 6, 7], max_tokens=1, echo=True, logprobs=1, temperature=0, seed=0
    )
    logprobs = scored.choices[0].logprobs
    assert logprobs.token_logprobs == [None, -0.25, -0.25, -0.25]
    assert "".join(logprobs.tokens) == scored.choices[0].text
    alone = client.completions.create(
        model=MODEL, prompt=[5, 6, 7], max_tokens=0, echo=True, logprobs=1, seed=0
    )
    assert alone.choices[0].logprobs.token_logprobs == [None, -0.25, -0.25]
    best = client.completions.create(model=MODEL, prompt="hi", n=2, best_of=3, max_tokens=2, seed=0)
    assert [choice.index for choice in best.choices] == [0, 1]
    pieces = client.completions.create(model=MODEL, prompt="hi", echo=True, max_tokens=2, seed=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "hi" + best.choices[0].text


def test_the_sdks_own_events_of_several_choices_whichever_is_first(client):
    options = {"model": MODEL, "messages": MESSAGES, "seed": 3, "n": 3, "logprobs": True}
    with client.chat.completions.stream(**options) as stream:
        kinds = {event.type for event in stream}
        choices = stream.get_final_completion().choices
    assert {"content.delta", "content.done", "logprobs.content.delta", "logprobs.content.done"} <= kinds
    assert [choice.index for choice in choices] == [0, 1, 2]
    for choice in choices:
        assert choice.message.content == "It is 42."
        assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


def test_the_sdks_own_events_of_a_tool_call(client):
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, seed=1, tools=[WEATHER]) as stream:
        events = [event for event in stream if event.type.startswith("tool_calls.function.arguments.")]
    *deltas, done = events
    assert "".join(event.arguments_delta for event in deltas) == done.arguments == '{"city":"Bern"}'
    assert (done.type, done.name) == ("tool_calls.function.arguments.done", "weather")


def test_the_sdk_parses_an_answer_that_is_held_to_a_pydantic_type(client, source):
    options = {"model": MODEL, "messages": MESSAGES, "response_format": Weather, "seed": 4}
    whole = client.chat.completions.parse(**options)
    with client.chat.completions.stream(**options) as stream:
        streamed = stream.until_done().get_final_completion()
    for answer in (whole, streamed):
        assert answer.choices[0].message.parsed == Weather(city="Bern")
    for request in source.requests[-2:]:
        assert '"required":["city"]' in request.params.grammar
        assert '"additionalProperties":false' in request.params.grammar


def test_the_sdk_parses_the_arguments_of_a_strict_tool(client, source):
    tool = openai.pydantic_function_tool(Weather, name="weather")
    assert tool["function"]["strict"]
    options = {"model": MODEL, "messages": MESSAGES, "tools": [tool], "seed": 1}
    whole = client.chat.completions.parse(**options)
    with client.chat.completions.stream(**options) as stream:
        streamed = stream.until_done().get_final_completion()
    for answer in (whole, streamed):
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.parsed_arguments == Weather(city="Bern")
    for request in source.requests[-2:]:
        assert 'to=functions.weather"' in request.params.grammar
        assert '"additionalProperties":false' in request.params.grammar


def test_a_strict_tool_that_cannot_be_enforced_is_the_sdks_bad_request(client):
    parameters = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": parameters}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        ask(client, tools=[tool])
    assert caught.value.param == "tools[0].function.parameters"


def test_a_chat_without_output_is_the_sdks_bad_request(client):
    for field in ("max_tokens", "max_completion_tokens"):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, **{field: 0})
        assert caught.value.param == field
