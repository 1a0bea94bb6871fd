from __future__ import annotations

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig, ServedModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.ranks import rank_memory
from gptoss_ray.ranks.rank_facts import RankFacts
from gptoss_ray.ranks.rank_memory import check_group_memory, plan_rank_memory
from gptoss_ray.ranks.rank_room import RankRoom

MODEL = ModelConfig.published("gpt-oss-20b")


def served(**engine) -> ServedModelConfig:
    return ServedModelConfig(name="m", checkpoint="somewhere", engine=EngineConfig(**engine))


@pytest.mark.parametrize("memory_bytes", [8 << 30, 1 << 40])
def test_native_kernels_keep_experts_packed_whatever_memory_there_is_and_torch_only_in_little(
    monkeypatch, memory_bytes
):
    monkeypatch.setattr(rank_memory, "host_memory_bytes", lambda: memory_bytes)
    native, torch = (plan_rank_memory(served(), MODEL, is_native=choice) for choice in (True, False))
    num_values = 24 * 32 * 3 * 2880 * 2880
    assert native.expert_bytes == pytest.approx(num_values * 4.25 / 8, rel=0.01)
    ratio = torch.expert_bytes / native.expert_bytes
    assert ratio == pytest.approx(16 / 4.25 if memory_bytes > 1 << 39 else 1, rel=0.01)


def test_dense_weights_in_8_bits_take_little_more_than_half_of_16(monkeypatch):
    wide, narrow = (
        plan_rank_memory(served(dense_weights=choice), MODEL, is_native=True)
        for choice in ("bfloat16", "int8")
    )
    looked_up_bytes = 2 * MODEL.vocab_size * MODEL.hidden_size + MODEL.max_context * MODEL.head_dim * 4
    saved = wide.dense_bytes - narrow.dense_bytes
    assert saved == pytest.approx((wide.dense_bytes - looked_up_bytes) * 7.5 / 16, rel=0.01)


def test_a_group_is_planned_for_the_kernels_that_its_ranks_found():
    def facts(*, is_native: bool) -> list[RankFacts]:
        return [RankFacts("host", "10.0.0.1", 20 << 30, "fingerprint", "checkpoint", is_native)]

    plan = check_group_memory(served(), MODEL, facts(is_native=True))
    assert plan == plan_rank_memory(served(), MODEL, is_native=True)
    little = [RankFacts("host", "10.0.0.1", 10 << 30, "fingerprint", "checkpoint", True)]
    with pytest.raises(ConfigError, match="m: A rank needs 1"):
        check_group_memory(served(), MODEL, little)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
def test_requests_are_admitted_to_the_blocks_that_are_planned(kv_cache_dtype):
    config = served(kv_cache_dtype=kv_cache_dtype).model_copy(
        update={"parallel": ParallelConfig(device="cuda")}
    )
    room = RankRoom.of(config.engine, MODEL)
    assert room.num_blocks == plan_rank_memory(config, MODEL).num_kv_blocks


def test_a_rank_on_a_gpu_is_judged_by_its_card_and_not_by_the_main_memory():
    config = served().model_copy(update={"parallel": ParallelConfig(device="cuda")})

    def facts(free_card_bytes: int) -> list[RankFacts]:
        return [RankFacts("host", "10.0.0.1", 1 << 30, "fingerprint", "checkpoint", False, free_card_bytes)]

    plan = check_group_memory(config, MODEL, facts(20 << 30))
    assert plan.graph_bytes > 0
    assert plan.scratch_bytes == plan.grammar_bytes == 0
    with pytest.raises(ConfigError, match="m: A rank needs 1"):
        check_group_memory(config, MODEL, facts(12 << 30))
