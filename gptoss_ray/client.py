"""A typed gRPC client, sync and async.

::

    with Client("127.0.0.1:9000") as client:
        request = chat_request("gpt-oss-demo", "What is 17 + 25?")
        print(client.chat(request).choices[0].content)
        for piece in client.stream_chat(request):
            print(piece.choice.content, end="")

Requests and answers are the messages of `protos/gptoss/v1`. A call that was refused or broke raises
`grpc.RpcError`, whose `code()` and `details()` tell why. `timeout_s` is a call's deadline: the server
stops there too. Closing a stream's generator cancels the call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

import grpc

from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2,
    chat_pb2_grpc,
    common_pb2,
    generation_pb2,
    generation_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)


def chat_request(
    model: str,
    messages: str | Sequence[chat_pb2.Message],
    *,
    tools: Sequence[chat_pb2.Tool] = (),
    tool_choice: chat_pb2.ToolChoice = chat_pb2.TOOL_CHOICE_UNSPECIFIED,
    allowed_tools: Sequence[str] = (),
    reasoning_effort: chat_pb2.ReasoningEffort = chat_pb2.REASONING_EFFORT_UNSPECIFIED,
    response_format: common_pb2.ResponseFormat | None = None,
    sampling: common_pb2.SamplingParams | None = None,
) -> chat_pb2.ChatRequest:
    """Return a request to answer a conversation; a string is a conversation of one user message."""
    if isinstance(messages, str):
        messages = [chat_pb2.Message(role=chat_pb2.ROLE_USER, content=messages)]
    return chat_pb2.ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        allowed_tools=allowed_tools,
        reasoning_effort=reasoning_effort,
        response_format=response_format,
        sampling=sampling,
    )


def generate_request(
    model: str,
    prompt: str | Sequence[int],
    *,
    response_format: common_pb2.ResponseFormat | None = None,
    sampling: common_pb2.SamplingParams | None = None,
) -> generation_pb2.GenerateRequest:
    """Return a request to continue a prompt of text or of token ids."""
    request = generation_pb2.GenerateRequest(model=model, response_format=response_format, sampling=sampling)
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.token_ids.ids.extend(prompt)
    return request


class _Stubs:
    """The services over one channel; generated stubs are untyped, the clients' methods tell the types."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel, api_key: str | None) -> None:
        self.chat: Any = chat_pb2_grpc.ChatServiceStub(channel)
        self.generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self.models: Any = models_pb2_grpc.ModelServiceStub(channel)
        self.metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()


class Client:
    """Calls a server and waits for it."""

    def __init__(
        self, target: str, *, api_key: str | None = None, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        """Connect to `host:port`, in plaintext unless credentials are given."""
        self._channel = (
            grpc.secure_channel(target, credentials) if credentials else grpc.insecure_channel(target)
        )
        self._stubs = _Stubs(self._channel, api_key)

    def __enter__(self) -> Client:
        """Return the client; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def chat(self, request: chat_pb2.ChatRequest, *, timeout_s: float | None = None) -> chat_pb2.ChatResponse:
        """Return the whole answer to a conversation."""
        answer: chat_pb2.ChatResponse = self._stubs.chat.Chat(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        return answer

    def stream_chat(
        self, request: chat_pb2.ChatRequest, *, timeout_s: float | None = None
    ) -> Generator[chat_pb2.StreamChatResponse, None, None]:
        """Yield the answer to a conversation as it is made."""
        call = self._stubs.chat.StreamChat(request, timeout=timeout_s, metadata=self._stubs.metadata)
        try:
            yield from call
        finally:
            call.cancel()

    def generate(
        self, request: generation_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> generation_pb2.GenerateResponse:
        """Return the whole continuation of a prompt."""
        answer: generation_pb2.GenerateResponse = self._stubs.generation.Generate(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        return answer

    def stream_generate(
        self, request: generation_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> Generator[generation_pb2.StreamGenerateResponse, None, None]:
        """Yield the continuation of a prompt as it is made."""
        call = self._stubs.generation.StreamGenerate(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        try:
            yield from call
        finally:
            call.cancel()

    def list_models(self, *, timeout_s: float | None = None) -> list[models_pb2.Model]:
        """Return the served models."""
        request = models_pb2.ListModelsRequest()
        response = self._stubs.models.ListModels(request, timeout=timeout_s, metadata=self._stubs.metadata)
        return list(response.models)


class AsyncClient:
    """Calls a server without blocking the event loop; made and used in one loop."""

    def __init__(
        self, target: str, *, api_key: str | None = None, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        """Connect to `host:port`, in plaintext unless credentials are given."""
        self._channel = (
            grpc.aio.secure_channel(target, credentials) if credentials else grpc.aio.insecure_channel(target)
        )
        self._stubs = _Stubs(self._channel, api_key)

    async def __aenter__(self) -> AsyncClient:
        """Return the client; leaving the block closes it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close(grace=None)

    async def chat(
        self, request: chat_pb2.ChatRequest, *, timeout_s: float | None = None
    ) -> chat_pb2.ChatResponse:
        """Return the whole answer to a conversation."""
        answer: chat_pb2.ChatResponse = await self._stubs.chat.Chat(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        return answer

    async def stream_chat(
        self, request: chat_pb2.ChatRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[chat_pb2.StreamChatResponse, None]:
        """Yield the answer to a conversation as it is made."""
        call = self._stubs.chat.StreamChat(request, timeout=timeout_s, metadata=self._stubs.metadata)
        try:
            async for piece in call:
                yield piece
        finally:
            call.cancel()

    async def generate(
        self, request: generation_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> generation_pb2.GenerateResponse:
        """Return the whole continuation of a prompt."""
        answer: generation_pb2.GenerateResponse = await self._stubs.generation.Generate(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        return answer

    async def stream_generate(
        self, request: generation_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> AsyncGenerator[generation_pb2.StreamGenerateResponse, None]:
        """Yield the continuation of a prompt as it is made."""
        call = self._stubs.generation.StreamGenerate(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        try:
            async for piece in call:
                yield piece
        finally:
            call.cancel()

    async def list_models(self, *, timeout_s: float | None = None) -> list[models_pb2.Model]:
        """Return the served models."""
        request = models_pb2.ListModelsRequest()
        response = await self._stubs.models.ListModels(
            request, timeout=timeout_s, metadata=self._stubs.metadata
        )
        return list(response.models)
