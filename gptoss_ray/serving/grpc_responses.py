"""The gRPC methods of the Responses API."""

# ruff: noqa: N802 (methods bear the names of their RPCs)

from __future__ import annotations

from abc import ABC
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gptoss_ray.config import LimitsConfig
from gptoss_ray.protos.gptoss.v1 import responses_pb2
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.grpc_requests import parsed
from gptoss_ray.serving.grpc_response_answers import event_message, item_message, response_message
from gptoss_ray.serving.grpc_response_requests import (
    create_response_request,
    page_request,
    stream_response_request,
)
from gptoss_ray.serving.grpc_rpc import Caller, streaming, unary
from gptoss_ray.serving.responses.api import ResponsesApi
from gptoss_ray.tracing import Tracer


class ResponseMethods(ABC):
    """`ResponsesService`."""

    api_keys: ApiKeys
    limits: LimitsConfig
    tracer: Tracer | None
    responses: ResponsesApi

    @unary
    async def CreateResponse(
        self, request: responses_pb2.CreateResponseRequest, caller: Caller
    ) -> responses_pb2.CreateResponseResponse:
        """Answer as a whole, or begin to in the background."""
        wanted = await parsed(request, create_response_request)
        response = await self.responses.create(wanted, tenant=caller.tenant, request_id=caller.request_id)
        return responses_pb2.CreateResponseResponse(response=response_message(response))

    @streaming
    async def StreamResponse(
        self, request: responses_pb2.StreamResponseRequest, caller: Caller
    ) -> AsyncGenerator[responses_pb2.StreamResponseResponse, None]:
        """Answer as tokens are made."""
        wanted = await parsed(request, stream_response_request)
        events = await self.responses.stream(wanted, tenant=caller.tenant, request_id=caller.request_id)
        async with aclosing(events):
            async for event in events:
                yield responses_pb2.StreamResponseResponse(event=event_message(event))

    @unary
    async def GetResponse(
        self, request: responses_pb2.GetResponseRequest, caller: Caller
    ) -> responses_pb2.GetResponseResponse:
        """Tell a stored response as it is now."""
        response = await self.responses.retrieve(request.id, tenant=caller.tenant)
        return responses_pb2.GetResponseResponse(response=response_message(response))

    @streaming
    async def FollowResponse(
        self, request: responses_pb2.FollowResponseRequest, caller: Caller
    ) -> AsyncGenerator[responses_pb2.FollowResponseResponse, None]:
        """Tell the events of a streamed background response."""
        after = request.starting_after if request.HasField("starting_after") else None
        events = await self.responses.resume(request.id, starting_after=after, tenant=caller.tenant)
        async with aclosing(events):
            async for event in events:
                yield responses_pb2.FollowResponseResponse(event=event_message(event))

    @unary
    async def CancelResponse(
        self, request: responses_pb2.CancelResponseRequest, caller: Caller
    ) -> responses_pb2.CancelResponseResponse:
        """Stop a background response."""
        response = await self.responses.cancel(request.id, tenant=caller.tenant)
        return responses_pb2.CancelResponseResponse(response=response_message(response))

    @unary
    async def DeleteResponse(
        self, request: responses_pb2.DeleteResponseRequest, caller: Caller
    ) -> responses_pb2.DeleteResponseResponse:
        """Forget a stored response."""
        await self.responses.delete(request.id, tenant=caller.tenant)
        return responses_pb2.DeleteResponseResponse()

    @unary
    async def ListInputItems(
        self, request: responses_pb2.ListInputItemsRequest, caller: Caller
    ) -> responses_pb2.ListInputItemsResponse:
        """List the input of a stored response."""
        page = await self.responses.input_items(request.id, page_request(request), tenant=caller.tenant)
        return responses_pb2.ListInputItemsResponse(
            items=map(item_message, page["data"]), has_more=page["has_more"]
        )
