"""A rank over a scripted engine: all of serving but the network."""

from __future__ import annotations

from itertools import count

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.engine.scripted_engine import ScriptedEngine
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.ranks.engine_rank import EngineRank


async def test_a_scripted_engine_takes_the_place_of_the_real_one_in_a_rank():
    def load(config, rank, link, suppressed_token_ids, progress):
        return ScriptedEngine(lambda request: count(request.prompt_token_ids[0]), step_s=0.001)

    rank = EngineRank(ServedModelConfig(name="scripted", checkpoint="none"), load=load)
    await rank.load()
    await rank.start()
    try:
        request = GenerationRequest("r", (40,), SamplingParams(max_tokens=3), sink_id="a")
        assert await rank.submit(request) is None
        outputs = []
        stream = rank.token_stream("a")
        async for message in stream:
            outputs += message
            if outputs[-1].finish_reason is not None:
                break
        await stream.aclose()
        assert [output.token_ids for output in outputs] == [(40,), (41,), (42,)]
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        assert (await rank.stats()).engine.num_running == 0
    finally:
        rank.stop()
