"""Several programs that work on one result, of which the last to arrive puts it together.

Each stores its part and counts itself in. The last finds all parts stored, adds them in their order, whoever
was last, and sets the counter back to zero for the next launch. So one launch does for a sum that is split,
and the sum's bits depend on nothing but where it is split.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def is_last(counter_ptr, num_programs):
    """Count this program in; whether all others have stored their parts."""
    tl.debug_barrier()
    num_before = tl.atomic_add(counter_ptr, 1, sem="acq_rel")
    last = num_before == num_programs - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


class ArrivalCounters:
    """Zeros on the device, which every launch leaves as zeros. Not for two streams at once.

    Args:
        device: Where they live.
    """

    MAX_RESULTS = 1 << 16

    def __init__(self, device: torch.device) -> None:
        self._counters = torch.zeros(self.MAX_RESULTS, dtype=torch.int32, device=device)

    def of(self, num_results: int) -> Tensor:
        """Return counters int32 for so many results."""
        assert num_results <= self.MAX_RESULTS, f"{num_results} results share a sum"
        return self._counters
