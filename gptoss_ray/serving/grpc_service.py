"""The gRPC methods. Serve finds a method by its RPC name alone, so all services share one class."""

# ruff: noqa: N802 (methods bear the names of their RPCs)

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import NotFoundError
from gptoss_ray.protos.gptoss.v1 import chat_pb2, generation_pb2, models_pb2
from gptoss_ray.serving.answer import Answer
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.chat import ChatDelta, fold_chat
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import fold_completion
from gptoss_ray.serving.grpc_messages import (
    chat_request,
    chat_response,
    completion_request,
    generate_response,
    stream_chat_response,
    stream_generate_response,
)
from gptoss_ray.serving.grpc_rpc import streaming, unary
from gptoss_ray.serving.limits import parse_aside
from gptoss_ray.serving.models import ModelCatalog
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest
from gptoss_ray.serving.responses.api import ResponsesApi

GRPC_SERVICER_FUNCTIONS = (
    "gptoss_ray.protos.gptoss.v1.chat_pb2_grpc.add_ChatServiceServicer_to_server",
    "gptoss_ray.protos.gptoss.v1.generation_pb2_grpc.add_GenerationServiceServicer_to_server",
    "gptoss_ray.protos.gptoss.v1.models_pb2_grpc.add_ModelServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)
"""What Serve's proxy registers; it routes each RPC to the ingress method of the same name."""

HEALTH_POLL_S = 1.0
_SERVICES = (
    "",
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name,
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
_Status = health_pb2.HealthCheckResponse


MessageT = TypeVar("MessageT", bound=Message)
ParsedT = TypeVar("ParsedT")


async def _parsed(message: MessageT, parse: Callable[[MessageT], ParsedT]) -> ParsedT:
    return await parse_aside(message.ByteSize(), partial(parse, message))


class GrpcMethods(ABC):
    """The RPCs of an ingress."""

    catalog: ModelCatalog
    api_keys: ApiKeys
    limits: LimitsConfig
    responses: ResponsesApi

    @abstractmethod
    async def chat(self, request: ChatCompletionRequest, *, tenant: str) -> Answer[ChatDelta]:
        """Start a chat's answer."""

    @abstractmethod
    async def complete(self, request: CompletionRequest, *, tenant: str) -> Answer[CompletionDelta]:
        """Start a completion's answer."""

    @unary
    async def Chat(self, request: chat_pb2.ChatRequest, tenant: str) -> chat_pb2.ChatResponse:
        """Answer a conversation as a whole."""
        answer = await self.chat(await _parsed(request, chat_request), tenant=tenant)
        async with aclosing(answer.events) as events:
            return chat_response(answer, *await fold_chat(events))

    @streaming
    async def StreamChat(
        self, request: chat_pb2.ChatRequest, tenant: str
    ) -> AsyncGenerator[chat_pb2.StreamChatResponse, None]:
        """Answer a conversation as tokens are made."""
        answer = await self.chat(await _parsed(request, chat_request), tenant=tenant)
        async with aclosing(answer.events) as events:
            async for event in events:
                yield stream_chat_response(answer, event)

    @unary
    async def Generate(
        self, request: generation_pb2.GenerateRequest, tenant: str
    ) -> generation_pb2.GenerateResponse:
        """Continue a prompt and answer as a whole."""
        answer = await self.complete(await _parsed(request, completion_request), tenant=tenant)
        async with aclosing(answer.events) as events:
            return generate_response(answer, *await fold_completion(events))

    @streaming
    async def StreamGenerate(
        self, request: generation_pb2.GenerateRequest, tenant: str
    ) -> AsyncGenerator[generation_pb2.StreamGenerateResponse, None]:
        """Continue a prompt and answer as tokens are made."""
        parsed = await _parsed(request, partial(completion_request, streams=True))
        answer = await self.complete(parsed, tenant=tenant)
        async with aclosing(answer.events) as events:
            async for event in events:
                yield stream_generate_response(answer, event)

    @unary
    async def ListModels(
        self, _request: models_pb2.ListModelsRequest, _tenant: str
    ) -> models_pb2.ListModelsResponse:
        """Tell the served models."""
        return models_pb2.ListModelsResponse(
            models=[
                models_pb2.Model(
                    name=model.name,
                    aliases=model.aliases,
                    max_context=model.max_context,
                    ready=await model.token_source.ready(),
                    created=model.created,
                )
                for model in self.catalog
            ]
        )

    @unary
    async def Check(
        self, request: health_pb2.HealthCheckRequest, _tenant: str
    ) -> health_pb2.HealthCheckResponse:
        """Tell whether a service can serve now (grpc.health.v1)."""
        if request.service not in _SERVICES:
            raise NotFoundError(f"service {request.service!r} is unknown; leave it empty for the server.")
        return _Status(status=await self._serving_status())

    @unary
    async def List(
        self, _request: health_pb2.HealthListRequest, _tenant: str
    ) -> health_pb2.HealthListResponse:
        """Tell of every service whether it can serve now (grpc.health.v1)."""
        status = _Status(status=await self._serving_status())
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(_SERVICES, status))

    @streaming
    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _tenant: str
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Tell whether a service can serve, now and at each change (grpc.health.v1)."""
        last = None
        while True:
            known = request.service in _SERVICES
            status = await self._serving_status() if known else _Status.SERVICE_UNKNOWN
            if status != last:
                yield _Status(status=status)
            last = status
            await asyncio.sleep(HEALTH_POLL_S)

    async def _serving_status(self) -> int:
        status: int = _Status.SERVING if await self.catalog.any_ready() else _Status.NOT_SERVING
        return status
