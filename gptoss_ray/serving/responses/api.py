"""What both protocols ask of the Responses API; `ResponseService` answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from gptoss_ray.serving.responses.events import ResponseEvent
from gptoss_ray.serving.responses.objects import DeletedResponse, InputItemList, ResponseObject
from gptoss_ray.serving.responses.request import ResponseRequest


@dataclass(frozen=True)
class PageRequest:
    """Which of a response's input items to list.

    Attributes:
        limit: At most so many, 1 to 100.
        order: By their place in the input.
        after: Id of an item; those behind it, in this order.
        before: Id of an item; those before it, in this order.
    """

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


class ResponsesApi(Protocol):
    """All methods raise a GptossError that the one table of statuses knows.

    A response of another tenant is as unknown as none: NotFoundError. Where the store cannot be reached,
    all but `stream` and `create` of what needs it raise UnavailableError.
    """

    async def stream(
        self, request: ResponseRequest, *, tenant: str, request_id: str = ""
    ) -> AsyncGenerator[ResponseEvent, None]:
        """Start a response; its events are numbered from 0, the last of them a `ResponseEnd`.

        Reading the first event raises what the engine refuses; from then on every failure is an event.
        Closing the events aborts the response, unless it works in the background. `request_id` is what the
        caller may abort it by.

        Raises:
            GptossError: A field is wrong, or names something unknown; nothing has run.
        """
        ...

    async def create(self, request: ResponseRequest, *, tenant: str, request_id: str = "") -> ResponseObject:
        """Return a response when it is complete or incomplete; one in the background at once, queued.

        Raises:
            GptossError: As `stream`, or the response failed.
        """
        ...

    async def retrieve(self, response_id: str, *, tenant: str) -> ResponseObject:
        """Return a stored response as it is now."""
        ...

    async def resume(
        self, response_id: str, *, starting_after: int | None, tenant: str
    ) -> AsyncGenerator[ResponseEvent, None]:
        """Return the events of a streamed background response, those behind a number or all, and go on live.

        Raises:
            InvalidRequestError: The response was not created with both stream and background.
        """
        ...

    async def cancel(self, response_id: str, *, tenant: str) -> ResponseObject:
        """Stop a background response, wherever it runs; one that has ended stays as it is.

        Raises:
            InvalidRequestError: The response does not work in the background.
        """
        ...

    async def delete(self, response_id: str, *, tenant: str) -> DeletedResponse:
        """Forget a stored response; stop it where it still works."""
        ...

    async def input_items(self, response_id: str, page: PageRequest, *, tenant: str) -> InputItemList:
        """Return a page of a stored response's own input.

        Raises:
            InvalidRequestError: The page is wrong.
        """
        ...
