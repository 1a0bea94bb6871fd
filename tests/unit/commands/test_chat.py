import io
import json

import httpx
import pytest
from rich.console import Console

from gptoss_ray.commands.chat import ChatSession, converse, slash_command
from gptoss_ray.errors import GptossError, UnavailableError
from gptoss_ray.http_client import first_model


def sse(*deltas, error=None, done=True):
    events = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    if error:
        events.append(json.dumps({"error": {"message": error}}))
    if done:
        events.append("[DONE]")
    return httpx.Response(200, text="".join(f"data: {event}\n\n" for event in events))


class Server:
    """Answers chat requests with prepared responses and remembers what was asked."""

    def __init__(self, *responses):
        self.responses = list(responses)
        self.requests = []

    def __call__(self, request):
        self.requests.append(json.loads(request.content or "null"))
        response = self.responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response


def session_with(*responses, system=""):
    server = Server(*responses)
    http = httpx.Client(transport=httpx.MockTransport(server), base_url="http://test")
    screen = io.StringIO()
    session = ChatSession(http, Console(file=screen, width=200), model="m", effort="medium", system=system)
    return session, server, screen


def test_an_answer_streams_with_its_reasoning_and_joins_the_conversation():
    session, server, screen = session_with(
        sse({"role": "assistant", "reasoning": "7 + 5"}, {"content": "4"}, {"content": "2"}),
        sse({"content": "ok"}),
        system="be brief",
    )
    assert session.ask("17 + 25") == "42"
    assert screen.getvalue() == "7 + 5\n42\n"
    session.ask("thanks")
    assert [m["content"] for m in server.requests[1]["messages"]] == ["be brief", "17 + 25", "42", "thanks"]


def test_a_tool_call_is_run_and_its_result_sent_back():
    call = [
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "multiply", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 6, '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"b": 7}'}}]},
    ]
    session, server, _ = session_with(sse(*call), sse({"content": "It is 42."}))
    slash_command(session, "/tools")
    assert session.ask("6 times 7?") == "It is 42."
    result = server.requests[1]["messages"][-1]
    assert result == {"role": "tool", "tool_call_id": "c1", "content": '{"product": 42}'}
    assert [tool["function"]["name"] for tool in server.requests[0]["tools"]] == [
        "get_weather", "get_time", "multiply",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", ["{", '{"a": 1}', "[]", '{"a": "x", "b": "y"}'])
def test_bad_tool_arguments_become_a_result_the_model_can_read(arguments):
    call = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "multiply", "arguments": arguments}}]}
    session, server, _ = session_with(sse(call), sse({"content": "sorry"}))
    session.ask("go")
    assert "error" in json.loads(server.requests[1]["messages"][-1]["content"])


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(400, json={"error": {"message": "top_p is 3"}}), "top_p is 3"),
        (httpx.Response(502, text="<html>"), "HTTP 502"),
        (sse({"content": "a"}, error="rank lost"), "rank lost"),
        (sse({"content": "a"}, done=False), "ended early"),
        (httpx.ConnectError("refused"), "make serve"),
    ],
)
def test_a_failed_question_leaves_the_conversation_as_it_was(response, message):
    session, _, _ = session_with(response)
    with pytest.raises(GptossError, match=message):
        session.ask("hi")
    assert session.messages == []


def test_an_error_in_a_conversation_ends_only_its_question(monkeypatch):
    session, _server, screen = session_with(
        httpx.Response(500, json={"error": {"message": "broken"}}), sse({"content": "fine"})
    )
    lines = iter(["one", "two", "/effort high", "/nonsense", "/reset", "/quit"])
    monkeypatch.setattr(session.console, "input", lambda prompt: next(lines))
    converse(session)
    assert "error: broken" in screen.getvalue()
    assert "fine" in screen.getvalue()
    assert session.effort == "high"
    assert "/effort LEVEL" in screen.getvalue()
    assert session.messages == []


def test_the_model_is_the_first_one_served():
    listing = httpx.Response(200, json={"data": [{"id": "demo"}, {"id": "other"}]})
    session, _, _ = session_with(listing)
    assert first_model(session.http) == "demo"


def test_no_server_is_one_clear_line():
    session, _, _ = session_with(httpx.ConnectError("refused"))
    with pytest.raises(UnavailableError, match="start it with `make serve`"):
        first_model(session.http)
