"""Devices and networks by name. Figures are from data sheets (docs/performance-model.md has the sources)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from gptoss_ray.errors import ConfigError

# What a rank can plan with: the rest is for the driver's context, the collectives' library, fragmentation.
USABLE_MEMORY = 0.9


@dataclass(frozen=True)
class Link:
    """What carries rows between ranks.

    Attributes:
        name: As printed.
        bytes_per_s: In one direction.
        latency_s: Of one collective with little in it; an assumption, data sheets have none.
        is_shared_by_node: The ranks of a node share one, else each has its own.
    """

    name: str
    bytes_per_s: float
    latency_s: float
    is_shared_by_node: bool = False


@dataclass(frozen=True)
class Accelerator:
    """What one rank computes on.

    Attributes:
        name: As printed.
        memory_bytes: Capacity.
        memory_bytes_per_s: Peak of its memory.
        flops: Peak of dense bfloat16 matrix products, per second.
        link: To the other ranks of its node.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops: float
    link: Link

    @property
    def usable_bytes(self) -> int:
        """Memory that weights, KV and buffers may take."""
        return int(USABLE_MEMORY * self.memory_bytes)


def _nvlink(generation: int, bytes_per_s: float) -> Link:
    return Link(f"NVLink {generation}", bytes_per_s, latency_s=20e-6)


ACCELERATORS = {
    "a100": Accelerator("A100 SXM 80 GB", 80 * 10**9, 2.039e12, 312e12, _nvlink(3, 300e9)),
    "h100": Accelerator("H100 SXM", 80 * 10**9, 3.35e12, 989.5e12, _nvlink(4, 450e9)),
    "h200": Accelerator("H200 SXM", 141 * 10**9, 4.8e12, 989.5e12, _nvlink(4, 450e9)),
    "b200": Accelerator("B200", 180 * 10**9, 8e12, 2250e12, _nvlink(5, 900e9)),
}
INFINIBAND = Link("InfiniBand NDR 400 Gb/s", 50e9, latency_s=40e-6)
ETHERNET = Link("100 GbE", 12.5e9, latency_s=150e-6, is_shared_by_node=True)
NVLINK, CPU = "nvlink", "cpu"
# Between nodes; NVLink there (a rack in one NVLink domain) has the bandwidth of the accelerator's own.
NETWORKS: dict[str, Link | None] = {NVLINK: None, "infiniband": INFINIBAND, "100gbe": ETHERNET}


def find_accelerator(name: str) -> Accelerator:
    """Return a GPU by its preset's name.

    Raises:
        ConfigError: There is none; the message names the choices.
    """
    return _find("gpu", name, ACCELERATORS, also=(CPU,))


def find_network(name: str, accelerator: Accelerator) -> Link:
    """Return what connects nodes of `accelerator` by its preset's name.

    Raises:
        ConfigError: There is none; the message names the choices.
    """
    return _find("network", name, NETWORKS) or accelerator.link


_T = TypeVar("_T")


def _find(param: str, name: str, presets: Mapping[str, _T], also: tuple[str, ...] = ()) -> _T:
    try:
        return presets[name.lower()]
    except KeyError:
        choices = ", ".join((*presets, *also))
        raise ConfigError(f"no {param} is called {name!r}; choose from {choices}", param=param) from None
