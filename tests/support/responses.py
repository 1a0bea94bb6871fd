"""Responses over HTTP, and a check that every sequence of their events has to pass."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.support.ingresses import MODEL

URL = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ENDS = ("response.completed", "response.incomplete", "response.failed")


def body(**fields: Any) -> dict[str, Any]:
    """Return a request."""
    return {"model": MODEL, "input": "What is 17 + 25?", **fields}


def read_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream; each has its type for a name."""
    events = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def stream(http: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """Return the checked events of a new response."""
    response = await http.post(URL, json=body(stream=True, **fields))
    assert response.status_code == 200, response.text
    events = read_events(response.text)
    check_events(events)
    return events


async def create(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Return a new response as a whole."""
    response = await http.post(URL, json=body(**fields))
    assert response.status_code == 200, response.text
    created: dict[str, Any] = response.json()
    return created


def texts(response: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the items of an output as their type, or phase, and their text."""
    return [_text(item) for item in response["output"]]


def _text(item: dict[str, Any]) -> tuple[str, str]:
    if item["type"] == "function_call":
        return item["type"], item["arguments"]
    if item["type"] == "custom_tool_call":
        return item["type"], item["input"]
    return item.get("phase", item["type"]), "".join(part["text"] for part in item["content"])


def check_events(events: list[dict[str, Any]]) -> None:
    """Hold events to the protocol: numbers, what opens is closed, pieces add up, and the end has it all."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[0] == "created"
    assert kinds[1] == ("in_progress" if events[0]["response"]["status"] == "in_progress" else "queued")
    assert [kind for kind in kinds if f"response.{kind}" in ENDS] == [kinds[-1]]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert events[-1]["response"]["output"] == done
    assert all(event["response"]["output"] == [] for event in events[:-1] if "response" in event)
    for index, item in enumerate(done):
        _check_item([event for event in events if event.get("output_index") == index], item)


def _check_item(events: list[dict[str, Any]], item: dict[str, Any]) -> None:
    assert events[0]["type"] == "response.output_item.added"
    assert events[0]["item"]["id"] == item["id"]
    assert events[0]["item"]["status"] == "in_progress"
    assert events[-1]["type"] == "response.output_item.done"
    inner = events[1:-1]
    assert {event["item_id"] for event in inner} == {item["id"]}
    if item["type"] in ("message", "reasoning"):
        for number, part in enumerate(item["content"]):
            of_part = [event for event in inner if event["content_index"] == number]
            _check_part(of_part, part)
        return
    *deltas, last = inner
    name = "input" if item["type"] == "custom_tool_call" else "arguments"
    assert "".join(delta["delta"] for delta in deltas) == last[name] == item[name]
    assert {delta["type"].rpartition(".")[0] for delta in inner} == {last["type"].removesuffix(".done")}
    if name == "arguments":
        assert last["name"] == item["name"]


def _check_part(events: list[dict[str, Any]], part: dict[str, Any]) -> None:
    added, *deltas, text_done, part_done = events
    assert added["type"] == "response.content_part.added"
    assert added["part"] == {**part, "text": "", **({"logprobs": []} if "logprobs" in part else {})}
    assert part_done["type"] == "response.content_part.done"
    assert part_done["part"] == part
    assert "".join(delta["delta"] for delta in deltas) == text_done["text"] == part["text"]
    kind = {"output_text": "response.output_text", "reasoning_text": "response.reasoning_text"}[part["type"]]
    assert {delta["type"] for delta in deltas} <= {f"{kind}.delta"}
    assert text_done["type"] == f"{kind}.done"
    if part["type"] == "output_text":
        logprobs = [entry for delta in deltas for entry in delta["logprobs"]]
        assert logprobs == text_done["logprobs"] == part["logprobs"]
