"""EngineReplica: the Serve deployment that owns one copy of a model; the unit that Serve scales."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray import serve
from ray.exceptions import RayError, TaskCancelledError
from ray.util.placement_group import get_current_placement_group

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import GptossError, RequestAbortedError, RequestLostError, UnavailableError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.json_logs import log_as_json
from gptoss_ray.ranks.engine_rank import LoadEngine
from gptoss_ray.ranks.group_stats import GroupStats
from gptoss_ray.ranks.rank_group import RankGroup, Visit
from gptoss_ray.serving.bind_address import bind_replica_to_node_address
from gptoss_ray.serving.replica_load import load_figures
from gptoss_ray.serving.replica_selector import routing_stats
from gptoss_ray.serving.routed_call import RequestEnded, RequestQueued, RequestRouted

logger = logging.getLogger(__name__)


class EngineReplica:
    """Starts a group of ranks, routes requests to them and ends with them.

    The ranks are in step with each other. Where one is lost, its requests end with an error that lets the
    client send them again, and the others go on without it (`ranks/group_keeper.py`). Where they cannot, all
    requests end so, and Serve replaces the replica.
    """

    _group: RankGroup | None = None

    async def __init__(  # type: ignore[misc]
        self, model: ServedModelConfig, load: LoadEngine | None = None, json_logs: bool = False
    ) -> None:
        """Load the model; Serve sends no request before this returns.

        Args:
            model: What to serve.
            load: Makes each rank's engine, called in the rank; None: from the checkpoint.
            json_logs: Whether replica and ranks log as JSON.

        Raises:
            GptossError: The checkpoint is wrong or loading took too long.
        """
        if json_logs:
            log_as_json()
        bind_replica_to_node_address()
        placement_group = get_current_placement_group()
        assert placement_group is not None, "app.build gives every EngineReplica a placement group"
        self._name = serve.get_replica_context().replica_id.unique_id
        self._group = RankGroup(model, placement_group, self._name, load, json_logs=json_logs)
        await self._group.load(await asyncio.to_thread(_reserved_token_ids, model))

    async def generate(
        self, request: GenerationRequest
    ) -> AsyncGenerator[RequestQueued | RequestRouted | RequestEnded | GptossError, None]:
        """Have a rank work on a request; the call stays open for the request's life.

        Yields `RequestQueued` where it has to wait, `RequestRouted` when its turn has come, and
        `RequestEnded` when the rank is done with it; or at any point, as the last, the GptossError with which
        it was refused, RequestLostError where the rank died. Cancelling the call gives the request up.
        """
        assert self._group is not None
        try:
            async with self._group.visit(request) as visit:
                if not visit.turn.done():
                    yield RequestQueued(self._name)
                async with aclosing(self._work(request, visit)) as words:
                    async for word in words:
                        yield word
        except GptossError as refusal:
            yield refusal

    async def _work(
        self, request: GenerationRequest, visit: Visit
    ) -> AsyncGenerator[RequestRouted | RequestEnded, None]:
        """Have its rank work on the request to its end; raise the GptossError with which it was refused."""
        assert self._group is not None
        rank = await self._group.rank_of(visit)
        try:
            refusal = await self._group.submit(rank, request)
            if refusal is not None:
                raise refusal
            yield RequestRouted(rank.name)
            visit.num_output_tokens = await rank.actor.wait_ended.remote(request.request_id)
            yield RequestEnded()
        except (asyncio.CancelledError, GeneratorExit):
            rank.actor.abort.remote(request.request_id)
            raise
        except TaskCancelledError:
            # Ray cancels the calls of a call that is cancelled, too; the rank is well.
            rank.actor.abort.remote(request.request_id)
            raise RequestAbortedError("The request was given up by its caller.") from None
        except RayError as error:
            self._group.note_error(rank, error)
            logger.warning("rank_lost rank=%s request_id=%s", rank.name, request.request_id)
            raise RequestLostError(
                "The replica that worked on this request was lost; send it again."
            ) from None

    async def abort(self, abort_key: str) -> int:
        """End the requests of a key; return how many there were."""
        assert self._group is not None
        return await self._group.abort(abort_key)

    async def ready(self) -> bool:
        """Return whether the ranks complete their steps."""
        return self._group is not None and await self._group.ready()

    async def stats(self) -> GroupStats:
        """Return what there is to tell of the group and its ranks."""
        assert self._group is not None
        return await self._group.stats()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what this replica is scaled by; Serve asks every second, and hands it to the policy."""
        load = None if self._group is None else await self._group.current_load()
        return {} if load is None else load_figures(load)

    async def record_routing_stats(self) -> dict[str, bytes]:
        """Return what routers are to know of this replica; Serve asks and hands it to all of them."""
        return {} if self._group is None else routing_stats(self._group.latest_ends())

    async def check_health(self) -> None:
        """Raise where the ranks no longer complete their steps; Serve then replaces the replica."""
        if not await self.ready():
            raise UnavailableError("A rank is lost, or its step is overdue; see the rank's log.")

    def __del__(self) -> None:
        """End the ranks with the replica."""
        if self._group is not None:
            self._group.shutdown()


def _reserved_token_ids(model: ServedModelConfig) -> list[int]:
    """Return the ids that stand for nothing in the model's vocabulary; drawing one would be noise."""
    folder = resolve_folder(model.checkpoint)
    encoding = HarmonyEncoding.load(folder)
    return [id_ for id_ in range(ModelConfig.from_folder(folder).vocab_size) if encoding.is_reserved(id_)]
