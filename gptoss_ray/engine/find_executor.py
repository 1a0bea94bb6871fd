"""Which executor a network's device wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.step_executor import StepExecutor, StepLimits
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.transformer import Transformer

MakeExecutor = Callable[[Transformer, KVCache, Sampler, MaskPrefetch, StepLimits], StepExecutor]
"""Given a network, a KV cache with a spare block, what draws on the host, and what to have room for."""


def find_executor(
    transformer: Transformer, config: EngineConfig, suppressed_token_ids: Sequence[int]
) -> MakeExecutor | None:
    """Return what makes a device's executor; None: steps are computed when they are launched, as on CPUs."""
    if transformer.embedding.device.type == "cpu":
        return None
    return partial(_on_card, config, tuple(suppressed_token_ids))


def _on_card(
    config: EngineConfig,
    suppressed_token_ids: Sequence[int],
    transformer: Transformer,
    kv_cache: KVCache,
    sampler: Sampler,
    masks: MaskPrefetch,
    limits: StepLimits,
) -> StepExecutor:
    """Return an executor on the card of the weights. Never run on a GPU.

    A rank alone has all its graphs then; a group records them in its first step, when its ranks have met.
    """
    from gptoss_ray.engine.device_executor import DeviceExecutor  # noqa: PLC0415
    from gptoss_ray.engine.device_stream import CudaStream  # noqa: PLC0415
    from gptoss_ray.kernels.triton.sampler import TritonSampler  # noqa: PLC0415  (imports triton)

    device = transformer.embedding.device
    executor = DeviceExecutor(
        transformer,
        kv_cache,
        CudaStream(device),
        TritonSampler(transformer.config.vocab_size, suppressed_token_ids, device),
        sampler,
        masks,
        limits,
        records_graphs=config.step_graphs,
    )
    if transformer.exchange is None:
        executor.record_all()
    return executor
