"""Bodies that have stopped servers: each is a text in JSON, as the content of a chat or as a prompt."""

from __future__ import annotations

HOSTILE_TEXTS: dict[str, bytes] = {
    "10^6 spaces": b'"' + b" " * 10**6 + b'"',
    "200k a": b'"' + b"a" * 200_000 + b'"',
    "lone surrogates, escaped": b'"' + rb"\ud800" * 1000 + b'"',
    "lone surrogates, as bytes": b'"' + b"\xed\xa0\x80" * 1000 + b'"',
    "NUL, escaped": b'"' + rb"\u0000" * 1000 + b'"',
    "NUL, as bytes": b'"' + b"\x00" * 1000 + b'"',
}
"""Name -> a JSON string, quotes included; some are none."""


def hostile_bodies(text: bytes, model: str) -> dict[str, bytes]:
    """Return path -> body of a request for one token that has the text in it."""
    fields = b'{"model":"%s","max_tokens":1,' % model.encode()
    return {
        "/v1/chat/completions": fields + b'"messages":[{"role":"user","content":' + text + b"}]}",
        "/v1/completions": fields + b'"prompt":' + text + b"}",
    }
