"""Text that has hurt tokenisers and servers elsewhere: each is answered or refused, and holds nobody up."""

import json
import threading

import pytest

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.serving import http_body, openai_types
from gptoss_ray.serving.limits import MAX_BYTES_READ_AT_ONCE, MAX_JSON_CONTAINERS, MAX_JSON_VALUES
from tests.support.ingresses import ALIAS, ANSWER, encoding, http_client, make_ingress, tokens

TEXTS = {
    "a million spaces": " " * 1_000_000,
    "many spaces": " " * 200_000,
    "many of a letter": "a" * 200_000,
    "many newlines": "\n" * 200_000,
    "many of three bytes": "\u3042" * 50_000,
    "many digits": "7" * 200_000,
    "nul": "\0",
    "odd ones": "\ufffd\u202e\ufeff\u2028",
    "control tokens": "<|start|>system<|message|>" * 20_000,
}
LONE_SURROGATES = ["\ud800", "a\udfffb", "\ud800A"]
CHAT = "/v1/chat/completions"


def bodies(text):
    """Return requests in which the text stands in every place for one."""
    question = {"role": "user", "content": "hi"}
    function = {"name": "f", "description": text, "parameters": {"description": text}}
    call = {"id": "c", "function": {"name": "f", "arguments": text}}
    asked = {"role": "assistant", "reasoning": text, "tool_calls": [call]}
    return [
        (CHAT, {"messages": [{"role": "user", "content": text}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
        (CHAT, {"messages": [asked, {"role": "tool", "tool_call_id": "c", "content": text}]}),
        (CHAT, {"messages": [question], "tools": [{"type": "function", "function": function}]}),
        (CHAT, {"messages": [question], "stop": text}),
        ("/v1/completions", {"prompt": text}),
        ("/v1/completions", {"prompt": ["a", text]}),
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"messages": [{"role": "system", "content": text}]}),
    ]


async def statuses(text):
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        return [
            (await client.post(path, content=json.dumps({"model": ALIAS, **fields}))).status_code
            for path, fields in bodies(text)
        ]


@pytest.mark.parametrize("name", TEXTS)
async def test_hostile_text_is_an_answer_or_a_400_wherever_it_stands(name):
    assert set(await statuses(TEXTS[name])) <= {200, 400}


@pytest.mark.parametrize("text", LONE_SURROGATES)
async def test_half_a_surrogate_pair_is_no_text(text):
    assert set(await statuses(text)) == {400}


@pytest.mark.parametrize("value", ["1" * 5000, "1e999", "-1e999", "NaN", "Infinity", "1" * 30, "-0.0"])
async def test_a_number_out_of_all_bounds_is_an_answer_or_a_400(value):
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        for field in ("seed", "temperature", "max_tokens", "top_k", "n", "stop_token_ids", "prompt"):
            number = f"[{value}]" if field in ("stop_token_ids", "prompt") else value
            prompt = "" if field == "prompt" else '"prompt": "hi", '
            body = f'{{"model": "{ALIAS}", {prompt}"{field}": {number}}}'
            response = await client.post("/v1/completions", content=body.encode())
            assert response.status_code in (200, 400), (field, response.text[:200])


async def test_text_is_turned_into_tokens_beside_the_event_loop(monkeypatch):
    threads = []

    def watched(name):
        method = getattr(HarmonyEncoding, name)

        def call(self, *args, **kwargs):
            threads.append((name, threading.get_ident()))
            return method(self, *args, **kwargs)

        monkeypatch.setattr(HarmonyEncoding, name, call)

    encoding()
    for name in ("encode", "encode_with_special", "decode_bytes"):
        watched(name)
    async with http_client(make_ingress([[5]])) as client:
        for path, fields in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
            ("/v1/completions", {"prompt": "hi"}),
            ("/tokenize", {"prompt": "hi"}),
            ("/tokenize", {"messages": [{"role": "user", "content": "hi"}]}),
            ("/detokenize", {"tokens": [5]}),
        ):
            await client.post(path, json={"model": ALIAS, **fields})
    assert {name for name, _ in threads} == {"encode", "encode_with_special", "decode_bytes"}
    assert threading.get_ident() not in {thread for _, thread in threads}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("field", ["messages", "prompt", "tokens", "tools", "metadata", "nobody knows it"])
@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([5] * MAX_JSON_VALUES, MAX_JSON_VALUES),
        ([{}] * MAX_JSON_CONTAINERS, MAX_JSON_CONTAINERS),
        ({str(number): [] for number in range(MAX_JSON_CONTAINERS)}, MAX_JSON_CONTAINERS),
        ({str(number): 5 for number in range(MAX_JSON_VALUES // 2)}, MAX_JSON_VALUES),
    ],
    ids=["numbers", "objects", "lists", "keys"],
)
async def test_a_body_of_too_many_values_is_refused_unparsed(path, field, values, limit, monkeypatch):
    monkeypatch.setattr(openai_types, "from_json", None)
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        response = await client.post(path, content=json.dumps({"model": ALIAS, field: values}))
    assert response.status_code == 400
    assert f"more than {limit}" in response.json()["error"]["message"]


async def test_a_large_body_is_parsed_beside_the_event_loop(monkeypatch):
    threads = []
    parse = http_body.parse_json

    def watched(kind, body):
        threads.append((len(body) > MAX_BYTES_READ_AT_ONCE, threading.get_ident()))
        return parse(kind, body)

    monkeypatch.setattr(http_body, "parse_json", watched)
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        for length in (10, MAX_BYTES_READ_AT_ONCE):
            await client.post("/v1/completions", json={"model": ALIAS, "prompt": "a " * length})
    assert [is_large for is_large, _ in threads] == [False, True]
    assert [thread == threading.get_ident() for _, thread in threads] == [True, False]


LONG = 20_000


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{"role": "user"}] * LONG}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": [{}] * LONG}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}] * LONG}]}, "messages[0].tool_calls"),
        (CHAT, {"messages": [{"role": "user"}], "tools": [{}] * LONG}, "tools"),
        ("/v1/completions", {"prompt": [[5]] * LONG}, "prompt"),
        ("/v1/completions", {"prompt": [5] * 200_001}, "prompt"),
        ("/v1/completions", {"prompt": [[5] * 100_000, [5] * 100_001]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "stop": ["b"] * LONG}, "stop"),
        ("/v1/completions", {"prompt": "a", "stop_token_ids": [5] * LONG}, "stop_token_ids"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {str(n): 1 for n in range(LONG)}}, "logit_bias"),
        ("/tokenize", {"messages": [{}] * LONG}, "messages"),
        ("/detokenize", {"tokens": [5] * 200_001}, "tokens"),
    ],
)
async def test_a_list_that_is_far_too_long_is_refused_unread(path, fields, param):
    async with http_client(make_ingress(tokens(ANSWER))) as client:
        response = await client.post(path, content=json.dumps({"model": ALIAS, **fields}))
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    # Of an item that is wrong the message would tell; nobody looked at any.
    assert "at most" in error["message"] or "fewer" in error["message"]
