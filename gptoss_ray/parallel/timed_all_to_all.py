"""All-to-alls by the clock: how long a rank stands in them, which is what travelling and waiting cost it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptoss_ray.parallel.collectives import AllToAll


@dataclass
class ExpertTraffic:
    """What a rank has exchanged with the others for its experts; counts on through epochs and swaps.

    Attributes:
        num_rows: int64 [], rows that its own experts have worked on, of whichever rank's tokens; a tensor,
            as the device may be the only one to know.
        all_to_all_s: Seconds in all-to-alls. On a GPU they run beside the host, and this is the time to
            start them; those of a graph take the host none.
    """

    num_rows: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    all_to_all_s: float = 0.0

    @classmethod
    def on(cls, device: torch.device) -> ExpertTraffic:
        """Return none as yet, to be counted on a device."""
        return cls(torch.zeros((), dtype=torch.int64, device=device))


class TimedAllToAll:
    """An `AllToAll` that is timed.

    Args:
        collectives: What it is done with.
        traffic: Where its time is added.
    """

    def __init__(self, collectives: AllToAll, traffic: ExpertTraffic) -> None:
        self._collectives = collectives
        self._traffic = traffic

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `AllToAll.all_to_all`."""
        started_at = time.perf_counter()
        try:
            return self._collectives.all_to_all(send, send_counts, recv_counts, out)
        finally:
            self._traffic.all_to_all_s += time.perf_counter() - started_at
