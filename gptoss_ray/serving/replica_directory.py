"""How busy a model's replicas are, as the router of this process knows: it writes, whoever waits reads.

Serve keeps its routers to itself, in a thread of their own: they are met here, by the deployment's name.
"""

from __future__ import annotations

from collections.abc import Mapping


class ReplicaDirectory:
    """The replicas of one deployment. What is read is replaced whole, so that no lock is needed."""

    def __init__(self) -> None:
        self._num_seats = 0
        self._num_live: Mapping[str, int] = {}

    def note(self, num_live: Mapping[str, int], num_seats: int) -> None:
        """Take how many requests each replica has, by its name, and works on at once."""
        self._num_live, self._num_seats = dict(num_live), num_seats

    def has_room_beside(self, name: str) -> bool:
        """Return whether a replica that is less busy than this one has a free seat."""
        num_live = self._num_live
        own = num_live.get(name, 0)
        return any(num < min(own, self._num_seats) for other, num in num_live.items() if other != name)


_DIRECTORIES: dict[str, ReplicaDirectory] = {}


def replica_directory(deployment: str) -> ReplicaDirectory:
    """Return the one of a deployment in this process."""
    return _DIRECTORIES.setdefault(deployment, ReplicaDirectory())
