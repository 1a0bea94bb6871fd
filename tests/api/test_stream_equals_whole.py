"""A stream's deltas, put together, are the answer that does not stream, whatever the model emits."""

import asyncio
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.ingresses import ANSWER, CALL, MODEL, encoding, http_client, make_ingress

WEATHER = {"type": "function", "function": {"name": "weather"}}
CONTROL = [
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>",
    "<|constrain|>", "<|return|>", "<|call|>", "<|endoftext|>",
]  # fmt: skip
WORDS = [
    "assistant", "analysis", "final", "commentary", " to=functions.weather", " to=browser.search",
    " json", "user", "It is 42.", '{"city":', '"Bern"}', "\n", "\n\n", " \N{SNOWMAN}", "\N{GRINNING FACE}",
    "stop here",
]  # fmt: skip
MESSAGE = st.sampled_from(
    [
        "<|channel|>analysis<|message|>Hm \N{SNOWMAN}.<|end|><|start|>assistant",
        "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant",
        "<|channel|>final<|message|>It is 42.",
        '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Bern"}',
        "<|channel|>final <|constrain|>json<|message|>{}",
        ANSWER,
        CALL,
    ]
)
MARKUP = st.lists(MESSAGE | st.sampled_from(CONTROL) | st.sampled_from(WORDS), max_size=12).map("".join)
RAW = st.lists(st.integers(0, encoding().vocab_size - 1), max_size=20)
OUTPUT = st.tuples(
    MARKUP.map(encoding().encode_with_special), RAW, MARKUP.map(encoding().encode_with_special)
).map(lambda parts: [token_id for part in parts for token_id in part])
STOP = st.lists(st.sampled_from(["\n", "42", " is", "stop here", "nt.It", "}"]), max_size=2)


def in_steps(token_ids: list[int], size: int) -> list[list[int]]:
    return [token_ids[start : start + size] for start in range(0, len(token_ids), size)]


async def both_ways(path, script, body):
    """Return the chunks of the stream and the whole answer; both must be a 200."""
    async with http_client(make_ingress(script)) as client:
        whole = await client.post(path, json=body)
        streamed = await client.post(
            path, json={**body, "stream": True, "stream_options": {"include_usage": True}}
        )
    assert whole.status_code == streamed.status_code == 200, whole.text
    events = streamed.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    *chunks, last = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert last["usage"] == whole.json()["usage"]
    return [chunk["choices"][0] for chunk in chunks], whole.json()["choices"][0]


def logprobs_of(choices, key):
    return [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"][key]]


def tool_calls_of(deltas):
    calls = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", [])):
        call = calls.setdefault(piece["index"], ["", ""])
        call[0] += piece["function"].get("name", "")
        call[1] += piece["function"]["arguments"]
    return [tuple(calls[index]) for index in sorted(calls)]


@settings(max_examples=150, deadline=None)
@given(OUTPUT, STOP, st.integers(1, 5), st.booleans(), st.booleans(), st.booleans())
def test_a_chat(token_ids, stop, step_size, logprobs, ignore_eos, include_stop):
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [WEATHER],
        "stop": stop,
        "logprobs": logprobs,
        "ignore_eos": ignore_eos,
        "include_stop_str_in_output": include_stop,
    }
    script = in_steps(token_ids, step_size)
    streamed, whole = asyncio.run(both_ways("/v1/chat/completions", script, body))
    deltas, message = [choice["delta"] for choice in streamed], whole["message"]
    content = "".join(delta.get("content", "") for delta in deltas)
    assert content == (message["content"] or "")
    assert "".join(delta.get("reasoning", "") for delta in deltas) == (message["reasoning"] or "")
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])
    ]
    assert tool_calls_of(deltas) == calls
    assert [choice["finish_reason"] for choice in streamed] == [None] * (len(streamed) - 1) + [
        whole["finish_reason"]
    ]
    assert logprobs_of(streamed, "content") == logprobs_of([whole], "content")
    # A longer one may appear where the end of one message and the start of the next happen to spell it.
    assert include_stop or not any(text in content for text in stop if len(text) == 1)
    assert not any(re.search(r"<\|\w+\|>", text) for text in (content, message["reasoning"] or ""))


@settings(max_examples=100, deadline=None)
@given(OUTPUT, STOP, st.integers(1, 5), st.none() | st.integers(0, 5), st.booleans(), st.booleans())
def test_a_completion(token_ids, stop, step_size, logprobs, echo, include_stop):
    body = {"model": MODEL, "prompt": "hi", "stop": stop, "logprobs": logprobs, "max_tokens": 300}
    body |= {"echo": echo, "include_stop_str_in_output": include_stop}
    streamed, whole = asyncio.run(both_ways("/v1/completions", in_steps(token_ids, step_size), body))
    assert "".join(choice["text"] for choice in streamed) == whole["text"]
    assert streamed[-1]["finish_reason"] == whole["finish_reason"]
    assert whole["text"].startswith("hi") or not echo
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert logprobs_of(streamed, key) == logprobs_of([whole], key)
