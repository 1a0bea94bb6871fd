"""GroupLayout: which rank holds which experts in an epoch, and what becomes of that in the next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous
from gptoss_ray.parallel.expert_rehoming import rehomed
from gptoss_ray.ranks.recovery import Members, RankId


@dataclass(frozen=True)
class GroupLayout:
    """One epoch's ranks and experts.

    Attributes:
        members: In order of rank.
        placements: Of the experts of every layer, over these ranks.
        version: Of these experts; above all before.
    """

    members: tuple[RankId, ...]
    placements: tuple[LayerPlacement, ...]
    version: int

    @classmethod
    def first(cls, num_ranks: int, num_layers: int, num_experts: int) -> GroupLayout:
        """Return the layout that ranks load in."""
        members = tuple(RankId(number) for number in range(num_ranks))
        return cls(members, (contiguous(num_experts, num_ranks),) * num_layers, version=0)

    def of_next(self, members: Members, num_ranks: int, num_spare: int) -> GroupLayout:
        """Return the layout of the next epoch, in which every expert has a home and few are read.

        Args:
            members: Of that epoch.
            num_ranks: Of the group when none is missing.
            num_spare: Slots of each rank beyond its share.
        """
        order = tuple(sorted(members))
        placements = tuple(
            rehomed(self._held(placement, order, num_ranks), placement.num_experts, num_spare)
            for placement in self.placements
        )
        # A swap may have been under way: it has the next version.
        return GroupLayout(order, placements, self.version + 2)

    def hosts(self, host_ids: Mapping[RankId, str]) -> tuple[str, ...]:
        """Return the host of every rank."""
        return tuple(host_ids[member] for member in self.members)

    def fits(self, num_spare: int) -> bool:
        """Tell whether every rank has at most its share of each layer's experts and its spare slots."""
        return all(
            len(experts) <= len(share) + num_spare
            for placement in self.placements
            for experts, share in zip(
                placement.slots, contiguous(placement.num_experts, placement.num_ranks).slots, strict=True
            )
        )

    def _held(
        self, placement: LayerPlacement, members: Sequence[RankId], num_ranks: int
    ) -> list[tuple[int, ...]]:
        """Return the experts that each member has in memory: a newcomer those that it has loaded."""
        loaded = contiguous(placement.num_experts, num_ranks)
        return [
            placement.local_slots(self.members.index(member))
            if member in self.members
            else loaded.local_slots(member.number)
            for member in members
        ]
