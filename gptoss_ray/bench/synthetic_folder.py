"""Random checkpoints for measuring, written once and found again by the next run."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gptoss_ray.checkpoint.layout import stored_tensors
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.errors import ConfigError

SHAPES = ("gpt-oss-20b", "gpt-oss-120b", "tiny")
_VALUE_BYTES = 2
# What stays free: a full disk harms more than a benchmark that does not run.
_SPARE_BYTES = 1_000_000_000


def default_cache() -> Path:
    """Return where checkpoints for measuring lie: in the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "gptoss-ray" / "bench"


def shape_of(name: str, num_layers: int | None = None) -> ModelConfig:
    """Return a published or the tiny shape, perhaps with another number of layers.

    Raises:
        ConfigError: There is no such shape.
    """
    if name not in SHAPES:
        raise ConfigError(f"shape is {name!r}; choose from {', '.join(SHAPES)}", param="shape")
    config = tiny_config() if name == "tiny" else ModelConfig.published(name)
    return config if num_layers is None else config.replace(num_layers=num_layers)


def checkpoint_bytes(config: ModelConfig) -> int:
    """Return the bytes of all tensors of a checkpoint."""
    return sum(
        math.prod(tensor.shape) * (1 if tensor.dtypes == ("U8",) else _VALUE_BYTES)
        for tensor in stored_tensors(config, "huggingface")
    )


def check_free_space(folder: Path, num_bytes: int) -> None:
    """Refuse to fill a disk: ConfigError with what is needed and what is free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < num_bytes + _SPARE_BYTES:
        raise ConfigError(
            f"{folder} needs {num_bytes / 1e9:.1f} GB, but {free_bytes / 1e9:.1f} GB are free there; "
            "free some, give a folder on another disk, or ask for fewer layers."
        )


def synthetic_folder(
    name: str,
    num_layers: int | None = None,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder of a random checkpoint of a shape, written now unless it is there.

    Args:
        name: One of `SHAPES`.
        num_layers: None: the shape's own.
        cache: Folder of such checkpoints; None: the user's cache.
        progress: Told of (bytes written, bytes in all).

    Raises:
        ConfigError: No such shape, or the disk is too full.
    """
    config = shape_of(name, num_layers)
    folder = (cache or default_cache()) / f"{name}-{config.num_layers}-layers"
    if not (folder / "config.json").exists():
        check_free_space(folder, checkpoint_bytes(config))
        # What a run that was stopped has left: without config.json it is no checkpoint.
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(folder, config, progress=progress)
    return folder
