"""Requests of every kind, good and bad, whose texts and keys can be found again where they should not be."""

from __future__ import annotations

from typing import Any

PROMPT_MARK = "zanzibar-7731-prompt"
KEY_MARK = "zanzibar-7731-key"

_SAID = {"role": "user", "content": PROMPT_MARK}
_CHAT = "/v1/chat/completions"


def marked_requests(model: str, good_key: str) -> list[tuple[int, str, dict[str, Any], dict[str, str]]]:
    """Return (status, path, fields, headers) of requests that meet every kind of answer."""
    good, wrong = {"authorization": f"Bearer {good_key}"}, {"authorization": f"Bearer {KEY_MARK}"}
    chat = {"model": model, "messages": [_SAID], "max_tokens": 4}
    tool = {"type": "function", "function": {"name": PROMPT_MARK, "description": PROMPT_MARK}}
    schema = {"name": "s", "strict": True, "schema": {"type": PROMPT_MARK}}
    return [
        (200, _CHAT, chat, good),
        (200, _CHAT, {**chat, "stream": True}, good),
        (200, _CHAT, {**chat, "tools": [tool]}, good),
        (200, "/v1/completions", {"model": model, "prompt": PROMPT_MARK, "max_tokens": 4}, good),
        (200, "/tokenize", {"model": model, "prompt": PROMPT_MARK}, good),
        (400, _CHAT, {**chat, "temperature": PROMPT_MARK}, good),
        (400, _CHAT, {**chat, "stop": [PROMPT_MARK] * 99}, good),
        (400, _CHAT, {**chat, "tool_choice": {"type": "function", "function": {"name": PROMPT_MARK}}}, good),
        (400, _CHAT, {**chat, "messages": [{"role": PROMPT_MARK, "content": PROMPT_MARK}]}, good),
        (400, _CHAT, {**chat, "response_format": {"type": "json_schema", "json_schema": schema}}, good),
        (400, _CHAT, {**chat, "structured_outputs": {"regex": f"({PROMPT_MARK}"}}, good),
        (400, _CHAT, {**chat, "messages": [{"role": "user", "content": f"{PROMPT_MARK} " * 20_000}]}, good),
        (401, _CHAT, chat, wrong),
        (401, _CHAT, chat, {"x-api-key": KEY_MARK}),
        (404, _CHAT, {**chat, "model": "nobody"}, good),
        (404, f"/v1/{model}", chat, good),
        (415, _CHAT, chat, good | {"content-type": "text/plain"}),
        (504, _CHAT, {**chat, "max_tokens": 1500, "ignore_eos": True}, good | {"x-request-timeout-s": "0.2"}),
    ]


def find_marks(text: str, *others: str) -> list[str]:
    """Return the lines in which a mark stands, or another text that is secret."""
    secrets = (PROMPT_MARK, KEY_MARK, *others)
    return [line[:300] for line in text.splitlines() if any(secret in line for secret in secrets)]
