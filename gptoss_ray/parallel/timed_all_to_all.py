"""All-to-alls by the clock: how long a rank stands in them, which is what travelling and waiting cost it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gptoss_ray.parallel.collectives import AllToAll

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ExpertTraffic:
    """What a rank has exchanged with the others for its experts; counts on through epochs and swaps.

    Attributes:
        num_rows: Rows that its own experts have worked on, of whichever rank's tokens.
        all_to_all_s: Seconds in all-to-alls. On a GPU they run beside the host, and this is the time to
            start them.
    """

    num_rows: int = 0
    all_to_all_s: float = 0.0


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
