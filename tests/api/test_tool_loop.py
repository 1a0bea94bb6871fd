"""A client that drops the model's reasoning between a call and its result, as the openai SDKs do."""

import pytest

from gptoss_ray.config import LimitsConfig
from tests.support.ingresses import ANSWER, CALL, MODEL, encoding, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

URL = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {"name": "weather"}}
QUESTION = {"role": "user", "content": "Weather in Bern?"}
REASONING = "<|channel|>analysis<|message|>Look it up.<|end|>"


class Client:
    """One conversation; each turn sends all that was said before, without the reasoning."""

    def __init__(self, http, key=None):
        self.http = http
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self.messages = [QUESTION]

    async def turn(self, **fields):
        body = {"model": MODEL, "messages": self.messages, "tools": [WEATHER], **fields}
        response = await self.http.post(URL, json=body, headers=self.headers)
        assert response.status_code == 200, response.text
        message = response.json()["choices"][0]["message"]
        said = {key: message[key] for key in ("role", "content", "tool_calls") if key in message}
        self.messages = [*self.messages, said]
        for call in said.get("tool_calls", []):
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": "sunny"})
        return message


def prompt(request):
    return encoding().decode_bytes(request.prompt_token_ids).decode()


async def test_the_reasoning_before_a_call_comes_back_though_the_client_dropped_it():
    source = ScriptedSource(tokens(CALL))
    async with http_client(make_ingress(source)) as http:
        client = Client(http)
        for _ in range(3):
            await client.turn()
    assert [prompt(request).count(REASONING) for request in source.requests] == [0, 1, 2]
    order = ["Look it up.", "One moment.", "to=functions.weather", "sunny"]
    positions = [prompt(source.requests[1]).index(text) for text in order]
    assert positions == sorted(positions)


async def test_a_finished_turns_reasoning_stays_dropped():
    source = ScriptedSource(lambda request: tokens(CALL if len(source.requests) == 1 else ANSWER))
    async with http_client(make_ingress(source)) as http:
        client = Client(http)
        await client.turn()
        await client.turn()
        client.messages.append({"role": "user", "content": "Thanks."})
        await client.turn()
    assert [prompt(request).count(REASONING) for request in source.requests] == [0, 1, 0]


async def test_what_the_client_says_that_it_thought_is_taken_as_it_is():
    source = ScriptedSource(tokens(CALL))
    async with http_client(make_ingress(source)) as http:
        client = Client(http)
        await client.turn()
        client.messages[1]["reasoning"] = "Something else."
        await client.turn()
    assert REASONING not in prompt(source.requests[1])
    assert "<|channel|>analysis<|message|>Something else.<|end|>" in prompt(source.requests[1])


async def test_a_stream_is_remembered_too():
    source = ScriptedSource(tokens(CALL))
    async with http_client(make_ingress(source)) as http:
        body = {"model": MODEL, "messages": [QUESTION], "tools": [WEATHER], "stream": True}
        text = (await http.post(URL, json=body)).text
        call_id = text.partition('"id":"call_')[2].partition('"')[0]
        call = {"id": f"call_{call_id}", "function": {"name": "weather", "arguments": "{}"}}
        said = {"role": "assistant", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
        await http.post(URL, json={"model": MODEL, "messages": [QUESTION, said, result]})
    assert REASONING in prompt(source.requests[1])


async def test_no_other_tenant_gets_it():
    source = ScriptedSource(tokens(CALL))
    async with http_client(make_ingress(source, api_keys=("one", "two"))) as http:
        client = Client(http, "one")
        await client.turn()
        client.headers = {"authorization": "Bearer two"}
        await client.turn()
    assert REASONING not in prompt(source.requests[1])


@pytest.mark.parametrize("limits", [{"max_remembered_calls": 0}, {"max_remembered_reasoning_bytes": 4}])
async def test_an_operator_may_turn_it_off(limits):
    source = ScriptedSource(tokens(CALL))
    async with http_client(make_ingress(source, limits=LimitsConfig(**limits))) as http:
        client = Client(http)
        await client.turn()
        await client.turn()
    assert REASONING not in prompt(source.requests[1])
