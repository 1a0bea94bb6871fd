"""Whose turn it is: requests of several tenants in one queue, each of which gets its share of the tokens.

Start-time fair queueing. Each tenant has a clock that its own tokens move, the slower the larger its share;
the tenant whose clock is furthest behind is next, and within a tenant the first to come. Whoever was away
comes back at the time of the last one served: absence saves nothing up, and a tenant with few requests is
soon served.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


@dataclass(slots=True)
class _Line(Generic[ItemT]):
    """A tenant's waiting items by their number in order of arrival, what they cost, and its clock."""

    time: float = 0.0
    cost: float = 0.0
    items: OrderedDict[int, tuple[ItemT, float]] = field(default_factory=OrderedDict)


class FairQueue(Generic[ItemT]):
    """Items that wait, with a cost each; `head` is the one whose turn it is."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[ItemT]] = {}
        self._time = 0.0
        self._num_pushed = 0
        self._num_waiting = 0
        self._cost = 0.0

    def __len__(self) -> int:
        return self._num_waiting

    @property
    def cost(self) -> float:
        """Of all that wait."""
        return self._cost

    def num_of(self, tenant: str) -> int:
        """Return how many items of a tenant wait."""
        line = self._lines.get(tenant)
        return 0 if line is None else len(line.items)

    def cost_of(self, tenant: str) -> float:
        """Return what the waiting items of a tenant cost together."""
        line = self._lines.get(tenant)
        return 0.0 if line is None else line.cost

    def push(self, tenant: str, cost: float, item: ItemT) -> int:
        """Let an item wait behind all others of its tenant; returns its number."""
        line = self._line(tenant)
        number = self._num_pushed
        self._num_pushed += 1
        line.items[number] = (item, cost)
        line.cost += cost
        self._cost += cost
        self._num_waiting += 1
        return number

    def head(self) -> tuple[str, int, ItemT] | None:
        """Return the item whose turn it is, with its tenant and number; None where none waits."""
        if not self._num_waiting:
            return None
        waiting = ((tenant, line) for tenant, line in self._lines.items() if line.items)
        tenant, line = min(waiting, key=lambda pair: (pair[1].time, next(iter(pair[1].items))))
        number, (item, _) = next(iter(line.items.items()))
        return tenant, number, item

    def remove(self, tenant: str, number: int) -> None:
        """Let an item wait no more, whether its turn has come or it was given up."""
        line = self._lines[tenant]
        _, cost = line.items.pop(number)
        line.cost -= cost
        self._cost -= cost
        self._num_waiting -= 1

    def serve(self, tenant: str, num_tokens: float, share: float) -> None:
        """Move a tenant's clock by the tokens that it now gets."""
        line = self._line(tenant)
        self._time = max(self._time, line.time)
        line.time += num_tokens / share

    def correct(self, tenant: str, num_tokens: float, share: float) -> None:
        """Move a tenant's clock by what it got more, or less, than was thought when it was served."""
        if tenant in self._lines:
            self._lines[tenant].time += num_tokens / share

    def _line(self, tenant: str) -> _Line[ItemT]:
        """Return a tenant's line; one that has nothing in it starts no earlier than now."""
        line = self._lines.setdefault(tenant, _Line())
        if not line.items:
            line.time = max(line.time, self._time)
        return line
