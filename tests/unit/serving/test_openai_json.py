import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_ray.serving.answer import Answer, LogprobEntry, TokenLogprob, Usage
from gptoss_ray.serving.chat_assembler import ChatDelta, ToolCallDelta
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.openai_json import chat_chunks, completion_chunks, usage_field

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3, reasoning_tokens=2)
USAGE_OBJECT = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
LOGPROBS = (LogprobEntry(TokenLogprob(5, b"a", -0.25), (TokenLogprob(6, b"\xe2", -1.5),)),)
TOP = {"token": "bytes:\\xe2", "logprob": -1.5, "bytes": [226]}
CONTENT_LOGPROB = {"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": [TOP]}


async def no_events():
    return
    yield


def answer(model="m"):
    return Answer("id-1", model, 1_750_000_000, USAGE, no_events())


def chunk(kind, choices, *, model="m", **fields):
    """Return a chunk as Python's own encoder writes it, without spaces and with text as it is."""
    whole = {
        "id": "id-1",
        "object": kind,
        "created": 1_750_000_000,
        "model": model,
        "system_fingerprint": None,
        "choices": choices,
        **fields,
    }
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def chat_choice(index, delta, logprobs=None, finish_reason=None):
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


@given(TEXT, TEXT)
def test_chunks_of_a_chat_are_byte_for_byte_the_json_of_the_whole_object(model, text):
    write = chat_chunks(answer(model))
    started = {"role": "assistant", "content": ""}
    for delta in ({**started, **({"content": text} if text else {})}, {"content": text} if text else {}):
        expected = chunk("chat.completion.chunk", [chat_choice(0, delta)], model=model)
        assert write([ChatDelta(0, content=text)]) == expected


@pytest.mark.parametrize(
    ("delta", "choice"),
    [
        (ChatDelta(1, reasoning="Hm"), chat_choice(1, {"reasoning": "Hm", "reasoning_content": "Hm"})),
        (
            ChatDelta(1, tool_call=ToolCallDelta(0, id="call_1", name="f")),
            chat_choice(
                1,
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "f", "arguments": ""},
                        }
                    ]
                },
            ),
        ),
        (
            ChatDelta(1, tool_call=ToolCallDelta(0, arguments="{}")),
            chat_choice(1, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        ),
        (
            ChatDelta(1, content="a", logprobs=LOGPROBS),
            chat_choice(1, {"content": "a"}, {"content": [CONTENT_LOGPROB], "refusal": None}),
        ),
        (ChatDelta(1, finish_reason="stop"), chat_choice(1, {}, finish_reason="stop")),
    ],
)
def test_every_kind_of_delta_has_its_place_in_a_chunk(delta, choice):
    write = chat_chunks(answer())
    write([ChatDelta(1)])
    assert write([delta]) == chunk("chat.completion.chunk", [choice])


@given(TEXT)
def test_chunks_of_a_completion_are_byte_for_byte_the_json_of_the_whole_object(text):
    choice = {"index": 3, "text": text, "logprobs": None, "finish_reason": "stop"}
    written = completion_chunks(answer())([CompletionDelta(3, text, (5,), finish_reason="stop")])
    assert written == chunk("text_completion", [choice])


def test_usage_comes_last_in_a_chunk_and_is_null_where_there_is_none_yet():
    write = completion_chunks(answer())
    assert write([], usage_field(USAGE)) == chunk("text_completion", [], usage=USAGE_OBJECT)
    choice = {"index": 0, "text": "a", "logprobs": None, "finish_reason": None}
    assert write([CompletionDelta(0, "a")], usage_field(None)) == chunk(
        "text_completion", [choice], usage=None
    )
