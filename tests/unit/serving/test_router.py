"""The router as Serve drives it: its own queues and counts are real, the replicas are not."""

from __future__ import annotations

import asyncio
import random
import warnings
from typing import Any

import pytest

from gptoss_ray.config import EngineConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.kvcache.prefix_cache import BlockHashes
from gptoss_ray.serving.replica_selector import routing_stats

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.request_router import PendingRequest

    from gptoss_ray.serving.router import ReplicaRouter, router_config

DEPLOYMENT = DeploymentID("EngineReplica", "gptoss")
MODEL = ServedModelConfig(name="m", checkpoint="demo", engine=EngineConfig(max_num_sequences=4))
BLOCK = MODEL.engine.kv_block_size


class Replica:
    """Answers that it has no requests, or as many as it can take."""

    max_ongoing_requests = 10

    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.routing_stats: dict[str, bytes] = {}
        self.num_ongoing = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.num_ongoing


class Router:
    """A router, and what Serve does with it for each request."""

    def __init__(self, *names: str) -> None:
        # As options of a file are put over it, and as it crosses processes: the class comes from its pickle.
        config = DeploymentConfig(request_router_config=router_config(MODEL))
        config = DeploymentConfig(**config.model_dump())
        config = DeploymentConfig.from_proto_bytes(config.to_proto_bytes())
        router_class: Any = config.request_router_config.get_request_router_class()
        assert router_class.__name__ == ReplicaRouter.__name__
        self.router = router_class(
            deployment_id=DEPLOYMENT,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            self_node_id="node",
            prefer_local_node_routing=True,
        )
        self.router.initialize_state(**config.request_router_config.request_router_kwargs)
        self.replicas = {name: Replica(name) for name in names}
        self.update()
        self.num_sent = 0

    def update(self) -> None:
        self.router.update_replicas(list(self.replicas.values()))

    async def send(self, *args: object, is_live: bool = False, internal_id: str | None = None) -> str:
        self.num_sent += 1
        internal_id = internal_id or str(self.num_sent)
        metadata = RequestMetadata(request_id=internal_id, internal_request_id=internal_id)
        pending = PendingRequest(args=list(args), kwargs={}, metadata=metadata)
        replica = await asyncio.wait_for(self.router._choose_replica_for_request(pending), 5)
        self.router.on_send_request(replica.replica_id)
        self.router.on_request_routed(pending, replica.replica_id, None)
        if not is_live:
            self.router.on_request_completed(replica.replica_id, internal_id)
            self.router.decrement_queue_len_cache(replica.replica_id)
        return replica.replica_id.unique_id


def prompt(number: int, num_blocks: int = 30) -> tuple[int, ...]:
    return tuple(random.Random(number).choices(range(1000), k=num_blocks * BLOCK))


def request(*parts: tuple[int, ...], salt: str = "") -> GenerationRequest:
    return GenerationRequest("r", sum(parts, ()), cache_salt=salt)


async def test_a_session_stays_on_its_replica_and_sessions_are_spread():
    router = Router("a", "b", "c")
    homes = {number: await router.send(request(prompt(number))) for number in range(6)}
    assert sorted(homes.values()) == ["a", "a", "b", "b", "c", "c"]
    for number in (3, 0, 5, 2, 4, 1):
        assert await router.send(request(prompt(number), prompt(100 + number, 2))) == homes[number]


async def test_a_resumed_request_goes_where_it_was():
    router = Router("a", "b")
    home = await router.send(request(prompt(1)))
    await router.send(request(prompt(2)))
    resumed = GenerationRequest("r~1", prompt(1), emitted_token_ids=prompt(3, 2))
    assert await router.send(resumed) == home


async def test_requests_that_run_count_until_they_have_ended():
    router = Router("a", "b")
    homes = [await router.send(request(prompt(number, 1)), is_live=True) for number in range(4)]
    assert sorted(homes) == ["a", "a", "b", "b"]
    for _ in range(2):
        router.router.on_request_completed(ReplicaID("b", DEPLOYMENT), "done")
        router.router.decrement_queue_len_cache(ReplicaID("b", DEPLOYMENT))
    assert [await router.send(request(prompt(number, 1)), is_live=True) for number in (8, 9)] == ["b", "b"]


async def test_where_the_best_replica_is_full_the_next_one_takes_the_session_over():
    router = Router("a", "b")
    home = await router.send(request(prompt(1)))
    other = "b" if home == "a" else "a"
    router.replicas[home].num_ongoing = 10
    router.router.on_new_queue_len_info(router.replicas[home].replica_id, 10)
    assert await router.send(request(prompt(1), prompt(2, 1))) == other
    router.replicas[home].num_ongoing = 0
    router.router.on_new_queue_len_info(router.replicas[home].replica_id, 0)
    assert await router.send(request(prompt(1), prompt(2, 1), prompt(3, 1))) == other


async def test_what_a_replica_tells_of_itself_is_known_to_every_router():
    router = Router("a", "b", "c")
    text = prompt(1)
    router.replicas["b"].routing_stats = routing_stats(
        BlockHashes("tenant", BLOCK).of_complete_blocks(text, len(text))
    )
    router.update()
    for _ in range(3):
        assert await router.send(request(text, prompt(2, 1), salt="tenant")) == "b"


async def test_a_lost_replica_is_forgotten():
    router = Router("a", "b")
    home = await router.send(request(prompt(1)))
    router.router.on_replica_actor_died(ReplicaID(home, DEPLOYMENT))
    assert await router.send(request(prompt(1))) != home
    del router.replicas[home]
    router.update()
    assert await router.send(request(prompt(1))) != home
    assert list(router.router._selector._known) == list(router.replicas)


async def test_a_request_waits_until_there_is_a_replica():
    router = Router()
    sending = asyncio.create_task(router.send(request(prompt(1))))
    await asyncio.sleep(0.02)
    assert not sending.done()
    router.replicas["a"] = Replica("a")
    router.update()
    assert await sending == "a"


async def test_a_call_without_a_prompt_goes_to_the_least_busy_replica():
    router = Router("a", "b")
    home = await router.send(request(prompt(1)), is_live=True)
    assert await router.send() != home
    assert await router.send("key") != home


async def test_all_calls_of_one_request_to_the_server_are_routed():
    router = Router("a", "b")
    sent = [router.send(request(prompt(number)), is_live=True, internal_id="one") for number in range(6)]
    assert sorted(await asyncio.gather(*sent)) == ["a", "a", "a", "b", "b", "b"]


async def test_choices_of_requests_that_are_never_sent_do_not_pile_up():
    router = Router("a", "b")
    metadata = RequestMetadata(request_id="r", internal_request_id="r")
    for _ in range(10):
        pending = PendingRequest(args=[request(prompt(1, 1))], kwargs={}, metadata=metadata)
        await router.router.choose_replicas(list(router.replicas.values()), pending)
    del pending
    assert len(router.router._unrouted) == 0


@pytest.mark.parametrize(
    "model",
    [
        MODEL.model_copy(update={"routing": "load"}),
        MODEL.model_copy(update={"engine": EngineConfig(prefix_cache=False)}),
    ],
    ids=["asked for", "no prefix cache"],
)
def test_serves_own_router_serves_where_prefixes_are_of_no_use(model):
    assert router_config(model).is_default_request_router()
