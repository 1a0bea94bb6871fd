"""A group of two ranks on two Ray nodes of this machine: `python -m tests.support.two_node_group FOLDER`.

Prints as JSON what requests got from it, and from a rank alone. There is no Serve here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from gptoss_ray.config import EngineConfig, ParallelConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.ranks.rank_placement import GroupPlacement
from gptoss_ray.serving.local_session import LocalSession
from gptoss_ray.serving.session_processes import end_session

if TYPE_CHECKING:
    from gptoss_ray.ranks.rank_group import Rank, RankGroup

_NODE = {
    "num_cpus": 1,
    "object_store_memory": 80 << 20,
    "node_ip_address": "127.0.0.1",
}
_PROMPTS = [tuple(range(1, 60)), tuple(range(100, 140))]


def main(checkpoint: str) -> None:
    session = LocalSession()
    # Ray reads its environment on import: it comes after the session that sets it.
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=_NODE | {"include_dashboard": False})
    try:
        cluster.add_node(**_NODE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        alone = asyncio.run(_generate(checkpoint, ParallelConfig()))
        spread = asyncio.run(_generate(checkpoint, ParallelConfig(num_ranks=2, num_nodes=2)))
        print(json.dumps({"alone": alone, "spread": spread}))
    finally:
        ray.shutdown()
        cluster.shutdown()
        end_session(session.session_id)
        session.remove()


async def _generate(checkpoint: str, parallel: ParallelConfig) -> dict[str, Any]:
    """Return each rank's node and what it made of the prompts."""
    from ray.util.placement_group import placement_group, remove_placement_group

    from gptoss_ray.ranks.rank_group import RankGroup

    config = ServedModelConfig(
        name="tiny",
        checkpoint=checkpoint,
        engine=EngineConfig(max_context=512, kv_cache_bytes=8 << 20),
        parallel=parallel,
    )
    placement = GroupPlacement.of(config)
    bundles = placement_group(placement.bundles, placement.strategy)
    group = RankGroup(config, bundles, f"test{parallel.num_ranks}")
    try:
        await group.load([])
        answers = await asyncio.gather(*(_answer(group, number) for number in range(len(_PROMPTS))))
        hosts = [(await group._ranks.ask(rank, "facts")).host_id for rank in group._open_ranks]
        stats = await group.stats()
        return {"answers": answers, "hosts": hosts, "ranks": [rank.rank for rank in stats.ranks]}
    finally:
        group.shutdown()
        remove_placement_group(bundles)


async def _answer(group: RankGroup, number: int) -> list[int]:
    params = SamplingParams(max_tokens=12, seed=number)
    request = GenerationRequest(f"r{number}", _PROMPTS[number], params, sink_id=f"sink{number}")
    async with group.visit(request) as visit:
        rank = await group.rank_of(visit)
        refusal = await group.submit(rank, request)
        assert refusal is None, refusal
        return await _read(rank, request.sink_id)


async def _read(rank: Rank, sink_id: str) -> list[int]:
    token_ids: list[int] = []
    async for message in rank.actor.token_stream.options(num_returns="streaming").remote(sink_id):
        for output in await message:
            token_ids += output.token_ids
            if output.finish_reason is not None:
                assert output.error is None, output.error
                return token_ids
    raise AssertionError("the stream ended before the request")


if __name__ == "__main__":
    main(sys.argv[1])
