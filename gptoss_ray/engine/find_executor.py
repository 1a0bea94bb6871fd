"""How an engine is given what computes its steps."""

from __future__ import annotations

from collections.abc import Callable

from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.step_executor import StepExecutor, StepLimits
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.transformer import Transformer

MakeExecutor = Callable[[Transformer, KVCache, Sampler, MaskPrefetch, StepLimits], StepExecutor]
"""Given a network, a KV cache with a spare block, what draws on the host, and what to have room for."""
