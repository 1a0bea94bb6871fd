"""The HTTP routes of the Responses API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.serving.http_body import parse_body
from gptoss_ray.serving.openapi import Query, Route
from gptoss_ray.serving.responses.api import PageRequest, ResponsesApi
from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.objects import DeletedResponse, InputItemList, ResponseObject
from gptoss_ray.serving.responses.request import ResponseRequest
from gptoss_ray.serving.sse import EventStreamResponse, NamedEvent, cancel_on_disconnect

_ORDERS: dict[str, Literal["asc", "desc"]] = {"asc": "asc", "desc": "desc"}
_PATH = "/v1/responses"
_ONE = f"{_PATH}/{{response_id}}"


class ResponseRoutes:
    """What answers each path."""

    def __init__(self, responses: ResponsesApi, limits: LimitsConfig) -> None:
        self._responses = responses
        self._limits = limits
        self.routes = (
            Route(("POST",), _PATH, self.create, ResponseObject, body=ResponseRequest, event=ResponseEvent),
            Route(
                ("GET",),
                _ONE,
                self.retrieve,
                ResponseObject,
                event=ResponseEvent,
                queries=(Query("stream", "boolean"), Query("starting_after", "integer")),
            ),
            Route(("DELETE",), _ONE, self.delete, DeletedResponse),
            Route(("POST",), f"{_ONE}/cancel", self.cancel, ResponseObject),
            Route(
                ("GET",),
                f"{_ONE}/input_items",
                self.input_items,
                InputItemList,
                queries=(
                    Query("limit", "integer"),
                    Query("order", "string"),
                    Query("after", "string"),
                    Query("before", "string"),
                ),
            ),
        )

    async def create(self, request: Request) -> Response:
        """Answer a conversation of items, as a whole or as events, or begin to in the background."""
        parsed = await parse_body(ResponseRequest, request, self._limits.max_body_bytes)
        tenant, request_id = request.state.tenant, request.state.request_id
        if parsed.stream:
            events = await self._responses.stream(parsed, tenant=tenant, request_id=request_id)
            return _events(request, events)
        work = self._responses.create(parsed, tenant=tenant, request_id=request_id)
        return JSONResponse(await cancel_on_disconnect(request.receive, work))

    async def retrieve(self, request: Request, response_id: str) -> Response:
        """Tell a stored response as it is now, or its events."""
        tenant = request.state.tenant
        if not _is_true(request, "stream"):
            return JSONResponse(await self._responses.retrieve(response_id, tenant=tenant))
        starting_after = _integer(request, "starting_after")
        events = await self._responses.resume(response_id, starting_after=starting_after, tenant=tenant)
        return _events(request, events)

    async def delete(self, request: Request, response_id: str) -> Response:
        """Forget a stored response."""
        return JSONResponse(await self._responses.delete(response_id, tenant=request.state.tenant))

    async def cancel(self, request: Request, response_id: str) -> Response:
        """Stop a background response."""
        return JSONResponse(await self._responses.cancel(response_id, tenant=request.state.tenant))

    async def input_items(self, request: Request, response_id: str) -> Response:
        """List the input of a stored response."""
        order = _ORDERS.get(request.query_params.get("order", "desc"))
        if order is None:
            raise InvalidRequestError("order must be 'asc' or 'desc'.", param="order")
        limit = _integer(request, "limit")
        page = PageRequest(
            limit=PageRequest.limit if limit is None else limit,
            order=order,
            after=request.query_params.get("after"),
            before=request.query_params.get("before"),
        )
        return JSONResponse(await self._responses.input_items(response_id, page, tenant=request.state.tenant))


def _events(request: Request, events: AsyncGenerator[ResponseEvent, None]) -> Response:
    """Send events by their names; the last one says that it is the last, so no `[DONE]` follows."""
    return EventStreamResponse(_named(events), request_id=request.state.request_id, last=b"")


async def _named(events: AsyncGenerator[ResponseEvent, None]) -> AsyncGenerator[NamedEvent, None]:
    async with aclosing(events):
        async for event in events:
            yield NamedEvent(event["type"], to_json(event))


def _is_true(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise InvalidRequestError(f"{name} must be true or false.", param=name)
    return value in ("true", "1")


def _integer(request: Request, name: str) -> int | None:
    value = request.query_params.get(name)
    if value is None:
        return None
    # A longer number is none that anybody counted to; to read it would take long.
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise InvalidRequestError(f"{name} must be a whole number of at least 0.", param=name)
    return int(value)
