"""How far a stream has come, and the request that goes on behind that: nothing twice, nothing missing."""

from __future__ import annotations

from typing import Generic, TypeVar

from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2

RequestT = TypeVar("RequestT", chat_pb2.StreamChatRequest, generation_pb2.StreamGenerateRequest)
PieceT = TypeVar("PieceT", chat_pb2.StreamChatResponse, generation_pb2.StreamGenerateResponse)


class StreamProgress(Generic[RequestT, PieceT]):
    """Hands pieces on once they count: when their tokens, or the end of their choice, have come.

    Pieces that are held when a stream breaks are dropped, because the resumed one brings them again.

    Args:
        request: The first request, which is made resumable.
        resumes: Whether to ask for what it takes to resume.
    """

    def __init__(self, request: RequestT, *, resumes: bool) -> None:
        self._request: RequestT = type(request)()
        self._request.CopyFrom(request)
        self._resumption: common_pb2.Resumption | None = None
        if resumes:
            self._request.resumable = True
        if self._request.HasField("resumption"):
            self._resumption = self._request.resumption
        self._choices: dict[int, common_pb2.ResumedChoice] = {}
        self._held: dict[int, list[PieceT]] = {}
        self._has_begun = False

    @property
    def can_go_on(self) -> bool:
        """Whether another attempt would neither repeat nor lack anything."""
        return self._resumption is not None or not self._has_begun

    def request(self) -> RequestT:
        """Return the request of the next attempt."""
        self._held.clear()
        return self._request

    def take(self, piece: PieceT) -> list[PieceT]:
        """Take a piece; return the pieces that count from now on, in order."""
        self._has_begun = True
        if piece.HasField("resumption"):
            self._start(piece.resumption)
        if self._resumption is None or not piece.HasField("choice"):
            return [piece]
        delta = piece.choice
        held = self._held.setdefault(delta.index, [])
        held.append(piece)
        if not (delta.token_ids or delta.finish_reason):
            return []
        choice = self._choice(delta.index)
        choice.token_ids.extend(delta.token_ids)
        choice.has_ended = bool(delta.finish_reason)
        return self._held.pop(delta.index)

    def _start(self, fixed: common_pb2.Resumption) -> None:
        """Keep what fixes the answer; a resumed stream tells the same again."""
        if self._resumption is None:
            self._request.resumption.CopyFrom(fixed)
            self._resumption = self._request.resumption

    def _choice(self, index: int) -> common_pb2.ResumedChoice:
        assert self._resumption is not None
        if index not in self._choices:
            known = [choice for choice in self._resumption.choices if choice.index == index]
            self._choices[index] = known[0] if known else self._resumption.choices.add(index=index)
        return self._choices[index]
