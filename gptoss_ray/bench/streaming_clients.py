"""Clients that note when each piece of a streamed chat came, and take it apart only afterwards.

What a client does with a token delays its reading of the next one, and would be taken for the server's
delay: so nothing is parsed while an answer comes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
import h11

from gptoss_ray.errors import GptossError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2

QUESTION = "What comes next?"

Piece = tuple[float, bytes]
"""A moment of the monotonic clock in seconds, and the bytes that were read then."""


@dataclass(frozen=True)
class StreamedAnswer:
    """An answer as its client saw it.

    Attributes:
        id: The server's name for it.
        moments_s: When each character of the content came.
    """

    id: str
    moments_s: tuple[float, ...]


class StreamingClient(Protocol):
    """Asks one question over one protocol."""

    protocol: str

    async def record(self, model: str, max_tokens: int, pieces: list[Piece]) -> None:
        """Stream one answer and add each piece that is read; GptossError where the connection fails."""
        ...

    def read(self, pieces: Sequence[Piece]) -> StreamedAnswer:
        """Take a recorded answer apart; GptossError where the server refused or broke off."""
        ...


class HttpStreams:
    """Streams over HTTP/1.1, each on a connection of its own."""

    protocol = "HTTP"

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def record(self, model: str, max_tokens: int, pieces: list[Piece]) -> None:
        """See `StreamingClient`."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": max_tokens,
            "stream": True,
        }
        _, request = self._request(json.dumps(body).encode())
        loop = asyncio.get_running_loop()
        try:
            transport, recorder = await loop.create_connection(
                lambda: _Recorder(pieces), self._host, self._port
            )
        except OSError as error:
            raise GptossError(f"{self._host}:{self._port} takes no connection: {error}") from error
        try:
            transport.write(request)
            await recorder.ended
        finally:
            transport.abort()

    def read(self, pieces: Sequence[Piece]) -> StreamedAnswer:
        """See `StreamingClient`."""
        connection, _ = self._request(b"")
        answer_id, moments_s, is_done = "", list[float](), False
        for moment_s, data in _events(_body(connection, pieces)):
            if data == b"[DONE]":
                is_done = True
                continue
            event = json.loads(data)
            if "error" in event:
                raise GptossError(event["error"]["message"])
            answer_id = event["id"]
            for choice in event["choices"]:
                moments_s += [moment_s] * len(choice["delta"].get("content") or "")
        if not is_done:
            raise GptossError("the server broke off a stream over HTTP")
        return StreamedAnswer(answer_id, tuple(moments_s))

    def _request(self, body: bytes) -> tuple[h11.Connection, bytes]:
        """Return a connection that has sent a request, and the bytes of it."""
        connection = h11.Connection(h11.CLIENT)
        headers = [
            ("host", f"{self._host}:{self._port}"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events: list[h11.Event] = [
            h11.Request(method="POST", target="/v1/chat/completions", headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        return connection, b"".join(connection.send(event) or b"" for event in events)


class _Recorder(asyncio.Protocol):
    """Keeps what is read from a connection until the server closes it."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.monotonic(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(GptossError(f"the connection was lost: {error}"))


def _body(connection: h11.Connection, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the pieces of an answer's body; GptossError where it is a refusal."""
    for moment_s, data in pieces:
        connection.receive_data(data)
        while isinstance(event := connection.next_event(), h11.Response | h11.Data):
            if isinstance(event, h11.Data):
                yield moment_s, bytes(event.data)
            elif event.status_code != 200:
                whole = b"".join(each for _, each in pieces)
                raise GptossError(f"HTTP {event.status_code}: {whole.decode(errors='replace')}")


def _events(body: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the data of each server-sent event, with the moment at which it was complete."""
    rest = b""
    for moment_s, data in body:
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            yield moment_s, event.removeprefix(b"data: ")


class GrpcStreams:
    """Streams over gRPC, all of one channel."""

    protocol = "gRPC"

    def __init__(self, channel: grpc.aio.Channel) -> None:
        service = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
        self._stream_chat = channel.unary_stream(
            f"/{service}/StreamChat",
            request_serializer=chat_pb2.StreamChatRequest.SerializeToString,
            response_deserializer=bytes,
        )

    async def record(self, model: str, max_tokens: int, pieces: list[Piece]) -> None:
        """See `StreamingClient`."""
        request = chat_pb2.ChatRequest(
            model=model,
            messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=QUESTION)],
            sampling=common_pb2.SamplingParams(max_tokens=max_tokens),
        )
        call = self._stream_chat(chat_pb2.StreamChatRequest(chat=request))
        try:
            async for data in call:
                pieces.append((time.monotonic(), data))
        except grpc.aio.AioRpcError as error:
            raise GptossError(f"gRPC {error.code().name}: {error.details()}") from error
        finally:
            call.cancel()

    def read(self, pieces: Sequence[Piece]) -> StreamedAnswer:
        """See `StreamingClient`."""
        answer_id, moments_s = "", list[float]()
        for moment_s, data in pieces:
            message = chat_pb2.StreamChatResponse.FromString(data)
            answer_id = message.id
            moments_s += [moment_s] * len(message.choice.content)
        return StreamedAnswer(answer_id, tuple(moments_s))
