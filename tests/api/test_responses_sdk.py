"""The openai package as a client of the Responses API, over a real connection."""

from collections.abc import Iterator

import openai
import pytest
from pydantic import BaseModel

from gptoss_ray.errors import UnavailableError
from tests.support.ingresses import ANSWER, CALL, FORMED, MODEL, http_server, make_ingress, tokens
from tests.support.responses import WEATHER
from tests.support.scripted_source import Pause, ScriptedSource

SEED = {"extra_body": {"seed": 0}}


class Weather(BaseModel):
    """Where to look for the weather."""

    city: str


def script(request):
    """Answer, call, break off, answer in JSON, or take a while, as the test's seed says."""
    failing = [*tokens(ANSWER)[:12], UnavailableError("The replica was lost.")]
    slow = [Pause(0.2), *tokens(ANSWER)]
    return [tokens(ANSWER), tokens(CALL), failing, tokens(FORMED), slow][request.params.seed]


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


def ask(client, seed=0, **options):
    return client.responses.create(
        model=MODEL, input=options.pop("input", "17 + 25?"), extra_body={"seed": seed}, **options
    )


def test_a_whole_response(client):
    response = ask(client)
    assert response.output_text == "It is 42."
    assert response.output[0].content[0].text == "17 and 25."
    assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_a_streamed_response_is_what_it_adds_up_to(client):
    events = list(ask(client, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == "It is 42."


def test_the_sdks_own_accumulator_takes_text_and_calls(client):
    with client.responses.stream(model=MODEL, input="Hi", **SEED) as stream:
        texts = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == texts[-1] == "It is 42."
    with client.responses.stream(
        model=MODEL, input="Hi", tools=[{**WEATHER, "strict": False}], extra_body={"seed": 1}
    ) as stream:
        snapshots = [
            event.snapshot for event in stream if event.type == "response.function_call_arguments.delta"
        ]
        call = stream.get_final_response().output[-1]
    assert call.arguments == snapshots[-1] == '{"city":"Bern"}'
    assert call.status == "completed"


def test_a_loop_of_tools_by_replay_and_by_previous_response_id(client):
    tools = [{**WEATHER, "strict": False}]
    first = ask(client, seed=1, tools=tools)
    result = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "sunny"}
    replayed = ask(client, input=[{"role": "user", "content": "?"}, *first.output, result], tools=tools)
    continued = ask(client, input=[result], previous_response_id=first.id, tools=tools)
    assert replayed.output_text == continued.output_text == "It is 42."


def test_the_sdk_parses_an_answer_that_is_held_to_a_pydantic_type(client, source):
    options = {"model": MODEL, "input": "?", "text_format": Weather, "extra_body": {"seed": 3}}
    whole = client.responses.parse(**options)
    with client.responses.stream(**options) as stream:
        streamed = stream.until_done().get_final_response()
    assert whole.output_parsed == streamed.output_parsed == Weather(city="Bern")
    for request in source.requests[-2:]:
        assert '"additionalProperties":false' in request.params.grammar


def test_a_stored_response_is_retrieved_listed_and_deleted(client):
    response = ask(client)
    assert client.responses.retrieve(response.id).output_text == "It is 42."
    (item,) = client.responses.input_items.list(response.id)
    assert item.content[0].text == "17 + 25?"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_input_items_are_paged_through(client):
    items = [{"role": "user", "content": str(number)} for number in range(7)]
    response = ask(client, input=items)
    listed = client.responses.input_items.list(response.id, limit=3, order="asc")
    assert [item.content[0].text for item in listed] == [str(number) for number in range(7)]


def test_a_background_response_is_streamed_left_and_resumed(client):
    stream = ask(client, seed=4, background=True, stream=True)
    first = next(iter(stream))
    stream.close()
    assert client.responses.retrieve(first.response.id).status in ("queued", "in_progress")
    rest = list(
        client.responses.retrieve(first.response.id, stream=True, starting_after=first.sequence_number)
    )
    assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
    assert rest[-1].response.output_text == "It is 42."


def test_a_background_response_is_cancelled(client):
    response = ask(client, seed=4, background=True)
    assert response.status == "queued"
    assert client.responses.cancel(response.id).status == "cancelled"


def test_a_failure_within_a_stream_is_an_event_with_its_message(client):
    (*_, end) = ask(client, seed=2, stream=True)
    assert end.type == "response.failed"
    assert end.response.error.message == "The replica was lost."


def test_errors_become_the_sdks_own(client):
    with pytest.raises(openai.NotFoundError) as not_found:
        ask(client, previous_response_id="resp_1")
    assert not_found.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as bad_request:
        ask(client, temperature=1.0, top_logprobs=99)
    assert bad_request.value.param == "top_logprobs"
