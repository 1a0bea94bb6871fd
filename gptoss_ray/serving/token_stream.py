"""Tokens from ranks to requests, in the ingress: one stream per rank, shared by all its requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, InternalError, OverloadedError, RequestLostError, UnavailableError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.ranks.group_stats import GroupStats
from gptoss_ray.ranks.ray_ranks import RANK_NAMESPACE
from gptoss_ray.serving.apart import start_apart
from gptoss_ray.serving.metrics import PhaseWatch
from gptoss_ray.serving.recent_refusals import RecentRefusals
from gptoss_ray.serving.replica_directory import replica_directory
from gptoss_ray.serving.routed_call import RequestQueued, RequestRouted
from gptoss_ray.serving.token_source import RequestMovesError, SequencePausedError
from gptoss_ray.tracing import Tracer, span

logger = logging.getLogger(__name__)

MAX_UNREAD_MESSAGES = 16
"""Messages in flight on one stream. A rank that is so far ahead merges what follows into one message,
and learns there whether this process still lives."""

LOOK_AROUND_S = 0.5
"""How often a request that waits at a replica looks whether another has room."""

LAST_OUTPUT_TIMEOUT_S = 5.0
"""How long the last output of a request may take behind the word that its rank is done with it."""

READY_TIMEOUT_S = 2.0
ABORT_TIMEOUT_S = 10.0
UNWATCHED = PhaseWatch()
STATS_TIMEOUT_S = 5.0


@dataclass
class _Route:
    """Where one request's outputs go in this process, and the rank they come from once it is known.

    A reader who is more than `max_unread` outputs behind has its sequence paused: what comes then is dropped.
    """

    request_id: str
    max_unread: int
    queue: asyncio.Queue[TokenOutput | GptossError | SequencePausedError] = field(
        default_factory=asyncio.Queue
    )
    rank_name: str | None = None
    is_paused: bool = False

    def put(self, item: TokenOutput | GptossError) -> bool:
        """Add what comes; return whether that was the moment to pause."""
        if self.is_paused:
            return False
        is_end = isinstance(item, GptossError) or item.finish_reason is not None
        if is_end or self.queue.qsize() < self.max_unread:
            self.queue.put_nowait(item)
            return False
        self.is_paused = True
        self.queue.put_nowait(SequencePausedError())
        return True


class TokenStreams:
    """The token streams that one ingress replica has open, one for each rank it has used.

    Args:
        max_unread: Outputs of a request that may wait for its reader.
    """

    def __init__(self, max_unread: int) -> None:
        self._max_unread = max_unread
        self.sink_id = f"ingress-{uuid.uuid4().hex}"
        self._routes: dict[str, _Route] = {}
        self._ranks: dict[str, ActorHandle[Any]] = {}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._aborts: set[asyncio.Task[None]] = set()

    def open_route(self, request_id: str) -> _Route:
        """Collect the outputs of a request from now on."""
        route = self._routes[request_id] = _Route(request_id, self._max_unread)
        return route

    def close_route(self, route: _Route) -> None:
        """Drop what still comes for a request."""
        self._routes.pop(route.request_id, None)

    def follow(self, route: _Route, rank_name: str) -> None:
        """Subscribe to the rank that works on the request, unless its stream is open already."""
        route.rank_name = rank_name
        if rank_name not in self._pumps:
            # Other requests will be on it, too, and this one may be cancelled.
            self._pumps[rank_name] = start_apart(self._pump(rank_name))

    def abort(self, request_id: str, rank_name: str) -> None:
        """Have a rank end a request; the routed call then ends by itself.

        The rank is told directly: Ray loses some cancellations of a streaming call (one in forty,
        measured at 3 ms per token), and the request would run on for nobody.
        """
        if (rank := self._ranks.get(rank_name)) is not None:
            rank.abort.remote(request_id)
            return
        task = start_apart(_find_and_abort(request_id, rank_name))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)

    async def _pump(self, rank_name: str) -> None:
        """Read a rank's stream to its end, then fail the requests that were on it."""
        try:
            rank = self._ranks[rank_name] = await _find_rank(rank_name)
            stream = rank.token_stream.options(
                num_returns="streaming", _generator_backpressure_num_objects=MAX_UNREAD_MESSAGES
            ).remote(self.sink_id)
            async for message in stream:
                for output in chain.from_iterable(map(TokenOutput.split, await message)):
                    route = self._routes.get(output.request_id)
                    if route is not None and route.put(output):
                        logger.info("stream_paused request_id=%s", route.request_id)
                        self.abort(route.request_id, rank_name)
        except (RayError, RequestLostError) as error:
            logger.warning("token_stream_lost rank=%s error=%s", rank_name, type(error).__name__)
        finally:
            del self._pumps[rank_name]
            self._ranks.pop(rank_name, None)
            for route in self._routes.values():
                if route.rank_name == rank_name:
                    route.put(_lost())


@dataclass(slots=True)
class _Waiting:
    """Where a request waits for its turn, once it does."""

    replica_name: str | None = None


class RoutedTokenSource:
    """The `TokenSource` of one model: Serve picks a replica, the replica a rank, the rank streams back.

    Args:
        handle: Of the model's replicas.
        streams: Of this ingress replica.
        model: Whose replicas they are.
        phases: Told the times of each request on its way.
        tracer: Makes the spans of traced requests.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        streams: TokenStreams,
        model: ServedModelConfig,
        phases: PhaseWatch = UNWATCHED,
        tracer: Tracer | None = None,
    ) -> None:
        self._handle = handle
        self._streams = streams
        self._model = model
        self._phases = phases
        self._tracer = tracer
        self._may_have_none = model.scaling is not None and model.scaling.min_replicas == 0
        self._came_in_vain = False
        self._refusals = RecentRefusals()
        self._replicas = replica_directory(handle.deployment_name)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        """See `TokenSource.generate`; where there is no replica, the request is held until one is there.

        Raises:
            OverloadedError: A replica has refused it, or one like it just now (`recent_refusals.py`).
            UnavailableError: None was there within `hold_timeout_s`.
            RequestMovesError: It waited at a full replica, and now another has room.
        """
        self._refusals.check(request)
        route = self._streams.open_route(request.request_id)
        # Held to the end: Serve counts the request as long as the call is open.
        call = self._call(request)
        # A task of its own: a request that is cancelled before a rank has it is aborted once one has.
        waiting = _Waiting()
        routing = asyncio.ensure_future(self._rank_name(request, call, waiting))
        ending: asyncio.Task[None] | None = None
        has_ended = False
        is_first, since_s = True, time.monotonic()
        try:
            with span(self._tracer, "queue", request.traceparent) as attributes:
                await self._until_routed(routing, waiting)
                attributes["gptoss.rank_name"] = routing.result()
                self._streams.follow(route, routing.result())
            ending = asyncio.create_task(_lose_at_end(call, route))
            since_s = _note(self._phases.note_queue, since_s)
            while not has_ended:
                output = await route.queue.get()
                if isinstance(output, Exception):
                    has_ended = True  # paused: its rank was told already; lost: it finds that out by itself
                    raise output
                has_ended = output.finish_reason is not None
                if output.error is not None:
                    raise output.error
                if is_first:
                    is_first = False
                    _note(self._phases.note_prefill, since_s)
                yield output
        except OverloadedError as error:
            self._refusals.note(request, error)
            raise
        finally:
            self._streams.close_route(route)
            if ending is not None:
                ending.cancel()
            if not has_ended:
                # Not routed yet, it waits in the replica. Where Ray loses this, it is aborted on its turn.
                if not routing.done():
                    call.cancel()  # type: ignore[no-untyped-call]
                routing.add_done_callback(partial(self._abort, request.request_id), context=Context())

    def _abort(self, request_id: str, routing: asyncio.Future[str]) -> None:
        """Abort a request at the rank that took it; a refused or lost one needs nothing."""
        if not routing.cancelled() and routing.exception() is None:
            self._streams.abort(request_id, routing.result())

    def _call(self, request: GenerationRequest) -> DeploymentResponseGenerator[Any]:
        routed = replace(request, sink_id=self._streams.sink_id)
        call = self._handle.options(stream=True).generate.remote(routed)
        assert isinstance(call, DeploymentResponseGenerator), "the handle has stream=True"
        return call

    async def abort(self, abort_key: str) -> int:
        """See `TokenSource.abort`."""
        try:
            asked = self._handle.broadcast("abort", abort_key)
            return sum(await asked.results_async(timeout_s=ABORT_TIMEOUT_S))
        except DeploymentUnavailableError:
            return 0  # without a replica, none has anything of it
        except (RayError, RayServeException, TimeoutError) as error:
            logger.warning("abort_failed error=%s", type(error).__name__)
            raise UnavailableError("A replica could not be asked to abort; try again.") from error

    async def ready(self) -> bool:
        """See `TokenSource.ready`; where no replica is wanted while nobody asks, one that comes will do."""
        try:
            return bool(await self._ask_ready())
        except DeploymentUnavailableError:
            return self._may_have_none and not self._came_in_vain
        except (RayError, RayServeException, asyncio.TimeoutError, TimeoutError):
            return False

    async def stats(self) -> list[GroupStats]:
        """See `TokenSource.stats`."""
        try:
            asked = self._handle.broadcast("stats")
            answers = await asked.results_async(timeout_s=STATS_TIMEOUT_S, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError) as error:
            logger.info("stats_failed error=%s", type(error).__name__)
            return []
        return [answer for answer in answers if isinstance(answer, GroupStats)]

    async def _ask_ready(self) -> object:
        """Return what a replica answers.

        Raises:
            DeploymentUnavailableError: There is none.
        """
        if not self._may_have_none:
            return await asyncio.wait_for(self._handle.ready.remote(), READY_TIMEOUT_S)
        # A call would wait for a replica, and thereby start one.
        asked = self._handle.broadcast("ready")
        answers = await asked.results_async(timeout_s=READY_TIMEOUT_S, return_exceptions=True)
        for answer in answers:
            if not isinstance(answer, Exception):
                return answer
        raise answers[0]

    async def _until_routed(self, routing: asyncio.Future[str], waiting: _Waiting) -> None:
        """Wait until a rank has taken a request; raise RequestMovesError where another would sooner.

        New replicas come where others have queues, and would stay idle beside these.
        """
        while not (await asyncio.wait((routing,), timeout=LOOK_AROUND_S))[0]:
            if waiting.replica_name is not None and self._replicas.has_room_beside(waiting.replica_name):
                raise RequestMovesError

    async def _rank_name(
        self, request: GenerationRequest, call: DeploymentResponseGenerator[Any], waiting: _Waiting
    ) -> str:
        """Return the rank that took the request; raise the GptossError with which it was refused."""
        hold_s = self._model.hold_timeout_s
        try:
            first = await asyncio.wait_for(_next_word(call), hold_s)
        except asyncio.TimeoutError:
            self._came_in_vain = True
            call.cancel()  # type: ignore[no-untyped-call]
            raise UnavailableError(
                f"No replica of {self._model.name} was there within hold_timeout_s = {hold_s:g}; one may be "
                "starting, or find no room. Try again later."
            ) from None
        self._came_in_vain = False
        if isinstance(first, RequestQueued | RequestRouted):
            self._refusals.forget(request)
        if isinstance(first, RequestQueued):
            waiting.replica_name = first.replica_name
        word = await _next_word(call) if isinstance(first, RequestQueued) else first
        if isinstance(word, GptossError):
            raise word
        if not isinstance(word, RequestRouted):
            raise InternalError("The replica sent something else than a rank.")
        return word.rank_name


async def _next_word(call: DeploymentResponseGenerator[Any]) -> object:
    """Return the next item of a routed call; OverloadedError or RequestLostError where none comes."""
    try:
        word: object = await anext(call)
    except BackPressureError as error:
        raise OverloadedError("All replicas of the model are full; try again in a moment.") from error
    except (RayError, RayServeException) as error:
        logger.warning("routing_failed error=%s", type(error).__name__)
        raise _lost() from error
    except StopAsyncIteration:
        raise _lost() from None
    return word


async def _lose_at_end(call: DeploymentResponseGenerator[Any], route: _Route) -> None:
    """Have a request lost whose rank is done with it and whose last output does not come.

    So it is where the rank has given a token stream up, which began too late, say, for want of Ray's control
    store: its outputs then went nowhere.
    """
    with contextlib.suppress(GptossError):
        await _next_word(call)
    await asyncio.sleep(LAST_OUTPUT_TIMEOUT_S)
    route.put(_lost())


def _note(note: Callable[[float], None], since_s: float) -> float:
    """Tell how long it is since a moment; return the present one."""
    now_s = time.monotonic()
    note(now_s - since_s)
    return now_s


async def _find_rank(rank_name: str) -> ActorHandle[Any]:
    """Ask Ray's control store, which may be away: in a thread, so that it holds nobody else up."""
    try:
        return await asyncio.to_thread(ray.get_actor, rank_name, namespace=RANK_NAMESPACE)
    except ValueError as error:
        raise _lost() from error


async def _find_and_abort(request_id: str, rank_name: str) -> None:
    with contextlib.suppress(RayError, RequestLostError):
        (await _find_rank(rank_name)).abort.remote(request_id)


def _lost() -> RequestLostError:
    return RequestLostError("The replica that worked on this request was lost; send it again.")
