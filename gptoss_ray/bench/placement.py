"""Shows what spare expert slots are worth: rank loads under skewed gates, before and after balancing.

Loads are Zipf's: the i-th hottest expert of a layer gets tokens in proportion to i^-exponent. In the
order `sorted` the hottest experts are neighbours, so that a contiguous placement puts them on one rank;
in `shuffled` they lie at random, from a fixed seed. Imbalance is largest over mean rank load: a layer
takes as long as its slowest rank, so the mean rank idles the rest of that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptoss_ray.parallel.expert_balance import balanced
from gptoss_ray.parallel.expert_load import Loads, imbalance, rank_loads
from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous

NUM_TOKENS = 1_000_000


@dataclass(frozen=True)
class Group:
    """A group of ranks that shares a layer's experts.

    Attributes:
        num_experts: Of a layer.
        num_ranks: Of the group.
        num_hosts: The ranks are spread over, evenly.
    """

    num_experts: int
    num_ranks: int
    num_hosts: int = 1

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host of every rank."""
        per_host = self.num_ranks // self.num_hosts
        return tuple(f"host-{rank // per_host}" for rank in range(self.num_ranks))

    def __str__(self) -> str:
        hosts = f" on {self.num_hosts} hosts" if self.num_hosts > 1 else ""
        return f"{self.num_experts} experts, {self.num_ranks} ranks{hosts}"


GROUPS = (Group(128, 8), Group(128, 16, num_hosts=2), Group(32, 4))


@dataclass(frozen=True)
class PlacementResult:
    """One load under a contiguous and a balanced placement; rank loads [R] in R-ths of a token."""

    group: Group
    order: str
    exponent: float
    num_spare: int
    before: Loads
    after: Loads
    num_fetched: int

    def row(self) -> dict[str, float | int | str]:
        """Return the figures that are printed; `fetched`: experts that a rank had to load."""
        slots_per_rank = self.group.num_experts / self.group.num_ranks
        return {
            "group": str(self.group),
            "order": self.order,
            "exponent": self.exponent,
            "spare_slots": f"{self.num_spare / slots_per_rank:.1%}",
            "before": round(imbalance(self.before), 3),
            "after": round(imbalance(self.after), 3),
            "fetched": self.num_fetched,
        }


def zipf_load(num_experts: int, exponent: float, *, seed: int | None = None) -> Loads:
    """Return tokens per expert [E], hottest first, or shuffled with a seed."""
    shares = np.arange(1, num_experts + 1, dtype=np.float64) ** -exponent
    if seed is not None:
        np.random.default_rng(seed).shuffle(shares)
    load: Loads = np.rint(NUM_TOKENS * shares / shares.sum()).astype(np.int64)
    return load


def run(
    groups: Sequence[Group] = GROUPS,
    *,
    exponents: Sequence[float] = (1.0, 1.2, 1.5),
    spare_fractions: Sequence[float] = (0.0, 0.125),
) -> Iterable[PlacementResult]:
    """Yield the results of every group, order and exponent with each fraction of spare slots."""
    for group in groups:
        for order, seed in (("sorted", None), ("shuffled", 0)):
            for exponent in exponents:
                load = zipf_load(group.num_experts, exponent, seed=seed)
                for fraction in spare_fractions:
                    num_spare = round(fraction * group.num_experts / group.num_ranks)
                    yield _compare(group, order, exponent, load, num_spare)


def _compare(group: Group, order: str, exponent: float, load: Loads, num_spare: int) -> PlacementResult:
    before = contiguous(group.num_experts, group.num_ranks)
    after = balanced(load, group.num_ranks, num_spare, group.hosts)
    return PlacementResult(
        group,
        order,
        exponent,
        num_spare,
        rank_loads(before, load, group.hosts),
        rank_loads(after, load, group.hosts),
        _num_fetched(before, after),
    )


def _num_fetched(before: LayerPlacement, after: LayerPlacement) -> int:
    pairs = zip(before.slots, after.slots, strict=True)
    return sum(len(set(new).difference(old)) for old, new in pairs)


def markdown_table(results: Sequence[PlacementResult]) -> str:
    """Return the rows as a Markdown table."""
    rows = [result.row() for result in results]
    lines = [[name.replace("_", " ") for name in rows[0]], ["---"] * len(rows[0])]
    lines += [[str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(results: Sequence[PlacementResult], path: Path) -> None:
    """Draw the load of every rank, relative to the mean, before and after; one panel a result.

    Needs matplotlib, which is installed with the extra `dev`.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (a development dependency)

    num_columns = min(4, len(results))
    num_rows = -(-len(results) // num_columns)
    figure = Figure(figsize=(3.6 * num_columns, 2.6 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for result, panel in zip(results, panels, strict=False):
        ranks = np.arange(result.group.num_ranks)
        for label, loads, offset in (("before", result.before, -0.2), ("after", result.after, 0.2)):
            panel.bar(ranks + offset, loads / loads.mean(), width=0.4, label=label)
        panel.axhline(1.0, color="black", linewidth=0.8)
        row = result.row()
        panel.set_title(
            f"{result.group}\n{result.order}, exponent {result.exponent:g}, {row['spare_slots']} spare",
            fontsize=8,
        )
        panel.set_xlabel("rank")
        panel.set_ylabel("load / mean")
        panel.legend(fontsize=7)
    for panel in panels:
        panel.set_visible(False)
    figure.savefig(path)
