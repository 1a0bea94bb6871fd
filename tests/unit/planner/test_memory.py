from __future__ import annotations

import gc
import random

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import ConfigError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.memory import (
    check_fits,
    experts_after_losses,
    experts_per_rank,
    plan_filled,
    plan_memory,
)
from gptoss_ray.planner.weights import WeightFormat
from gptoss_ray.structured.grammar_compiler import GrammarCompiler
from tests.support.allocated_memory import allocated_bytes, needs_mallinfo
from tests.support.backends import needs_native
from tests.support.live_memory import PeakMemory, owned_bytes, tensors_of

ENGINE = EngineConfig(
    kv_block_size=16, kv_cache_bytes=1 << 20, max_num_batched_tokens=64, max_num_sequences=8
)
TORCH = ENGINE.model_copy(update={"kernels": "torch"})
UNPACKED = WeightFormat.of_torch(ENGINE, experts_packed=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_planned_weights_are_what_the_network_holds_to_the_byte(reader, tiny, dtype, is_packed):
    engine = TORCH.model_copy(update={"dtype": dtype})
    network = Transformer.load(reader, engine, expert_memory_share=0.0 if is_packed else 0.5)
    weight_format = WeightFormat.of_torch(engine, experts_packed=is_packed)
    assert plan_memory(tiny, engine, weight_format=weight_format).weight_bytes == owned_bytes(network)


@needs_native
@pytest.mark.parametrize("dense_weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("vocab_size", [512, 301])
def test_planned_native_weights_are_what_the_network_holds_to_the_byte(tmp_path, dense_weights, vocab_size):
    model = tiny_config(vocab_size=vocab_size, max_context=1024)
    write_checkpoint(tmp_path, model)
    engine = ENGINE.model_copy(update={"kernels": "native", "dense_weights": dense_weights})
    network = Transformer.load(CheckpointReader.open(tmp_path), engine)
    plan = plan_memory(model, engine, weight_format=WeightFormat.of_native(engine))
    assert plan.weight_bytes == owned_bytes(network)


@pytest.mark.parametrize(
    ("parallel", "num_after"),
    [
        ({"num_ranks": 2}, 8),
        ({"num_ranks": 4, "num_spare_experts": 1}, 4),
        ({"num_ranks": 4, "tolerated_rank_losses": 2}, 4),
        ({"num_ranks": 4, "tolerated_rank_losses": 0}, 2),
        ({"num_ranks": 4, "tolerated_rank_losses": 9}, 8),
        ({"num_ranks": 4, "healing": "restart"}, 2),
        ({"num_ranks": 4, "device": "cuda"}, 2),
        ({}, 8),
    ],
)
def test_room_is_reserved_for_the_experts_of_as_many_ranks_as_may_be_lost(tiny, parallel, num_after):
    parallel = ParallelConfig.model_validate(parallel)
    assert tiny.num_experts == 8
    assert experts_after_losses(tiny, parallel) == num_after
    plan = plan_memory(tiny, EngineConfig(), parallel)
    expert_bytes = plan.expert_bytes // experts_per_rank(tiny, parallel)
    assert plan.reserve_bytes == (num_after - experts_per_rank(tiny, parallel)) * expert_bytes
    assert plan.fixed_bytes >= plan.weight_bytes + plan.reserve_bytes


def test_a_group_without_that_room_is_told_of_the_option(tiny):
    plan = plan_memory(tiny, EngineConfig(), ParallelConfig(num_ranks=2))
    with pytest.raises(ConfigError, match=r"set parallel\.tolerated_rank_losses to 0"):
        check_fits(plan, plan.total_bytes - 1)


@pytest.mark.parametrize(("num_ranks", "num_spare"), [(2, 0), (3, 0), (4, 1)])
def test_the_fullest_rank_is_planned_with_its_spare_slots(reader, tiny, num_ranks, num_spare):
    parallel = ParallelConfig(num_ranks=num_ranks, num_spare_experts=num_spare)
    num_experts = experts_per_rank(tiny, parallel)
    assert num_experts == {2: 4, 3: 3, 4: 3}[num_ranks]
    network = Transformer.load(reader, TORCH, expert_ids=[range(num_experts)] * tiny.num_layers)
    plan = plan_memory(tiny, ENGINE, parallel, weight_format=UNPACKED)
    assert plan.weight_bytes == owned_bytes(network)


def test_a_layers_experts_are_planned_twice_only_where_experts_move(tiny):
    swap_bytes = [
        plan_memory(tiny, ENGINE, ParallelConfig(num_ranks=ranks, num_spare_experts=spare)).swap_bytes
        for ranks, spare in ((1, 1), (2, 0), (2, 1))
    ]
    moving = plan_memory(tiny, ENGINE, ParallelConfig(num_ranks=2, num_spare_experts=1))
    assert swap_bytes == [0, 0, moving.expert_bytes / tiny.num_layers]
    assert sum(moving.parts().values()) == moving.total_bytes


def test_planned_kv_blocks_and_context_are_those_of_the_engine(reader, tiny):
    network = Transformer.load(reader, TORCH)
    for kv_cache_bytes in (1 << 20, 150_001, 40_000):
        engine_config = ENGINE.model_copy(update={"kv_cache_bytes": kv_cache_bytes})
        engine = Engine(network, engine_config)
        plan = plan_memory(tiny, engine_config)
        assert owned_bytes(engine) - owned_bytes(network) >= plan.kv_cache_bytes > 0
        (shape,) = {tuple(t.shape) for t in tensors_of(engine) if t.dim() == 5}
        assert shape[1] == plan.num_kv_blocks
        assert engine.max_context == plan.max_sequence_tokens


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_real_step_stays_within_the_planned_activations_but_not_far_below(reader, tiny, is_packed):
    """The peak is that of the last chunk of a long prompt, whose rows meet all blocks."""
    config = ENGINE.model_copy(update={"max_context": 160})
    network = Transformer.load(
        reader, config.model_copy(update={"kernels": "torch"}), expert_memory_share=0.0 if is_packed else 0.5
    )
    engine = Engine(network, config)
    assert_step_fits(engine, tiny, config, WeightFormat.of_torch(config, experts_packed=is_packed))


@needs_native
def test_a_real_step_of_native_kernels_stays_within_its_own_plan(reader, tiny):
    config = ENGINE.model_copy(update={"max_context": 160, "kernels": "native"})
    engine = Engine(Transformer.load(reader, config), config)
    # Only torch's memory is seen; `test_scratch.py` has what the kernels keep for themselves.
    assert_step_fits(engine, tiny, config, WeightFormat.of_native(config), least=0)


def assert_step_fits(
    engine: Engine, model: ModelConfig, config: EngineConfig, weight_format: WeightFormat, least: float = 0.5
) -> None:
    rng = random.Random(0)
    prompt = tuple(rng.randrange(model.vocab_size) for _ in range(159))
    engine.submit(GenerationRequest("r", prompt, SamplingParams(max_tokens=1)))
    with PeakMemory(engine) as peak:
        while engine.has_work:
            engine.step()
    planned = plan_memory(model, config, weight_format=weight_format).activation_bytes
    assert least * planned < peak.peak_bytes < planned


def test_a_filled_plan_leaves_less_than_a_block(tiny):
    plan = plan_filled(tiny, ENGINE, ParallelConfig(num_ranks=2), 100_000_000, UNPACKED)
    block_bytes = plan.kv_cache_bytes // plan.num_kv_blocks
    assert 0 <= 100_000_000 - plan.total_bytes < block_bytes


def test_the_120b_fits_one_80_gb_card_only_with_packed_experts():
    model = ModelConfig.published("gpt-oss-120b")
    usable = int(0.9 * 80e9)
    packed = WeightFormat.of_torch(EngineConfig(), experts_packed=True)
    assert plan_filled(model, EngineConfig(), ParallelConfig(), usable, packed).num_kv_blocks > 1000
    with pytest.raises(ConfigError, match="experts of the rank 229"):
        plan_filled(model, EngineConfig(), ParallelConfig(), usable, UNPACKED)


def test_a_plan_that_does_not_fit_is_refused_with_every_part_and_the_remedy(tiny):
    plan = plan_memory(tiny, ENGINE)
    check_fits(plan, plan.total_bytes)
    with pytest.raises(ConfigError) as caught:
        check_fits(plan, plan.total_bytes - 7)
    assert caught.value.param == "kv_cache_bytes"
    assert "KV cache 1.05 MB" in caught.value.message
    assert "lower engine.kv_cache_bytes by 7 or more" in caught.value.message


def test_less_kv_cache_is_no_remedy_where_the_weights_alone_do_not_fit(tiny):
    plan = plan_memory(tiny, ENGINE)
    with pytest.raises(ConfigError) as caught:
        check_fits(plan, plan.weight_bytes)
    assert "kv_cache_bytes" not in caught.value.message
    assert "num_ranks" in caught.value.message


def test_the_grammar_compiler_grows_with_the_vocabulary_and_lies_in_the_main_memory(tiny):
    large = ModelConfig.published("gpt-oss-20b")
    plans = [plan_memory(model, ENGINE) for model in (tiny, large)]
    assert plans[0].grammar_bytes / plans[1].grammar_bytes == tiny.vocab_size / large.vocab_size
    on_gpu = plan_memory(large, ENGINE, ParallelConfig(device="cuda"))
    assert on_gpu.fixed_bytes == plans[1].fixed_bytes - plans[1].grammar_bytes


@needs_mallinfo
def test_the_planned_grammar_compiler_is_what_that_of_the_published_models_keeps():
    model = ModelConfig.published("gpt-oss-20b")
    compiler = GrammarCompiler(HarmonyEncoding.load(None), model.vocab_size)
    gc.collect()
    before = allocated_bytes()
    del compiler
    assert plan_memory(model, ENGINE).grammar_bytes == pytest.approx(before - allocated_bytes(), rel=0.05)


def test_buffers_grow_with_the_group_only_as_far_as_skew_is_allowed_for(tiny):
    sizes = [
        plan_memory(tiny, ENGINE, ParallelConfig(num_ranks=ranks, max_padded_bytes=0, shared_memory=False))
        for ranks in (1, 2, 4, 8)
    ]
    dispatch = [plan.dispatch_bytes for plan in sizes]
    assert dispatch[0] == 0 < dispatch[1] < dispatch[2] == dispatch[3]
