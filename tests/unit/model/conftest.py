from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import FLOAT32

OpenCheckpoint = Callable[..., CheckpointReader]


@pytest.fixture
def open_checkpoint(tmp_path: Path) -> OpenCheckpoint:
    """Writes a random checkpoint of the given config (tiny by default) and opens it."""

    def open_checkpoint(config: ModelConfig | None = None, seed: int = 0) -> CheckpointReader:
        folder = tmp_path / f"checkpoint-{len(list(tmp_path.iterdir()))}"
        write_checkpoint(folder, config or tiny_config(max_context=1024), seed=seed)
        return CheckpointReader.open(folder)

    return open_checkpoint


@pytest.fixture
def transformer(open_checkpoint: OpenCheckpoint) -> Transformer:
    """A tiny network in float32."""
    return Transformer.load(open_checkpoint(), FLOAT32)
