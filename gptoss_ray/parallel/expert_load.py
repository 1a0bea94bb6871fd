"""What a placement of a layer's experts means for the load of every rank.

The load of a rank is the number of (token, expert) pairs that the copy tables of all ranks send to it.
A copy helps only as far as that fixed rule sends tokens to it: the tokens of an expert are divided by
the rank they come from, never finer. Where only the tokens per expert are known, they are taken to come
evenly from all ranks.

All sums are of whole numbers: equal loads give equal results on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gptoss_ray.errors import ConfigError
from gptoss_ray.parallel.expert_placement import LayerPlacement, serving_ranks

Loads = npt.NDArray[np.int64]


class LoadModel:
    """The load that experts bring to ranks; E experts, R ranks.

    Args:
        load: Tokens per expert [E], or per home rank and expert [R, E]; whole numbers >= 0.
        hosts: Host of every rank.

    Raises:
        ConfigError: `load` is not as described.
    """

    def __init__(self, load: npt.ArrayLike, hosts: Sequence[str]) -> None:
        given = np.asarray(load)
        per_home = np.broadcast_to(given, (len(hosts), len(given))) if given.ndim == 1 else given
        is_count = given.dtype.kind in "iu" and not (given < 0).any()
        if not is_count or per_home.ndim != 2 or len(per_home) != len(hosts):
            raise ConfigError(
                f"load is {given.dtype} of shape {list(given.shape)}; give whole numbers >= 0, "
                f"tokens per expert [E] or per home rank and expert [{len(hosts)}, E].",
                param="load",
            )
        self.num_experts = per_home.shape[1]
        self._per_home: Loads = per_home.astype(np.int64)
        self._hosts = tuple(hosts)
        self._known: dict[tuple[int, tuple[int, ...]], Loads] = {}

    def of_expert(self, expert: int, copies: tuple[int, ...]) -> Loads:
        """Return what `expert`, held by the ranks `copies` (ascending), brings to every rank [R]."""
        key = expert, copies
        if key not in self._known:
            loads = np.zeros(len(self._hosts), np.int64)
            np.add.at(loads, list(serving_ranks(copies, self._hosts)), self._per_home[:, expert])
            self._known[key] = loads
        return self._known[key]

    def of_ranks(self, copies: Sequence[tuple[int, ...]]) -> Loads:
        """Return the load of every rank [R], given the ranks that hold each of the E experts."""
        loads = np.zeros(len(self._hosts), np.int64)
        for expert, ranks in enumerate(copies):
            loads += self.of_expert(expert, ranks)
        return loads


def rank_loads(placement: LayerPlacement, load: npt.ArrayLike, hosts: Sequence[str]) -> Loads:
    """Return the load of every rank [R]: tokens, or R-ths of a token where `load` is per expert alone.

    Raises:
        ConfigError: `load` is neither [E] nor [R, E] whole numbers.
    """
    model = LoadModel(load, hosts)
    return model.of_ranks([placement.ranks_of(expert) for expert in range(model.num_experts)])


def imbalance(loads: Loads) -> float:
    """Return largest over mean load: 1 is even, R means that one rank does all; 1 where there is none."""
    return float(loads.max() / loads.mean()) if loads.any() else 1.0
