"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
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


class Client:
    """Calls a server and waits for it; may be used from several threads."""

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
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
        )
        self._stubs = Stubs(self._channel, api_key)
        self._retry = retry or RetryPolicy()

    def __enter__(self) -> Client:
        """Return the client; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def chat(
        self, request: chat_pb2.ChatRequest, *, timeout_s: float | None = None, request_id: str | None = None
    ) -> chat_pb2.ChatResponse:
        """Return the whole answer to a conversation."""
        answer: chat_pb2.ChatResponse = self._call(self._stubs.chat.Chat, request, timeout_s, request_id)
        return answer

    def stream_chat(
        self,
        request: chat_pb2.ChatRequest | chat_pb2.StreamChatRequest,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Generator[chat_pb2.StreamChatResponse, None, None]:
        """Yield the answer to a conversation as it is made."""
        if isinstance(request, chat_pb2.ChatRequest):
            request = chat_pb2.StreamChatRequest(chat=request)
        progress = StreamProgress[chat_pb2.StreamChatRequest, chat_pb2.StreamChatResponse](
            request, resumes=self._retry.resumes
        )
        yield from self._stream(self._stubs.chat.StreamChat, progress, timeout_s, request_id)

    def generate(
        self,
        request: generation_pb2.GenerateRequest,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> generation_pb2.GenerateResponse:
        """Return the whole continuation of a prompt."""
        method = self._stubs.generation.Generate
        answer: generation_pb2.GenerateResponse = self._call(method, request, timeout_s, request_id)
        return answer

    def stream_generate(
        self,
        request: generation_pb2.GenerateRequest | generation_pb2.StreamGenerateRequest,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Generator[generation_pb2.StreamGenerateResponse, None, None]:
        """Yield the continuation of a prompt as it is made."""
        if isinstance(request, generation_pb2.GenerateRequest):
            request = generation_pb2.StreamGenerateRequest(generation=request)
        progress = StreamProgress[
            generation_pb2.StreamGenerateRequest, generation_pb2.StreamGenerateResponse
        ](request, resumes=self._retry.resumes)
        yield from self._stream(self._stubs.generation.StreamGenerate, progress, timeout_s, request_id)

    def create_response(
        self,
        response: responses_pb2.NewResponse,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> responses_pb2.Response:
        """Return a response when it has ended; one in the background at once."""
        request = responses_pb2.CreateResponseRequest(response=response)
        method = self._stubs.responses.CreateResponse
        answer: responses_pb2.CreateResponseResponse = self._call(method, request, timeout_s, request_id)
        return answer.response

    def stream_response(
        self,
        response: responses_pb2.NewResponse,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> Generator[responses_pb2.ResponseEvent, None, None]:
        """Yield a response's events as it is made; one in the background is followed where that breaks."""
        progress = ResponseProgress(response, resumes=self._retry.resumes)
        yield from self._follow(progress, timeout_s, request_id)

    def follow_response(
        self, response_id: str, *, starting_after: int | None = None, timeout_s: float | None = None
    ) -> Generator[responses_pb2.ResponseEvent, None, None]:
        """Yield a streamed background response's events, those behind a number or all, and go on live."""
        progress = ResponseProgress(None, resumes=self._retry.resumes)
        progress.follow(response_id, starting_after)
        yield from self._follow(progress, timeout_s, None)

    def get_response(self, response_id: str, *, timeout_s: float | None = None) -> responses_pb2.Response:
        """Return a stored response as it is now."""
        request = responses_pb2.GetResponseRequest(id=response_id)
        answer: responses_pb2.GetResponseResponse = self._call(
            self._stubs.responses.GetResponse, request, timeout_s
        )
        return answer.response

    def cancel_response(self, response_id: str, *, timeout_s: float | None = None) -> responses_pb2.Response:
        """Stop a background response; return it as it was then."""
        request = responses_pb2.CancelResponseRequest(id=response_id)
        answer: responses_pb2.CancelResponseResponse = self._call(
            self._stubs.responses.CancelResponse, request, timeout_s
        )
        return answer.response

    def delete_response(self, response_id: str, *, timeout_s: float | None = None) -> None:
        """Forget a stored response."""
        request = responses_pb2.DeleteResponseRequest(id=response_id)
        self._call(self._stubs.responses.DeleteResponse, request, timeout_s)

    def list_input_items(
        self, request: responses_pb2.ListInputItemsRequest, *, timeout_s: float | None = None
    ) -> responses_pb2.ListInputItemsResponse:
        """Return a page of a stored response's own input."""
        answer: responses_pb2.ListInputItemsResponse = self._call(
            self._stubs.responses.ListInputItems, request, timeout_s
        )
        return answer

    def tokenize(
        self, request: tokenize_pb2.TokenizeRequest, *, timeout_s: float | None = None
    ) -> tokenize_pb2.TokenizeResponse:
        """Return a prompt's tokens, as the model would read them."""
        answer: tokenize_pb2.TokenizeResponse = self._call(self._stubs.tokenize.Tokenize, request, timeout_s)
        return answer

    def detokenize(self, token_ids: Sequence[int], *, model: str = "", timeout_s: float | None = None) -> str:
        """Return the text of tokens."""
        request = tokenize_pb2.DetokenizeRequest(model=model, token_ids=token_ids)
        answer: tokenize_pb2.DetokenizeResponse = self._call(
            self._stubs.tokenize.Detokenize, request, timeout_s
        )
        return answer.text

    def tokenizer_info(
        self, *, model: str = "", timeout_s: float | None = None
    ) -> tokenize_pb2.GetTokenizerInfoResponse:
        """Return the names of a model's control tokens."""
        request = tokenize_pb2.GetTokenizerInfoRequest(model=model)
        answer: tokenize_pb2.GetTokenizerInfoResponse = self._call(
            self._stubs.tokenize.GetTokenizerInfo, request, timeout_s
        )
        return answer

    def list_models(self, *, timeout_s: float | None = None) -> list[models_pb2.Model]:
        """Return the served models."""
        response = self._call(self._stubs.models.ListModels, models_pb2.ListModelsRequest(), timeout_s)
        return list(response.models)

    def get_model(self, name: str, *, timeout_s: float | None = None) -> models_pb2.Model:
        """Return a model by its name or alias."""
        request = models_pb2.GetModelRequest(name=name)
        answer: models_pb2.GetModelResponse = self._call(self._stubs.models.GetModel, request, timeout_s)
        return answer.model

    def server_info(self, *, timeout_s: float | None = None) -> server_pb2.GetServerInfoResponse:
        """Return the version of the server and the limits of requests."""
        answer: server_pb2.GetServerInfoResponse = self._call(
            self._stubs.server.GetServerInfo, server_pb2.GetServerInfoRequest(), timeout_s
        )
        return answer

    def abort(self, request_id: str, *, timeout_s: float | None = None) -> int:
        """End calls that were given this id, from anywhere; return how many sequences that were."""
        request = server_pb2.AbortRequestRequest(request_id=request_id)
        answer: server_pb2.AbortRequestResponse = self._call(
            self._stubs.server.AbortRequest, request, timeout_s
        )
        return answer.num_aborted

    def _call(
        self, method: Any, request: object, timeout_s: float | None, request_id: str | None = None
    ) -> Any:
        """Return a call's answer, tried as often as the policy allows."""
        attempts = Attempts(self._retry, timeout_s)
        metadata = self._stubs.metadata(request_id)
        while True:
            try:
                return method(request, timeout=attempts.time_left_s(), metadata=metadata)
            except grpc.RpcError as error:
                delay_s = attempts.delay_s(error)
            time.sleep(delay_s)

    def _stream(
        self,
        method: Any,
        progress: StreamProgress[RequestT, PieceT],
        timeout_s: float | None,
        request_id: str | None,
    ) -> Iterator[PieceT]:
        """Yield the pieces of a stream, which is resumed as often as the policy allows."""
        attempts = Attempts(self._retry, timeout_s)
        metadata = self._stubs.metadata(request_id)
        while True:
            call = method(progress.request(), timeout=attempts.time_left_s(), metadata=metadata)
            try:
                for piece in call:
                    attempts.progressed()
                    yield from progress.take(piece)
                return
            except grpc.RpcError as error:
                if not progress.can_go_on:
                    raise
                delay_s = attempts.delay_s(error)
            finally:
                call.cancel()
            time.sleep(delay_s)

    def _follow(
        self, progress: ResponseProgress, timeout_s: float | None, request_id: str | None
    ) -> Iterator[responses_pb2.ResponseEvent]:
        """Yield the events of a response, which is followed from another call where one breaks."""
        attempts = Attempts(self._retry, timeout_s)
        metadata = self._stubs.metadata(request_id)
        while True:
            method = getattr(self._stubs.responses, progress.method)
            call = method(progress.request(), timeout=attempts.time_left_s(), metadata=metadata)
            try:
                for message in call:
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
            time.sleep(delay_s)
