"""Finds a placement of a layer's experts that loads the ranks evenly, for the tokens seen lately.

A descent with kicks. Each step exchanges experts between the rank with most load and one other rank (an
expert is moved or copied there, or a copy dropped; and the like in return, or nothing) and takes the
exchange after which the sorted loads are smallest, of equals the one that brings fewest experts to a
rank that lacked them. So a good placement hardly changes. Where no exchange helps and the loads are not
even enough, the placement is shaken by a few exchanges at random, from a fixed seed, and descends again,
some tens of times; the best is kept (iterated local search: Lourenço, Martin and Stützle, 2003).

That need not be the best there is: with no spare slots the problem is multiprocessor scheduling, which
is NP-hard. The unit test compares with the best of all placements on small cases and holds the gap seen
there. What a placement means for the load is in `expert_load.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from gptoss_ray.parallel.expert_load import LoadModel, Loads, imbalance
from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous

NUM_KICKS = 32
EXCHANGES_PER_KICK = 3


def balanced(
    load: npt.ArrayLike,
    num_ranks: int,
    num_spare: int,
    hosts: Sequence[str],
    *,
    current: LayerPlacement | None = None,
    enough: float = 1.02,
) -> LayerPlacement:
    """Return a placement under which the largest rank load is small, few changes away from `current`.

    A rank has as many slots as `contiguous` gives it experts, and `num_spare` more; slots that would not
    help stay empty. An expert that stays on a rank keeps its order there, what is new comes behind.

    Args:
        load: Tokens per expert [E], or per home rank and expert [num_ranks, E]; whole numbers >= 0.
        num_ranks: Ranks of the group, at most E.
        num_spare: Slots of each rank beyond its share of the experts.
        hosts: Host of every rank.
        current: Where the experts are now; contiguous where not given.
        enough: The imbalance, largest over mean load, at which to stop.

    Raises:
        ConfigError: `load` is not as described, or there are more ranks than experts.
    """
    assert len(hosts) == num_ranks and enough >= 1
    model = LoadModel(load, hosts)
    start = contiguous(model.num_experts, num_ranks)
    capacity = np.array([len(experts) + num_spare for experts in start.slots])
    start = current or start
    best = _Draft(model, start, capacity, [start.ranks_of(expert) for expert in range(model.num_experts)])
    best.descend(enough)
    random = Random(0)
    for _ in range(NUM_KICKS):
        if imbalance(best.loads) <= enough:
            break
        draft = _Draft(model, start, capacity, best.copies)
        draft.kick(random)
        draft.descend(enough)
        best = min(best, draft, key=_Draft.cost)
    return best.placement()


@dataclass(frozen=True)
class _Change:
    """One expert gets other ranks; what that adds to loads [R], slots taken [R] and experts fetched."""

    expert: int
    copies: tuple[int, ...]
    loads: Loads
    slots: Loads
    num_fetched: int


_Exchange = tuple[_Change, ...]


class _Draft:
    """A placement on its way: the ranks of every expert, and what follows from them."""

    def __init__(
        self, model: LoadModel, start: LayerPlacement, capacity: Loads, copies: Sequence[tuple[int, ...]]
    ) -> None:
        self.model = model
        self.start = start
        self.capacity = capacity
        self.copies = list(copies)
        self.used = np.bincount([rank for ranks in copies for rank in ranks], minlength=len(capacity))
        self.loads = model.of_ranks(copies)
        assert (self.used <= capacity).all(), "the current placement fits the slots"

    def cost(self) -> tuple[int, int]:
        """Return the largest load, and the experts to be fetched by a rank that lacked them at the start."""
        num_fetched = sum(self._num_fetched(expert, ranks) for expert, ranks in enumerate(self.copies))
        return int(self.loads.max()), num_fetched

    def descend(self, enough: float) -> None:
        """Make the best exchange of the rank with most load, until none helps or it is even enough."""
        while imbalance(self.loads) > enough and (exchange := self._best_exchange()) is not None:
            self._apply(exchange)

    def kick(self, random: Random) -> None:
        """Make some exchanges at random, for better or worse; what gives more load away is likelier.

        An expert hotter than a rank's fair share needs one more copy and room around it at once, which
        no single exchange brings: without that preference such a placement stays stuck.
        """
        for _ in range(EXCHANGES_PER_KICK):
            source, target = random.sample(range(len(self.capacity)), 2)
            given, returned = self._offers(source, target)
            possible = np.argwhere(self._is_possible(given, returned)).tolist()
            if possible:
                weights = [1 - int(given[row].loads[source]) for row, _ in possible]
                row, column = random.choices(possible, weights)[0]
                self._apply(_exchange(given[row], returned[column]))

    def placement(self) -> LayerPlacement:
        """Return the placement as slots."""
        slots = []
        for rank, before in enumerate(self.start.slots):
            held = {expert for expert, ranks in enumerate(self.copies) if rank in ranks}
            stay = [expert for expert in before if expert in held]
            slots.append((*stay, *sorted(held.difference(before))))
        return LayerPlacement(tuple(slots))

    def _apply(self, exchange: _Exchange) -> None:
        for change in exchange:
            self.copies[change.expert] = change.copies
            self.used += change.slots
            self.loads += change.loads

    def _best_exchange(self) -> _Exchange | None:
        hottest = int(self.loads.argmax())
        best, best_key = None, _key(self.loads, 0)
        for other in range(len(self.capacity)):
            for key, exchange in self._lowest(hottest, other) if other != hottest else ():
                if key < best_key:
                    best, best_key = exchange, key
        return best

    def _lowest(self, source: int, target: int) -> Iterator[tuple[list[int], _Exchange]]:
        """Yield the exchanges of two ranks after which the largest load is smallest, with their keys."""
        given, returned = self._offers(source, target)
        possible = self._is_possible(given, returned)
        if not possible.any():
            return
        loads = self.loads + _sums([change.loads for change in given], [change.loads for change in returned])
        largest = loads.max(-1)
        for row, column in np.argwhere(possible & (largest == largest[possible].min())):
            exchange = _exchange(given[row], returned[column])
            yield _key(loads[row, column], sum(change.num_fetched for change in exchange)), exchange

    def _offers(self, source: int, target: int) -> tuple[list[_Change], list[_Change]]:
        """Return what `source` can give to `target`, and what it can get in return: first, nothing."""
        zeros = np.zeros_like(self.loads)
        return self._changes(source, target), [
            _Change(-1, (), zeros, zeros, 0),
            *self._changes(target, source),
        ]

    def _is_possible(self, given: Sequence[_Change], returned: Sequence[_Change]) -> npt.NDArray[np.bool_]:
        """Tell of every pair [given, returned] whether the slots suffice and the experts differ."""
        if not given:
            return np.zeros((0, len(returned)), np.bool_)
        used = self.used + _sums([change.slots for change in given], [change.slots for change in returned])
        experts = np.array([change.expert for change in given])
        others = np.array([change.expert for change in returned])
        possible: npt.NDArray[np.bool_] = (used <= self.capacity).all(-1) & (experts[:, None] != others)
        return possible

    def _changes(self, source: int, target: int) -> list[_Change]:
        """Return what can become of the experts on `source`: moved or copied to `target`, or dropped."""
        changes = []
        for expert, ranks in enumerate(self.copies):
            if source not in ranks:
                continue
            others = set(ranks) - {source}
            if target not in others:
                changes += [self._change(expert, {*others, target}), self._change(expert, {*ranks, target})]
            if others:
                changes.append(self._change(expert, others))
        return changes

    def _change(self, expert: int, ranks: set[int]) -> _Change:
        before, after = self.copies[expert], tuple(sorted(ranks))
        slots = np.zeros_like(self.used)
        slots[list(after)] += 1
        slots[list(before)] -= 1
        loads = self.model.of_expert(expert, after) - self.model.of_expert(expert, before)
        num_fetched = self._num_fetched(expert, after) - self._num_fetched(expert, before)
        return _Change(expert, after, loads, slots, num_fetched)

    def _num_fetched(self, expert: int, ranks: Sequence[int]) -> int:
        return len(set(ranks).difference(self.start.ranks_of(expert)))


def _exchange(given: _Change, returned: _Change) -> _Exchange:
    """Return the pair without the nothing."""
    return (given, returned) if returned.copies else (given,)


def _key(loads: Loads, num_fetched: int) -> list[int]:
    """Return what orders exchanges: the loads from the largest down, then the experts fetched."""
    return [*sorted(loads.tolist(), reverse=True), num_fetched]


def _sums(rows: Sequence[Loads], columns: Sequence[Loads]) -> Loads:
    """Return the sums [rows, columns, R] of every row with every column."""
    return np.stack(rows)[:, None] + np.stack(columns)[None]
