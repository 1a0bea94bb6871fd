"""DeviceStream: a device that does in order what the host gives it, while the host goes on.

`CudaStream` has never run on a GPU; the executor above it is tested on a stream that tests play by hand
(`tests/support/recorded_stream.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], None]
"""Kernels and copies on fixed memory, without a wait for the device."""

_WARM_UPS = 2


class Mark(Protocol):
    """A place in the stream."""

    def is_reached(self) -> bool:
        """Whether the device has come here; does not wait."""
        ...

    def wait(self) -> None:
        """Wait until the device has come here; raises what made earlier work fail."""
        ...


class Graph(Protocol):
    """Work that was recorded once: its kernels, shapes and addresses stay."""

    def replay(self) -> None:
        """Append the work to the stream."""
        ...


class DeviceStream(Protocol):
    """One stream of one device."""

    def memory(self, num_bytes: int) -> Tensor:
        """Return uint8 zeros on the device."""
        ...

    def staging(self, num_bytes: int) -> Tensor:
        """Return uint8 memory of the host that the device copies from and to by itself."""
        ...

    def run(self, work: Work) -> None:
        """Append work to the stream."""
        ...

    def record(self, work: Work) -> Graph:
        """Run work, so that it is compiled and its memory is there, and record it."""
        ...

    def mark(self) -> Mark:
        """Mark the end of the stream as it is now."""
        ...


class CudaStream:
    """A CUDA stream of its own, and graphs that share one memory pool. Never run on a GPU.

    Args:
        device: A card.

    Attributes:
        stream: Torch's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # Weights were written by the default stream.
        torch.cuda.synchronize(device)

    def memory(self, num_bytes: int) -> Tensor:
        """See `DeviceStream`."""
        memory = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        torch.cuda.synchronize(self._device)
        return memory

    def staging(self, num_bytes: int) -> Tensor:
        """See `DeviceStream`; pinned, from torch's cache of such memory."""
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def run(self, work: Work) -> None:
        """See `DeviceStream`."""
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            work()

    def record(self, work: Work) -> CudaGraph:
        """See `DeviceStream`; Triton compiles and tunes in the runs before, which no capture could hold."""
        for _ in range(_WARM_UPS):
            self.run(work)
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads go on using the card: one reads experts, NCCL's watches collectives.
        capture = torch.cuda.graph(
            graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
        )
        with torch.inference_mode(), capture:
            work()
        return CudaGraph(graph, self.stream)

    def mark(self) -> CudaMark:
        """See `DeviceStream`."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return CudaMark(event)


class CudaGraph:
    """See `Graph`. Never run on a GPU."""

    def __init__(self, graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
        self._graph = graph
        self._stream = stream

    def replay(self) -> None:
        """See `Graph`."""
        with torch.cuda.stream(self._stream):
            self._graph.replay()


class CudaMark:
    """See `Mark`. Never run on a GPU."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def is_reached(self) -> bool:
        """See `Mark`."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """See `Mark`; lets other threads run meanwhile."""
        self._event.synchronize()
