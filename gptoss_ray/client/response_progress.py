"""How far the events of a response have come, and the call that goes on behind them."""

from __future__ import annotations

from gptoss_ray.protos.gptoss.v1 import responses_pb2


class ResponseProgress:
    """Streams a response; one that works in the background is followed where that breaks.

    Args:
        response: What to make; None where one is followed that is there.
        resumes: Whether to follow where a stream breaks.
    """

    def __init__(self, response: responses_pb2.NewResponse | None, *, resumes: bool) -> None:
        self._response = response
        self._resumes = resumes
        self._id = ""
        self._last: int | None = None

    @property
    def can_go_on(self) -> bool:
        """Whether another attempt would neither repeat nor lack anything."""
        return self._last is None or (self._resumes and self._is_followed)

    @property
    def method(self) -> str:
        """The RPC of the next attempt."""
        return "FollowResponse" if self._is_followed else "StreamResponse"

    def follow(self, response_id: str, starting_after: int | None) -> None:
        """Go on with a response that is there, behind an event."""
        self._id, self._last = response_id, starting_after

    def request(self) -> responses_pb2.StreamResponseRequest | responses_pb2.FollowResponseRequest:
        """Return the request of the next attempt."""
        if self._is_followed:
            return responses_pb2.FollowResponseRequest(id=self._id, starting_after=self._last)
        return responses_pb2.StreamResponseRequest(response=self._response)

    def take(self, event: responses_pb2.ResponseEvent) -> None:
        """Note an event."""
        self._last = event.sequence_number
        if event.WhichOneof("event") == "created" and event.created.background:
            self._id = event.created.id

    @property
    def _is_followed(self) -> bool:
        return bool(self._id)
