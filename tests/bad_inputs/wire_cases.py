"""What may come over a connection that is no request at all, or one that never ends."""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.serving.request_heads import MAX_HEAD_BYTES

_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"


@dataclass(frozen=True)
class WireCase:
    """Bytes, and the status that answers them; 0: the connection is closed without one."""

    name: str
    sent: bytes
    status: int


WIRE_CASES = [
    WireCase("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00" + b"\xff" * 200 + b"\r\n\r\n", 400),
    WireCase("HTTP of the year 9", b"GET / HTTP/9.9\r\n\r\n", 400),
    WireCase("an unknown method", b"BREW /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    WireCase("a header without a name", b"GET /live HTTP/1.1\r\n: x\r\n\r\n", 400),
    WireCase("a line break in a header", b"GET /live HTTP/1.1\r\nhost: x\r\nx-a: b\n c: d\0\r\n\r\n", 400),
    WireCase("10,000 headers", _HEAD + b"x-flood: 0123456789\r\n" * 10_000 + b"\r\n", 400),
    WireCase("a header that does not end", _HEAD + b"x-flood: " + b"a" * (MAX_HEAD_BYTES + 1), 400),
    WireCase("a path that does not end", b"GET /" + b"a" * (MAX_HEAD_BYTES + 1), 400),
    WireCase("a body of two lengths", _HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
    WireCase("a body below length 0", _HEAD + b"content-length: -1\r\n\r\n", 400),
    WireCase(
        "a length beside chunks", _HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400
    ),
    WireCase("a chunk of no size", _HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    WireCase(
        "a websocket",
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        403,
    ),
    WireCase(
        "a path out of all folders", b"GET /v1/models/../../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", 404
    ),
    WireCase("the same in disguise", b"GET /..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    WireCase("a zero byte in a path", b"GET /v1/models/a%00b HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    WireCase("a body that stalls", _HEAD + b"content-length: 100\r\n\r\n{", 408),
    WireCase("a head that stalls", b"POST /v1/chat/comp", 0),
    WireCase("nothing at all", b"", 0),
]
