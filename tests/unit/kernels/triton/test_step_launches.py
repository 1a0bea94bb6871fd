"""The kernels that a step launches, counted, and those that the planner says it launches."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from triton.runtime.interpreter import GridExecutor

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.device_executor import DeviceExecutor
from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.step_buffers import StepBuffers, StepShape
from gptoss_ray.engine.step_executor import StepLimits
from gptoss_ray.engine.step_packing import pad
from gptoss_ray.kernels.triton import blas
from gptoss_ray.kernels.triton.sampler import TritonSampler
from gptoss_ray.kernels.triton.triton_kernels import TritonKernels
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model import transformer as transformer_module
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner import gpu_steps
from gptoss_ray.planner.gpu_steps import decode_step
from gptoss_ray.planner.memory import plan_memory
from gptoss_ray.planner.weights import WeightFormat
from tests.support.live_memory import owned_bytes
from tests.support.recorded_stream import RecordedStream

MODEL = tiny_config(num_layers=3, vocab_size=96)
CPU = torch.device("cpu")
# Of torch's operations, those that start no kernel: views and memory.
NO_KERNEL = {
    *("view", "slice", "select", "unsqueeze", "expand", "alias", "detach", "as_strided", "t", "transpose"),
    *("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view", "reshape", "_reshape_alias"),
}


class Launches(TorchDispatchMode):
    """Counts Triton's launches, and torch's beside them."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.is_inside = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        if not self.is_inside and name not in NO_KERNEL:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def counting(monkeypatch):
    launches, run = Launches(), GridExecutor.__call__

    def count(self, *args, **kwargs):
        launches.names.append(self.fn.__name__)
        launches.is_inside = True
        try:
            return run(self, *args, **kwargs)
        finally:
            launches.is_inside = False

    monkeypatch.setattr(GridExecutor, "__call__", count)
    with launches:
        yield launches


def load(monkeypatch, model=MODEL, **options):
    monkeypatch.setattr(transformer_module, "make_kernels", lambda *_, **__: TritonKernels("cpu", **options))
    return Transformer.load(DeviceCheckpoint(model, CPU), EngineConfig(kernels="torch"))


@pytest.mark.parametrize(
    ("num_rows", "dense_matmuls"), [(1, "batch_invariant"), (3, "batch_invariant"), (3, "cublas")]
)
def test_a_decode_step_launches_what_is_planned(monkeypatch, num_rows, dense_matmuls):
    monkeypatch.setattr(blas, "FEW_ROWS", 2)
    monkeypatch.setattr(gpu_steps, "BLAS_ROWS", 3)
    transformer = load(monkeypatch, dense_matmuls=dense_matmuls)
    shape = (16, MODEL.num_key_value_heads, MODEL.head_dim)
    cache = KVCache(8, *shape, MODEL.layer_types, torch.bfloat16, has_spare_block=True)
    executor = DeviceExecutor(
        transformer,
        cache,
        RecordedStream(),
        TritonSampler(MODEL.vocab_size, (), CPU),
        Sampler(MODEL.vocab_size),
        MaskPrefetch(),
        StepLimits(max_num_sequences=num_rows, max_num_tokens=num_rows, max_context=64),
    )
    step = StepShape.of_decoding(num_rows, 4)
    pad(StepBuffers.over(executor._inputs, step), 0, cache.block_size, cache.spare_block)
    with torch.inference_mode():
        executor._compute(transformer, step, num_rows, num_rows)  # makes what stays for later steps
        with counting(monkeypatch) as launches:
            executor._compute(transformer, step, num_rows, num_rows)
    executor.close()
    planned = decode_step(MODEL, num_rows, 1, by_blas=dense_matmuls == "cublas")
    assert len(launches.names) == planned.num_launches


@pytest.mark.parametrize("dense_weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("sizes", [(64, 64), (96, 160)])
def test_planned_weights_are_what_the_network_holds_to_the_byte(monkeypatch, sizes, dense_weights):
    hidden, width = sizes
    model = tiny_config(num_layers=1, hidden_size=hidden, intermediate_size=width, max_context=256)
    network = load(monkeypatch, model, dense_weights=dense_weights)
    engine = EngineConfig(dense_weights=dense_weights)
    plan = plan_memory(model, engine, weight_format=WeightFormat.of_triton(engine))
    kernels_own = owned_bytes(network.loader)
    tables = model.num_layers * model.num_experts * 2 * 3 * 8  # addresses of experts' matrices
    assert plan.weight_bytes == owned_bytes(network) - kernels_own - tables
