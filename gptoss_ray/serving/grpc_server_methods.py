"""The gRPC methods about the server itself: its version and health, and the end of requests."""

# ruff: noqa: N802 (methods bear the names of their RPCs)

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from importlib.metadata import version

from grpc_health.v1 import health_pb2

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import NotFoundError
from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2,
    generation_pb2,
    models_pb2,
    responses_pb2,
    server_pb2,
    tokenize_pb2,
)
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.grpc_rpc import Caller, streaming, unary
from gptoss_ray.serving.models import ModelCatalog
from gptoss_ray.tracing import Tracer

HEALTH_POLL_S = 1.0
SERVICES = tuple(
    service
    for file in (chat_pb2, generation_pb2, models_pb2, responses_pb2, server_pb2, tokenize_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""Our services; Health, which is gRPC's own, tells of each."""

_NAMES = ("", *(service.full_name for service in SERVICES))
_Status = health_pb2.HealthCheckResponse


class ServerMethods(ABC):
    """`ServerService` and `grpc.health.v1.Health`."""

    catalog: ModelCatalog
    api_keys: ApiKeys
    limits: LimitsConfig
    tracer: Tracer | None

    @abstractmethod
    async def abort(self, request_id: str, *, tenant: str) -> int:
        """End a tenant's requests of an id; return how many sequences that were."""

    @unary
    async def GetServerInfo(
        self, _request: server_pb2.GetServerInfoRequest, _caller: Caller
    ) -> server_pb2.GetServerInfoResponse:
        """Tell the version and the limits."""
        limits = server_pb2.Limits(
            max_body_bytes=self.limits.max_body_bytes,
            max_messages=self.limits.max_messages,
            max_tools=self.limits.max_tools,
            max_stop_strings=self.limits.max_stop_strings,
            max_choices=self.limits.max_choices,
        )
        return server_pb2.GetServerInfoResponse(version=version("gptoss-ray"), limits=limits)

    @unary
    async def AbortRequest(
        self, request: server_pb2.AbortRequestRequest, caller: Caller
    ) -> server_pb2.AbortRequestResponse:
        """End the caller's requests of an id."""
        num_aborted = await self.abort(request.request_id, tenant=caller.tenant)
        return server_pb2.AbortRequestResponse(num_aborted=num_aborted)

    @unary
    async def Check(
        self, request: health_pb2.HealthCheckRequest, _caller: Caller
    ) -> health_pb2.HealthCheckResponse:
        """Tell whether a service can serve now (grpc.health.v1)."""
        if request.service not in _NAMES:
            raise NotFoundError(f"service {request.service!r} is unknown; leave it empty for the server.")
        return _Status(status=await self._serving_status())

    @unary
    async def List(
        self, _request: health_pb2.HealthListRequest, _caller: Caller
    ) -> health_pb2.HealthListResponse:
        """Tell of every service whether it can serve now (grpc.health.v1)."""
        status = _Status(status=await self._serving_status())
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(_NAMES, status))

    @streaming
    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _caller: Caller
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Tell whether a service can serve, now and at each change (grpc.health.v1)."""
        last = None
        while True:
            known = request.service in _NAMES
            status = await self._serving_status() if known else _Status.SERVICE_UNKNOWN
            if status != last:
                yield _Status(status=status)
            last = status
            await asyncio.sleep(HEALTH_POLL_S)

    async def _serving_status(self) -> int:
        status: int = _Status.SERVING if await self.catalog.any_ready() else _Status.NOT_SERVING
        return status
