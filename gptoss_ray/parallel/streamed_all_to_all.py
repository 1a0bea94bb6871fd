"""All-to-alls in the order of a device's own work: the host goes on, and waits once for all of a step.

So a graph can hold them. Later work of the same stream may use at once what comes. The host may use nothing
that is made of it before `wait` has returned: where a rank is lost, what is received is garbage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gptoss_ray.parallel.collectives import AllToAll


class StreamedAllToAll(AllToAll, Protocol):
    """An `AllToAll` whose results are there for the device, not yet for the host."""

    def wait(self, is_over: Callable[[], bool]) -> None:
        """Return once the device has done what it was given, and all exchanges in it were whole.

        Args:
            is_over: Whether the device has come to the end of it; asked until it has.

        Raises:
            GroupBrokenError: That takes longer than the deadline, or the group is no longer whole.
        """
