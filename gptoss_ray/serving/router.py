"""ReplicaRouter: how an ingress replica chooses among a model's replicas, as Serve calls it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any
from weakref import WeakKeyDictionary

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.ranks.prefix_index import request_hashes
from gptoss_ray.ranks.rank_selector import MAX_INDEXED_BLOCKS
from gptoss_ray.serving.replica_directory import replica_directory
from gptoss_ray.serving.replica_selector import STATS_PERIOD_S, ReplicaSelector

MAX_HASHED_BLOCKS = 4096
"""Of a prompt: two that are equal so far rarely differ in where they should go."""


class ReplicaRouter(RequestRouter):
    """Sends a request where most of its prompt is cached, unless others are less busy by more than that.

    Serve makes one in every process that has a handle on the deployment. The next turn of a session, and the
    next attempt of a lost request, go where the one before was, for they begin with the same tokens. A call
    that carries no prompt goes to the least busy replica.
    """

    _block_size: int
    _selector: ReplicaSelector

    def initialize_state(self, *, block_size: int, num_seats: int, max_blocks: int) -> None:  # type: ignore[override]
        """Take the options of `router_config`; see `ReplicaSelector`."""
        self._block_size = block_size
        self._selector = ReplicaSelector(block_size, num_seats, max_blocks)
        self._num_seats = num_seats
        self._directory = replica_directory(self._deployment_id.name)
        self._num_live: defaultdict[ReplicaID, int] = defaultdict(int)
        self._unrouted: WeakKeyDictionary[asyncio.Future[Any], tuple[str, list[bytes]]] = WeakKeyDictionary()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas one by one, best first: Serve takes the first that is not full."""
        request = None if pending_request is None else _generation_request(pending_request)
        hashes = [] if request is None else request_hashes(request, self._block_size, MAX_HASHED_BLOCKS)
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        num_live = {name: self._num_live_on(replica.replica_id) for name, replica in by_name.items()}
        names = self._selector.order(hashes, _num_tokens(request), num_live)
        if pending_request is not None:
            # Where all are full, Serve is to wait before it asks again.
            pending_request.routing_context.should_backoff = True
        if pending_request is not None and names:
            # At once, so that one with the same beginning that comes right behind follows it.
            self._selector.note(names[0], hashes)
            self._unrouted[pending_request.future] = names[0], hashes
        return [[by_name[name]] for name in names]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, _result: object
    ) -> None:
        """Note where a request went that its first choice had no room for."""
        chosen = self._unrouted.pop(pending_request.future, None)
        if chosen is not None and chosen[0] != replica_id.unique_id:
            self._selector.note(replica_id.unique_id, chosen[1])

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Count a request that was sent to a replica."""
        super().on_send_request(replica_id)
        self._num_live[replica_id] += 1
        self._publish()

    def on_request_completed(self, replica_id: ReplicaID, _internal_request_id: str) -> None:
        """Count one that has ended there, however it did."""
        if self._num_live[replica_id] > 1:
            self._num_live[replica_id] -= 1
        else:
            del self._num_live[replica_id]
        self._publish()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take what Serve knows of the replicas that run; others are forgotten."""
        super().update_replicas(replicas)
        self._selector.keep_only({replica.replica_id.unique_id for replica in replicas})
        for replica in replicas:
            self._selector.learn(replica.replica_id.unique_id, replica.routing_stats)
        self._publish()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget a replica that was found dead."""
        super().on_replica_actor_died(replica_id)
        self._selector.keep_only({replica.unique_id for replica in self.curr_replicas})
        self._publish()

    def _num_live_on(self, replica_id: ReplicaID) -> int:
        """Return how many requests a replica has: as it last said, and at least those from here."""
        return max(self._num_live.get(replica_id, 0), self.replica_queue_len_cache.get(replica_id) or 0)

    def _publish(self) -> None:
        """Let requests that wait know how busy the replicas are."""
        num_live = {replica.unique_id: self._num_live_on(replica) for replica in self.curr_replicas}
        self._directory.note(num_live, self._num_seats)

    def _get_pending_request_matching_internal_request_id(
        self, request_metadata: object = None
    ) -> PendingRequest | None:
        """Return the call that waits with these metadata, for which a replica was chosen.

        Serve looks it up by the id of the request to the server, and so loses all but one of the calls that
        make the prompts or choices of one request.
        """
        for pending in self._pending_requests_to_fulfill:
            if pending.metadata is request_metadata and not pending.future.done():
                return pending
        return None


def router_config(model: ServedModelConfig) -> RequestRouterConfig:
    """Return how Serve is to route a model's requests."""
    if model.routing == "load" or not model.engine.prefix_cache:
        return RequestRouterConfig()
    num_ranks = model.parallel.num_ranks
    options: dict[str, Any] = {
        "request_router_class": f"{__name__}.{ReplicaRouter.__name__}",
        "request_router_kwargs": {
            "block_size": model.engine.kv_block_size,
            "num_seats": num_ranks * model.engine.max_num_sequences,
            "max_blocks": num_ranks * MAX_INDEXED_BLOCKS,
        },
        "request_routing_stats_period_s": STATS_PERIOD_S,
    }
    return RequestRouterConfig(**options)


def _generation_request(pending_request: PendingRequest) -> GenerationRequest | None:
    """Return the request that a call carries, if it is one for tokens."""
    first = next(iter(pending_request.args), None)
    return first if isinstance(first, GenerationRequest) else None


def _num_tokens(request: GenerationRequest | None) -> int:
    return 0 if request is None else len(request.prompt_token_ids) + len(request.emitted_token_ids)
