import asyncio
import json
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptoss_ray.errors import (
    InvalidRequestError,
    RequestAbortedError,
    RequestStalledError,
    RequestTooLargeError,
)
from gptoss_ray.serving import limits
from gptoss_ray.serving.limits import (
    MAX_BYTES_READ_AT_ONCE,
    MAX_JSON_CONTAINERS,
    MAX_JSON_VALUES,
    check_json_size,
    parse_aside,
    read_body,
)


def client(*messages):
    rest = list(messages)

    async def receive():
        return rest.pop(0)

    return receive, rest


def chunk(body, *, more_body=True):
    return {"type": "http.request", "body": body, "more_body": more_body}


async def test_a_body_is_read_to_its_end():
    receive, _ = client(chunk(b"ab"), chunk(b""), chunk(b"cd", more_body=False))
    assert await read_body(receive, 4) == b"abcd"


async def test_a_body_over_the_limit_is_not_read_further():
    receive, rest = client(chunk(b"abc"), chunk(b"de"), chunk(b"f", more_body=False))
    with pytest.raises(RequestTooLargeError):
        await read_body(receive, 4)
    assert len(rest) == 1


async def test_a_client_that_leaves_while_sending_is_told_apart():
    receive, _ = client(chunk(b"ab"), {"type": "http.disconnect"})
    with pytest.raises(RequestAbortedError):
        await read_body(receive, 4)


async def test_only_a_large_request_is_parsed_in_another_thread():
    here = threading.get_ident()
    assert await parse_aside(MAX_BYTES_READ_AT_ONCE, threading.get_ident) == here
    assert await parse_aside(MAX_BYTES_READ_AT_ONCE + 1, threading.get_ident) != here


def tool(name):
    fields = {f"field_{number}": {"type": "string", "enum": ["a", "b"]} for number in range(60)}
    parameters = {"type": "object", "properties": fields, "required": list(fields)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": list(range(131_072))},
        {"tools": [tool(f"tool_{number}") for number in range(128)]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}] * 8192},
        {"messages": [{"content": json.dumps([{"a": 'say "hi"', "b": "\\"}] * 70_000)}]},
        {"messages": [{"content": '[{,"\\' * 300_000}]},
    ],
    ids=["token ids", "tools", "messages", "JSON in a text", "odd text"],
)
def test_a_large_request_of_a_usual_kind_has_not_too_many_values(values):
    check_json_size(json.dumps(values).encode())


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (b"[" + b"5," * MAX_JSON_VALUES + b"5]", MAX_JSON_VALUES),
        (b"[" + b'"",' * MAX_JSON_VALUES + b'""]', MAX_JSON_VALUES),
        (b'{"a":["\\\\",' + b'"\\"",' * MAX_JSON_VALUES + b"5]}", MAX_JSON_VALUES),
        (b"[" + b"[]," * MAX_JSON_CONTAINERS + b"[]]", MAX_JSON_CONTAINERS),
        (b"{" + b'"a":{},' * MAX_JSON_CONTAINERS + b'"a":{}}', MAX_JSON_CONTAINERS),
        (b"[" * 200_000, MAX_JSON_CONTAINERS),
    ],
    ids=["numbers", "strings", "escaped strings", "lists", "objects", "nested lists"],
)
def test_too_many_values_are_refused_by_the_number_that_is_allowed(text, limit):
    with pytest.raises(InvalidRequestError, match=f"The body has more than {limit} ") as caught:
        check_json_size(text)
    assert caught.value.param is None
    with pytest.raises(InvalidRequestError) as caught:
        check_json_size(text, "tools[3]")
    assert caught.value.param == "tools[3]"


def count(value):
    """Return the values, keys too, and the containers in a JSON value; an empty one counts for two values."""
    if not isinstance(value, list | dict):
        return 1, 0
    children = [count(child) for child in (value.values() if isinstance(value, dict) else value)]
    num_keys = len(value) if isinstance(value, dict) else 0
    num_values = 1 + num_keys + (sum(values for values, _ in children) or 1)
    return num_values, 1 + sum(containers for _, containers in children)


TEXTS = st.text(st.sampled_from('\\",[{:}]a\n\u00e9'), max_size=9)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES, st.integers(1, 9), st.booleans())
@example(["\\", '"', "\\\\", ",,", '\\"['], 1, False)
def test_values_are_counted_exactly_however_the_text_is_cut(value, piece_bytes, is_indented):
    text = json.dumps(value, indent=1 if is_indented else None).encode()
    num_values, num_containers = count(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_PIECE_BYTES", piece_bytes)
        patch.setattr(limits, "MAX_JSON_VALUES", num_values)
        patch.setattr(limits, "MAX_JSON_CONTAINERS", num_containers)
        check_json_size(text)
        patch.setattr(limits, "MAX_JSON_VALUES", num_values - 1)
        with pytest.raises(InvalidRequestError, match="values"):
            check_json_size(text)
        patch.setattr(limits, "MAX_JSON_VALUES", num_values)
        patch.setattr(limits, "MAX_JSON_CONTAINERS", num_containers - 1)
        with pytest.raises(InvalidRequestError):
            check_json_size(text)


@pytest.mark.parametrize("chunk", [None, b" "])
async def test_a_body_that_stalls_or_trickles_is_given_up(monkeypatch, chunk):
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.05)

    async def receive():
        await asyncio.sleep(0.01 if chunk else 60)
        return {"type": "http.request", "body": chunk, "more_body": True}

    with pytest.raises(RequestStalledError):
        await read_body(receive, 1 << 20)
