"""What plain HTTP answers: installed clients have to show the same."""

from __future__ import annotations

from typing import Any

from tests.support.client_servers import Server
from tests.support.harmony_markup import reasoned

SUM = [{"role": "user", "content": "17 + 25"}]
SUM_ANSWER = "17 + 25 = 42."

RECALL = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "My name is Anna."},
    {"role": "assistant", "content": "Nice to meet you, Anna."},
    {"role": "user", "content": "What is my name?"},
]
RECALL_ANSWER = "Your name is Anna."

WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER_CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}
WEATHER_RESULT = '{"temperature": 21}'
WEATHER_ANSWER = "The temperature is 21."
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def count(server: Server, **fields: Any) -> int:
    """Return the number of tokens of a raw `prompt`, or of a chat with the beginning of its answer."""
    return int(server.post("/tokenize", model=server.model, **fields)["count"])


def chat_facts(server: Server, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """Return what a client shows of a greedy answer: text, reasoning, how it ended, tokens.

    The tokens are counted again, by `/tokenize`.
    """
    answer = server.post(
        "/v1/chat/completions", model=server.model, messages=messages, temperature=0, **fields
    )
    (choice,) = answer["choices"]
    usage = answer["usage"]
    said = choice["message"]["reasoning"], choice["message"]["content"]
    assert usage["prompt_tokens"] == count(server, messages=messages)
    assert usage["completion_tokens"] == count(server, prompt=reasoned(*said))
    assert usage["completion_tokens_details"]["reasoning_tokens"] == count(server, prompt=said[0])
    return {
        "content": choice["message"]["content"],
        "reasoning": choice["message"]["reasoning"],
        "finish_reason": choice["finish_reason"],
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"],
    }


def chat_logprobs(server: Server, messages: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the tokens of a greedy answer with their log probabilities."""
    answer = server.post(
        "/v1/chat/completions", model=server.model, messages=messages, temperature=0, logprobs=True
    )
    entries = answer["choices"][0]["logprobs"]["content"]
    return [[entry["token"], entry["logprob"]] for entry in entries]


def weather_usage(server: Server) -> dict[str, int]:
    """Return what the two answers of the weather's conversation cost: call, then answer.

    Agents hold calls to their schema.
    """
    strict = {"type": "function", "function": WEATHER_TOOL["function"] | {"strict": True}}
    fields = {"model": server.model, "temperature": 0, "tools": [strict]}
    first = server.post("/v1/chat/completions", messages=WEATHER, **fields)
    said = first["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": WEATHER_RESULT}
    second = server.post("/v1/chat/completions", messages=[*WEATHER, said, result], **fields)
    assert second["choices"][0]["message"]["content"] == WEATHER_ANSWER
    usages = (first["usage"], second["usage"])
    return {
        "num_requests": len(usages),
        "input_tokens": sum(usage["prompt_tokens"] for usage in usages),
        "output_tokens": sum(usage["completion_tokens"] for usage in usages),
    }
