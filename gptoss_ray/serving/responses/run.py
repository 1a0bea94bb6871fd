"""One response under way: the chat that answers it, read as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from pydantic_core import to_json

from gptoss_ray.serving.answer import Answer, Usage
from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.responses.events import END_TYPES, ResponseEnd, ResponseEvent
from gptoss_ray.serving.responses.objects import ResponseObject
from gptoss_ray.serving.responses.response_writer import ResponseWriter
from gptoss_ray.serving.responses.stored_response import (
    Progress,
    StoredItem,
    StoredResponse,
    stored_items,
    without_output,
)
from gptoss_ray.serving.status_codes import as_client_error

Finish = Callable[[ResponseEnd], Awaitable[ResponseEnd]]


@dataclass(frozen=True)
class ResponseRun:
    """A response that has been checked and begins when its events are read.

    Attributes:
        tenant: Whose it is.
        answer: The chat; its id is the response's.
        writer: Makes the events.
        input: The request's own items.
        now: Returns Unix time in seconds.
    """

    tenant: str
    answer: Answer[ChatDelta]
    writer: ResponseWriter
    input: tuple[StoredItem, ...]
    now: Callable[[], int]

    @property
    def id(self) -> str:
        """Of the response."""
        return self.answer.id

    @property
    def response(self) -> ResponseObject:
        """Its state now, without its output."""
        return self.writer.response

    async def events(self) -> AsyncGenerator[ResponseEvent, None]:
        """Yield all events but the last.

        In the background the first ones come at once, else with the first token, so that a response which the
        engine refuses has none. Closing this aborts what still runs.

        Raises:
            GptossError: The response was refused, failed, or was lost.
        """
        async with aclosing(self.answer.events) as deltas:
            if self.response["background"]:
                for event in self.writer.create():
                    yield event
            has_begun = False
            async for delta in deltas:
                if not has_begun:
                    for event in self._begin():
                        yield event
                has_begun = True
                for event in self._feed(delta):
                    yield event

    async def events_to_end(self, finish: Finish | None = None) -> AsyncGenerator[ResponseEvent, None]:
        """Yield all events; a failure behind the first one is the last.

        Args:
            finish: Is given the last event, and returns it, before it is told.

        Raises:
            GptossError: The response was refused.
        """
        has_begun = False
        try:
            async with aclosing(self.events()) as events:
                async for event in events:
                    has_begun = True
                    yield event
        except Exception as error:
            if not has_begun:
                raise
            end = self.writer.fail(as_client_error(error, self.id), self.answer.usage)
        else:
            end = self.end()
        yield end if finish is None else await finish(end)

    def end(self) -> ResponseEnd:
        """Return the last event."""
        return self.writer.end(self.answer.usage, now=self.now())

    def stored(self, *, owner: str | None = None, keeps_events: bool = False) -> StoredResponse:
        """Return the response as it is now for the store."""
        return StoredResponse(
            self.tenant,
            self.id,
            without_output(self.response),
            self.input,
            stored_items(self.writer.output),
            self.response["previous_response_id"],
            owner,
            keeps_events,
        )

    def progress(
        self, events: Sequence[ResponseEvent], *, keeps_events: bool, num_told_items: int
    ) -> Progress:
        """Return what the response has come to with these events, its items behind so many."""
        tells_state = any("response" in event for event in events)
        return Progress(
            tuple(map(to_json, events)) if keeps_events else (),
            without_output(self.response) if tells_state else None,
            stored_items(self.writer.output[num_told_items:]),
            is_end=events[-1]["type"] in END_TYPES,
        )

    def _begin(self) -> list[ResponseEvent]:
        created = [] if self.response["background"] else [*self.writer.create()]
        return [*created, *self.writer.begin()]

    def _feed(self, delta: ChatDelta | Usage) -> list[ResponseEvent]:
        return [*(self.writer.complete_items() if isinstance(delta, Usage) else self.writer.feed(delta))]
