"""How long an engine takes from nothing to its first token, and how much memory on the way."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gptoss_ray.bench.engine_cases import EngineUnderTest
from gptoss_ray.bench.process_memory import watching_memory
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.model.mapped_memory import forget_path
from gptoss_ray.ranks.engine_loader import load_engine

_PROMPT_TOKENS = 8


@dataclass(frozen=True)
class EngineStart:
    """One start.

    Attributes:
        kind: Which start of which files.
        load_s: Until the engine takes requests.
        first_token_s: From there to the first token of a prompt of 8 tokens, which touches weights first.
        memory: Peaks in GB until then.
    """

    kind: str
    load_s: float
    first_token_s: float
    memory: dict[str, float]

    def row(self) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        return {
            "start": self.kind,
            "load_s": round(self.load_s, 2),
            "first_token_s": round(self.first_token_s, 2),
            **self.memory,
        }


def start_here(config: ServedModelConfig, model: ModelConfig, kind: str) -> tuple[Engine, EngineStart]:
    """Start an engine in this process; imports are done before and do not count."""
    with watching_memory() as memory:
        began = time.perf_counter()
        engine = load_engine(config, 0, None, (), lambda _: None)
        load_s = time.perf_counter() - began
        first_token_s = EngineUnderTest(engine, model).prefill(_PROMPT_TOKENS)
    return engine, EngineStart(kind, load_s, first_token_s, memory.row())


def start_in_child(config: ServedModelConfig, model: ModelConfig, kind: str) -> EngineStart:
    """Start an engine in a process of its own, which ends afterwards."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_start, config, model, kind).result()


def _start(config: ServedModelConfig, model: ModelConfig, kind: str) -> EngineStart:
    return start_here(config, model, kind)[1]


def forget_cached(folders: Iterable[Path]) -> bool:
    """Ask the system to drop the files' pages from memory, so that they come from disk.

    Returns:
        Whether the system takes such a wish; pages that a process maps stay.
    """
    return all(forget_path(path) for folder in folders for path in folder.rglob("*") if path.is_file())
