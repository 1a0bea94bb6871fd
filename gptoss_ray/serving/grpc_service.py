"""The gRPC methods. Serve finds a method by its RPC name alone, so all services share one class."""

# ruff: noqa: N802 (methods bear the names of their RPCs)

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gptoss_ray.protos.gptoss.v1 import chat_pb2, generation_pb2
from gptoss_ray.serving.answer import Answer
from gptoss_ray.serving.chat import fold_chat
from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import fold_completion
from gptoss_ray.serving.grpc_answers import ChatPieces, GenerationPieces, chat_response, generate_response
from gptoss_ray.serving.grpc_catalog import CatalogMethods
from gptoss_ray.serving.grpc_requests import (
    chat_request,
    completion_request,
    parsed,
    stream_chat_request,
    stream_completion_request,
)
from gptoss_ray.serving.grpc_responses import ResponseMethods
from gptoss_ray.serving.grpc_rpc import Caller, streaming, unary
from gptoss_ray.serving.grpc_server_methods import SERVICES, ServerMethods
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest

GRPC_SERVICER_FUNCTIONS = (
    *(
        f"gptoss_ray.protos.{service.file.name.removesuffix('.proto').replace('/', '.')}_pb2_grpc."
        f"add_{service.name}Servicer_to_server"
        for service in SERVICES
    ),
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)
"""What Serve's proxy registers; it routes each RPC to the ingress method of the same name."""


class GrpcMethods(CatalogMethods, ServerMethods, ResponseMethods):
    """The RPCs of an ingress: those of `ChatService` and `GenerationService`, and all others."""

    @abstractmethod
    async def chat(
        self, request: ChatCompletionRequest, *, tenant: str, request_id: str = ""
    ) -> Answer[ChatDelta]:
        """Start a chat's answer."""

    @abstractmethod
    async def complete(
        self, request: CompletionRequest, *, tenant: str, request_id: str = ""
    ) -> Answer[CompletionDelta]:
        """Start a completion's answer."""

    @unary
    async def Chat(self, request: chat_pb2.ChatRequest, caller: Caller) -> chat_pb2.ChatResponse:
        """Answer a conversation as a whole."""
        answer = await self._chat(await parsed(request, chat_request), caller)
        async with aclosing(answer.events) as events:
            return chat_response(answer, *await fold_chat(events))

    @streaming
    async def StreamChat(
        self, request: chat_pb2.StreamChatRequest, caller: Caller
    ) -> AsyncGenerator[chat_pb2.StreamChatResponse, None]:
        """Answer a conversation as tokens are made."""
        answer = await self._chat(await parsed(request, stream_chat_request), caller)
        piece = ChatPieces(answer, tells_usage=request.continuous_usage)
        async with aclosing(answer.events) as events:
            async for event in events:
                yield piece(event)

    @unary
    async def Generate(
        self, request: generation_pb2.GenerateRequest, caller: Caller
    ) -> generation_pb2.GenerateResponse:
        """Continue a prompt and answer as a whole."""
        answer = await self._complete(await parsed(request, completion_request), caller)
        async with aclosing(answer.events) as events:
            return generate_response(answer, *await fold_completion(events))

    @streaming
    async def StreamGenerate(
        self, request: generation_pb2.StreamGenerateRequest, caller: Caller
    ) -> AsyncGenerator[generation_pb2.StreamGenerateResponse, None]:
        """Continue a prompt and answer as tokens are made."""
        answer = await self._complete(await parsed(request, stream_completion_request), caller)
        piece = GenerationPieces(answer, tells_usage=request.continuous_usage)
        async with aclosing(answer.events) as events:
            async for event in events:
                yield piece(event)

    async def _chat(self, request: ChatCompletionRequest, caller: Caller) -> Answer[ChatDelta]:
        return await self.chat(request, tenant=caller.tenant, request_id=caller.request_id)

    async def _complete(self, request: CompletionRequest, caller: Caller) -> Answer[CompletionDelta]:
        return await self.complete(request, tenant=caller.tenant, request_id=caller.request_id)
