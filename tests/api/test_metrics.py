from prometheus_client.parser import text_string_to_metric_families

from gptoss_ray.engine.scripted_engine import ScriptedEngine
from gptoss_ray.errors import UnavailableError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.ranks.engine_rank import RankStats
from gptoss_ray.ranks.group_stats import GroupStats
from tests.support.ingresses import ANSWER, CALL, MODEL, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def measured(script, *, num_requests=1, path="/v1/chat/completions", **fields):
    """Return the samples after some requests, by name and labels other than the model."""
    source = ScriptedSource(script)
    async with http_client(make_ingress(source)) as client:
        for _ in range(num_requests):
            await client.post(path, json={**BODY, "prompt": "hi", **fields})
        text = (await client.get("/metrics")).text
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key != "model"}
            assert sample.labels["model"] == MODEL
            samples[(sample.name, *labels.values())] = sample.value
    return samples, source


async def test_tokens_choices_and_times_are_counted():
    samples, source = await measured(tokens(ANSWER), num_requests=3, n=2)
    num_tokens = 3 * 2 * len(tokens(ANSWER))
    assert samples["gptoss_prompt_tokens_total",] == 3 * len(source.requests[0].prompt_token_ids)
    assert samples["gptoss_cached_prompt_tokens_total",] == 3 * 3
    assert samples["gptoss_generation_tokens_total",] == num_tokens
    assert samples["gptoss_reasoning_tokens_total",] == 3 * 2 * len(tokens("17 and 25."))
    assert samples["gptoss_choices_total", "stop"] == 6
    assert samples["gptoss_choices_in_progress",] == 0
    assert samples["gptoss_time_to_first_token_seconds_count",] == 6
    assert samples["gptoss_inter_token_latency_seconds_count",] == num_tokens - 6
    assert samples["gptoss_choice_duration_seconds_count",] == 6
    assert samples["gptoss_decode_time_seconds_count",] == 6
    assert samples["gptoss_choice_generation_tokens_sum",] == num_tokens
    assert samples["gptoss_choice_prompt_tokens_sum",] == 2 * samples["gptoss_prompt_tokens_total",]


async def test_why_choices_ended_is_told_apart():
    assert (await measured(tokens(CALL)))[0]["gptoss_choices_total", "tool_calls"] == 1
    assert (await measured(tokens(ANSWER), max_tokens=3))[0]["gptoss_choices_total", "length"] == 1
    samples, _ = await measured(tokens("one two"), path="/v1/completions", max_tokens=1)
    assert samples["gptoss_choices_total", "length"] == 1


async def test_malformed_output_is_counted_by_kind():
    samples, _ = await measured(tokens("Hello<|return|>"), num_requests=2)
    assert samples["gptoss_harmony_repairs_total", "no_header"] == 2
    samples, _ = await measured(tokens(ANSWER))
    assert not [key for key in samples if key[0] == "gptoss_harmony_repairs_total"]


async def test_a_failure_is_counted_by_its_code():
    samples, _ = await measured([*tokens(ANSWER)[:3], UnavailableError("lost.")])
    assert samples["gptoss_failures_total", "unavailable"] == 1
    assert samples["gptoss_choices_in_progress",] == 0
    assert samples["gptoss_generation_tokens_total",] == 3


async def test_the_load_of_the_ranks_is_that_of_the_moment():
    engine = ScriptedEngine(lambda request: range(5))
    engine.submit(GenerationRequest("r", (1,)))
    ranks = (RankStats(1, engine.stats(), 1, 0, 0),)
    group = GroupStats("r0", "serving", 3, ("0", "1.1"), {0: "a", 1: "b"}, ranks, num_queued=2)
    source = ScriptedSource([], group_stats=[group])
    async with http_client(make_ingress(source)) as client:
        busy = (await client.get("/metrics")).text
        source.group_stats = []
        silent = (await client.get("/metrics")).text
    of_rank, of_group = f'{{model="{MODEL}",rank="1",replica="r0"}}', f'{{model="{MODEL}",replica="r0"}}'
    assert f"gptoss_sequences_running{of_rank} 1.0" in busy
    assert f"gptoss_sequences_waiting{of_rank} 0.0" in busy
    assert f"gptoss_kv_cache_usage_ratio{of_rank} 0.0" in busy
    assert f"gptoss_requests_queued{of_group} 2.0" in busy
    assert f"gptoss_group_epoch{of_group} 3.0" in busy
    assert f'gptoss_replicas{{model="{MODEL}"}} 1.0' in busy
    assert "gptoss_sequences_running{" not in silent
    assert f'gptoss_replicas{{model="{MODEL}"}} 0.0' in silent
