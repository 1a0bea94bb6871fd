"""What an EngineReplica says on the routed call of a request; the tokens themselves take another way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestQueued:
    """The first item where the request has to wait for its turn; others begin with `RequestRouted`.

    `replica_name` is Serve's: the unique id of the replica at which it waits.
    """

    replica_name: str


@dataclass(frozen=True, slots=True)
class RequestRouted:
    """The rank (by its actor's name) whose token stream carries the request."""

    rank_name: str


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """The last item: the rank holds nothing of the request any more."""
