"""The planned buffers of native kernels are held to what a real step leaves allocated, and to the sources."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.kernels import native
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner import scratch
from gptoss_ray.planner.memory import plan_memory
from gptoss_ray.planner.weights import WeightFormat
from tests.support.allocated_memory import allocated_bytes, needs_mallinfo
from tests.support.backends import needs_native

ENGINE = EngineConfig(
    kernels="native",
    kv_cache_bytes=4 << 20,
    max_num_batched_tokens=256,
    max_num_sequences=1,
    prefix_cache=False,
)
SOURCES = Path(native.__file__).parent / "src"


def planned_bytes(model: ModelConfig, engine: EngineConfig, parallel: ParallelConfig | None = None) -> int:
    return plan_memory(model, engine, parallel, weight_format=WeightFormat.of_native(engine)).scratch_bytes


@needs_native
@needs_mallinfo
@pytest.mark.parametrize("context", [512, 4096])
def test_planned_buffers_are_what_a_real_prompt_leaves_allocated(tmp_path, context):
    """A context of several splits adds their states; no buffer is as large as a huge page."""
    model = tiny_config(intermediate_size=256, max_context=context)
    write_checkpoint(tmp_path, model)

    def left_bytes() -> int:
        engine = Engine(Transformer.load(CheckpointReader.open(tmp_path), ENGINE), ENGINE)
        prompt = tuple(position % model.vocab_size for position in range(context - 1))
        engine.submit(GenerationRequest("r", prompt, SamplingParams(max_tokens=1)))
        gc.collect()
        before = allocated_bytes()
        while engine.has_work:
            engine.step()
        gc.collect()
        return allocated_bytes() - before

    left_bytes()  # what is made once in a process
    assert left_bytes() == pytest.approx(planned_bytes(model, ENGINE), rel=0.05)


def test_kernels_of_torch_keep_nothing_and_a_rank_of_a_group_no_rows_that_torch_holds():
    model = ModelConfig.published("gpt-oss-20b")
    in_torch = plan_memory(model, ENGINE, weight_format=WeightFormat.of_torch(ENGINE, experts_packed=True))
    assert in_torch.scratch_bytes == 0
    alone, grouped = (planned_bytes(model, ENGINE, ParallelConfig(num_ranks=ranks)) for ranks in (1, 2))
    num_rows = ENGINE.max_num_batched_tokens * model.num_experts_per_token
    # Twice the rows pass gate and up, SwiGLU and packing; none are sorted here.
    difference = num_rows * 2 * (4 * model.intermediate_size - 2 * model.hidden_size)
    assert grouped - alone == pytest.approx(difference, rel=0.1)


def test_splits_take_no_more_than_their_limit_for_each_thread():
    model = ModelConfig.published("gpt-oss-20b")
    one, eight = (
        planned_bytes(model, ENGINE.model_copy(update={"num_threads": threads})) for threads in (1, 8)
    )
    assert eight - one == 7 * scratch._SPLIT_BYTES_PER_THREAD


@pytest.mark.parametrize(
    ("file", "constant"),
    [
        ("thread_pool.cpp", "kHugePage = size_t{2} << 20;"),
        ("attention_load.inl", "kSplitKeys = 1024;"),
        ("attention.inl", "kSharedBytesPerThread = size_t{4} << 20;"),
        ("softmax_state.inl", "kMaxGroupHeads = 16;"),
        ("vec_portable.h", "kLanes = 16;"),
    ],
)
def test_the_constants_of_the_kernels_are_still_those_that_are_planned(file, constant):
    assert constant in (SOURCES / file).read_text()
