from __future__ import annotations

from pathlib import Path

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    return tiny_config(max_context=1024)


@pytest.fixture(scope="session")
def reader(tiny: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> CheckpointReader:
    folder: Path = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder, tiny)
    return CheckpointReader.open(folder)
