"""From a model's configuration to an engine: checkpoint, network, KV cache. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.model.transformer import Transformer

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def load_engine(
    config: ServedModelConfig, suppressed_token_ids: Sequence[int], progress: Callable[[float], None]
) -> Engine:
    """Load a checkpoint and build its engine; `progress` is told the fraction loaded, 0 to 1.

    Raises:
        CheckpointError: A file is missing or wrong; the message names it and the tensor.
        ConfigError: The KV memory cannot hold what the configuration promises.
    """
    torch.set_num_threads(config.engine.num_threads)
    transformer = Transformer.load(
        CheckpointReader.open(config.checkpoint),
        dtype=_DTYPES[config.engine.dtype],
        progress=lambda num_done, num_parts: progress(num_done / num_parts),
    )
    return Engine(transformer, config.engine, suppressed_token_ids=suppressed_token_ids)
