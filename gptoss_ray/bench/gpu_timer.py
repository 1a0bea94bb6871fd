"""Seconds of work on a card, by the card's own clock; and what the card gives at most. Never run on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from gptoss_ray.engine.device_stream import CudaStream
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.gpu_steps import Ceilings

_COPY_BYTES = 4 << 30
_MATMUL_SIZE = 8192
_REPEATS = 20
_WARM_UPS = 3


def find_card() -> torch.device:
    """Return the card to measure.

    Raises:
        ConfigError: There is none.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "`bench gpu` found no CUDA device; run it where there is one, or add --accounting for what "
            "the steps cost on paper."
        )
    return torch.device("cuda", torch.cuda.current_device())


def card_row(device: torch.device) -> dict[str, float | int | str]:
    """Return what a reader of figures must know of a card."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "card": properties.name,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "processors": properties.multi_processor_count,
        "cuda": torch.version.cuda or "",
        "torch": torch.__version__,
    }


def time_work(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Return the median seconds of work on the current stream, between two events."""
    for _ in range(_WARM_UPS):
        work()
    pairs = []
    for _ in range(repeats):
        began, ended = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        began.record()
        work()
        ended.record()
        pairs.append((began, ended))
    torch.cuda.synchronize()
    return statistics.median(float(began.elapsed_time(ended)) for began, ended in pairs) / 1e3


def time_recorded(stream: CudaStream, work: Callable[[], None]) -> float:
    """Return the median seconds of work that is replayed from a graph, launches by the host left out."""
    graph = stream.record(work)
    with torch.cuda.stream(stream.stream):
        return time_work(graph.replay)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Return what a copy within the card's memory and a square bfloat16 matmul reach."""
    return Ceilings(
        bytes_per_s=2 * _COPY_BYTES / _copy_s(device), flops=2 * _MATMUL_SIZE**3 / _matmul_s(device)
    )


def _copy_s(device: torch.device) -> float:
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return time_work(lambda: target.copy_(source))


def _matmul_s(device: torch.device) -> float:
    shape = (_MATMUL_SIZE, _MATMUL_SIZE)
    left, right = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
    return time_work(lambda: left @ right)
