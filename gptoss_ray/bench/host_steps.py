"""The host's part of decode steps: plan, inputs, launch, commit, on a stream that does nothing.

Where it takes longer than the device's part, the device waits: steps run ahead by no more than one.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest, engine_config
from gptoss_ray.bench.gpu_cases import CHUNK_TOKENS, Row
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.device_executor import DeviceExecutor
from gptoss_ray.engine.device_stream import Work
from gptoss_ray.engine.engine import Engine
from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.step_executor import StepLimits
from gptoss_ray.kernels.device_sampler import DrawInputs
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.transformer import Transformer


class IdleStream:
    """A `DeviceStream`, a graph and a mark whose work is never done."""

    def memory(self, num_bytes: int) -> Tensor:
        """See `DeviceStream`."""
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def staging(self, num_bytes: int) -> Tensor:
        """See `DeviceStream`; what is drawn is token 0."""
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def run(self, work: Work) -> None:
        """See `DeviceStream`."""

    def record(self, work: Work) -> IdleStream:
        """See `DeviceStream`."""
        del work
        return self

    def mark(self) -> IdleStream:
        """See `DeviceStream`."""
        return self

    def replay(self) -> None:
        """See `Graph`."""

    def is_reached(self) -> bool:
        """See `Mark`."""
        return True

    def wait(self) -> None:
        """See `Mark`."""


class _NoSampler:
    def draw(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        raise AssertionError(f"an idle stream computes {len(logits)} rows for {inputs}")


def host_row(case: DecodeCase, num_steps: int) -> Row:
    """Measure `num_steps` steps of drawn tokens; return the figures that are printed."""
    model = tiny_config(num_layers=2, max_context=4 * CHUNK_TOKENS)
    base = EngineConfig(kernels="torch", max_num_batched_tokens=CHUNK_TOKENS)
    config = engine_config(base, model, [case], num_steps)
    network = Transformer.load(DeviceCheckpoint(model, torch.device("cpu")), config)
    engine = Engine(network, config, make_executor=_idle_executor)
    under_test = EngineUnderTest(engine, model, fills_contexts=False)
    cpu_s = []
    began = time.process_time()
    for _ in under_test.steps(case, num_steps):
        ended = time.process_time()
        cpu_s.append(ended - began)
        began = ended
    engine.close()
    return {
        "streams": case.num_streams,
        "tokens": case.context,
        "host_ms": round(1e3 * statistics.median(cpu_s[1:]), 3),
        "least_ms": round(1e3 * min(cpu_s[1:]), 3),
    }


def _idle_executor(
    transformer: Transformer, kv_cache: KVCache, sampler: Sampler, masks: MaskPrefetch, limits: StepLimits
) -> DeviceExecutor:
    return DeviceExecutor(transformer, kv_cache, IdleStream(), _NoSampler(), sampler, masks, limits)
