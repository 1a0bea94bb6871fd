"""The client of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from gptoss_ray.client.response_progress import ResponseProgress
from gptoss_ray.client.retry import Attempts, RetryPolicy
from gptoss_ray.client.stream_progress import PieceT, RequestT, StreamProgress
from gptoss_ray.client.stubs import Stubs
from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2,
    generation_pb2,
    models_pb2,
    responses_pb2,
    server_pb2,
    tokenize_pb2,
)


class AsyncClient:
    """Calls a server without blocking the event loop; made and used in one loop."""

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        retry: RetryPolicy | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connect to `host:port`, in plaintext unless credentials are given.

        Args:
            target: Where the server is.
            api_key: Sent with every call.
            credentials: Of a TLS channel: `grpc.ssl_channel_credentials(...)`.
            retry: When calls are tried again; `RetryPolicy(max_attempts=1)`: never.
            options: gRPC's channel options.
        """
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._stubs = Stubs(self._channel, api_key)
        self._retry = retry or RetryPolicy()

    async def __aenter__(self) -> AsyncClient:
        """Return the client; leaving the block closes it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close(grace=None)

    async def chat(
        self, request: chat_pb2.ChatRequest, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> chat_pb2.ChatResponse:
        """Return the whole answer to a conversation."""
        answer: chat_pb2.ChatResponse = await self._call(
            self._stubs.chat.Chat, request, timeout_s, request_id
        )
        return answer

    async def stream_chat(
        self,
        request: chat_pb2.ChatRequest | chat_pb2.StreamChatRequest,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[chat_pb2.StreamChatResponse, None]:
        """Yield the answer to a conversation as it is made."""
        if isinstance(request, chat_pb2.ChatRequest):
            request = chat_pb2.StreamChatRequest(chat=request)
        progress = StreamProgress[chat_pb2.StreamChatRequest, chat_pb2.StreamChatResponse](
            request, resumes=self._retry.resumes
        )
        async with aclosing(
            self._stream(self._stubs.chat.StreamChat, progress, timeout_s, request_id)
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def generate(
        self,
        request: generation_pb2.GenerateRequest,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> generation_pb2.GenerateResponse:
        """Return the whole continuation of a prompt."""
        method = self._stubs.generation.Generate
        answer: generation_pb2.GenerateResponse = await self._call(method, request, timeout_s, request_id)
        return answer

    async def stream_generate(
        self,
        request: generation_pb2.GenerateRequest | generation_pb2.StreamGenerateRequest,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[generation_pb2.StreamGenerateResponse, None]:
        """Yield the continuation of a prompt as it is made."""
        if isinstance(request, generation_pb2.GenerateRequest):
            request = generation_pb2.StreamGenerateRequest(generation=request)
        progress = StreamProgress[
            generation_pb2.StreamGenerateRequest, generation_pb2.StreamGenerateResponse
        ](request, resumes=self._retry.resumes)
        async with aclosing(
            self._stream(self._stubs.generation.StreamGenerate, progress, timeout_s, request_id)
        ) as pieces:
            async for piece in pieces:
                yield piece

    async def create_response(
        self,
        response: responses_pb2.NewResponse,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> responses_pb2.Response:
        """Return a response when it has ended; one in the background at once."""
        request = responses_pb2.CreateResponseRequest(response=response)
        method = self._stubs.responses.CreateResponse
        answer: responses_pb2.CreateResponseResponse = await self._call(
            method, request, timeout_s, request_id
        )
        return answer.response

    async def stream_response(
        self,
        response: responses_pb2.NewResponse,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[responses_pb2.ResponseEvent, None]:
        """Yield a response's events as it is made; one in the background is followed where that breaks."""
        progress = ResponseProgress(response, resumes=self._retry.resumes)
        async with aclosing(self._follow(progress, timeout_s, request_id)) as events:
            async for event in events:
                yield event

    async def follow_response(
        self, response_id: str, *, starting_after: int | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[responses_pb2.ResponseEvent, None]:
        """Yield a streamed background response's events, those behind a number or all, and go on live."""
        progress = ResponseProgress(None, resumes=self._retry.resumes)
        progress.follow(response_id, starting_after)
        async with aclosing(self._follow(progress, timeout_s, None)) as events:
            async for event in events:
                yield event

    async def get_response(
        self, response_id: str, *, timeout_s: float | None = None
    ) -> responses_pb2.Response:
        """Return a stored response as it is now."""
        request = responses_pb2.GetResponseRequest(id=response_id)
        answer: responses_pb2.GetResponseResponse = await self._call(
            self._stubs.responses.GetResponse, request, timeout_s
        )
        return answer.response

    async def cancel_response(
        self, response_id: str, *, timeout_s: float | None = None
    ) -> responses_pb2.Response:
        """Stop a background response; return it as it was then."""
        request = responses_pb2.CancelResponseRequest(id=response_id)
        answer: responses_pb2.CancelResponseResponse = await self._call(
            self._stubs.responses.CancelResponse, request, timeout_s
        )
        return answer.response

    async def delete_response(self, response_id: str, *, timeout_s: float | None = None) -> None:
        """Forget a stored response."""
        request = responses_pb2.DeleteResponseRequest(id=response_id)
        await self._call(self._stubs.responses.DeleteResponse, request, timeout_s)

    async def list_input_items(
        self, request: responses_pb2.ListInputItemsRequest, *, timeout_s: float | None = None
    ) -> responses_pb2.ListInputItemsResponse:
        """Return a page of a stored response's own input."""
        answer: responses_pb2.ListInputItemsResponse = await self._call(
            self._stubs.responses.ListInputItems, request, timeout_s
        )
        return answer

    async def tokenize(
        self, request: tokenize_pb2.TokenizeRequest, *, timeout_s: float | None = None
    ) -> tokenize_pb2.TokenizeResponse:
        """Return a prompt's tokens, as the model would read them."""
        answer: tokenize_pb2.TokenizeResponse = await self._call(
            self._stubs.tokenize.Tokenize, request, timeout_s
        )
        return answer

    async def detokenize(
        self, token_ids: Sequence[int], *, model: str = "", timeout_s: float | None = None
    ) -> str:
        """Return the text of tokens."""
        request = tokenize_pb2.DetokenizeRequest(model=model, token_ids=token_ids)
        answer: tokenize_pb2.DetokenizeResponse = await self._call(
            self._stubs.tokenize.Detokenize, request, timeout_s
        )
        return answer.text

    async def tokenizer_info(
        self, *, model: str = "", timeout_s: float | None = None
    ) -> tokenize_pb2.GetTokenizerInfoResponse:
        """Return the names of a model's control tokens."""
        request = tokenize_pb2.GetTokenizerInfoRequest(model=model)
        answer: tokenize_pb2.GetTokenizerInfoResponse = await self._call(
            self._stubs.tokenize.GetTokenizerInfo, request, timeout_s
        )
        return answer

    async def list_models(self, *, timeout_s: float | None = None) -> list[models_pb2.Model]:
        """Return the served models."""
        response = await self._call(self._stubs.models.ListModels, models_pb2.ListModelsRequest(), timeout_s)
        return list(response.models)

    async def get_model(self, name: str, *, timeout_s: float | None = None) -> models_pb2.Model:
        """Return a model by its name or alias."""
        request = models_pb2.GetModelRequest(name=name)
        answer: models_pb2.GetModelResponse = await self._call(
            self._stubs.models.GetModel, request, timeout_s
        )
        return answer.model

    async def server_info(self, *, timeout_s: float | None = None) -> server_pb2.GetServerInfoResponse:
        """Return the version of the server and the limits of requests."""
        answer: server_pb2.GetServerInfoResponse = await self._call(
            self._stubs.server.GetServerInfo, server_pb2.GetServerInfoRequest(), timeout_s
        )
        return answer

    async def abort(self, request_id: str, *, timeout_s: float | None = None) -> int:
        """End calls that were given this id, from anywhere; return how many sequences that were."""
        request = server_pb2.AbortRequestRequest(request_id=request_id)
        answer: server_pb2.AbortRequestResponse = await self._call(
            self._stubs.server.AbortRequest, request, timeout_s
        )
        return answer.num_aborted

    async def _call(
        self, method: Any, request: object, timeout_s: float | None, request_id: str | None = None
    ) -> Any:
        """Return a call's answer, tried as often as the policy allows."""
        attempts = Attempts(self._retry, timeout_s)
        metadata = self._stubs.metadata(request_id)
        while True:
            try:
                return await method(request, timeout=attempts.time_left_s(), metadata=metadata)
            except grpc.RpcError as error:
                delay_s = attempts.delay_s(error)
            await asyncio.sleep(delay_s)

    async def _stream(
        self,
        method: Any,
        progress: StreamProgress[RequestT, PieceT],
        timeout_s: float | None,
        request_id: str | None,
    ) -> AsyncGenerator[PieceT, None]:
        """Yield the pieces of a stream, which is resumed as often as the policy allows."""
        attempts = Attempts(self._retry, timeout_s)
        metadata = self._stubs.metadata(request_id)
        while True:
            call = method(progress.request(), timeout=attempts.time_left_s(), metadata=metadata)
            try:
                async for piece in call:
                    attempts.progressed()
                    for each in progress.take(piece):
                        yield each
                return
            except grpc.RpcError as error:
                if not progress.can_go_on:
                    raise
                delay_s = attempts.delay_s(error)
            finally:
                call.cancel()
            await asyncio.sleep(delay_s)

    async def _follow(
        self, progress: ResponseProgress, timeout_s: float | None, request_id: str | None
    ) -> AsyncGenerator[responses_pb2.ResponseEvent, None]:
        """Yield the events of a response, which is followed from another call where one breaks."""
        attempts = Attempts(self._retry, timeout_s)
        metadata = self._stubs.metadata(request_id)
        while True:
            method = getattr(self._stubs.responses, progress.method)
            call = method(progress.request(), timeout=attempts.time_left_s(), metadata=metadata)
            try:
                async for message in call:
                    attempts.progressed()
                    progress.take(message.event)
                    yield message.event
                return
            except grpc.RpcError as error:
                if not progress.can_go_on:
                    raise
                delay_s = attempts.delay_s(error)
            finally:
                call.cancel()
            await asyncio.sleep(delay_s)
