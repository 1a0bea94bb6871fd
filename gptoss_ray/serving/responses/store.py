"""The responses that are kept, in memory, bounded in number, bytes and age. Pure but for its clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable

from gptoss_ray.errors import (
    GptossError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from gptoss_ray.serving.responses.stored_response import EventPage, Progress, StoredItem, StoredResponse
from gptoss_ray.serving.responses.tenant_shelf import EndStatus, StoreEntry, TenantShelf

LEASE_S = 15.0
"""An ingress that has not been heard of for so long has left its background responses."""

MAX_DROPPED_AGES = 1024
"""Of responses that are gone, so many ages and those of as many as are kept are remembered."""


class ResponseStore:
    """Responses by tenant and id.

    Where there are too many, that of the tenant with the most bytes goes which was used least recently; one
    that is worked on stays.

    Args:
        max_responses: Most responses; 0 keeps none.
        max_bytes: Most bytes of JSON; 0 keeps none.
        max_age_s: They are forgotten so long after they were made; 0 keeps none.
        clock: Returns seconds that only go forward.
    """

    def __init__(
        self, *, max_responses: int, max_bytes: int, max_age_s: float, clock: Callable[[], float]
    ) -> None:
        self._max_responses = max_responses if max_age_s > 0 else 0
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._shelves: dict[str, TenantShelf] = {}
        self._by_age: deque[tuple[float, str, str]] = deque()
        self._leases: dict[str, float] = {}
        self._stopped: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """How many responses are kept."""
        return sum(map(len, self._shelves.values()))

    @property
    def num_bytes(self) -> int:
        """How many bytes they take."""
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def put(self, response: StoredResponse) -> bool:
        """Keep a response; return False, and keep nothing, where there is no room for it at all."""
        now_s = self._clock()
        self._forget_old(now_s)
        shelf = self._shelves.setdefault(response.tenant, TenantShelf())
        entry = StoreEntry(response, is_ended=response.owner is None, heard_of_s=now_s)
        shelf.add(entry)
        self._note_age(response, now_s)
        if response.owner is not None:
            self._leases[response.owner] = now_s
        if self._make_room(entry):
            return True
        shelf.drop(response.id)
        return False

    def get(self, tenant: str, response_id: str) -> StoredResponse:
        """Return a response as it is now; raise NotFoundError where the tenant has none of that id."""
        return self._find(tenant, response_id).kept

    def conversation(
        self, tenant: str, response_id: str, *, max_items: int, max_bytes: int
    ) -> list[StoredItem]:
        """Return the items of a response and of all it goes on from, oldest first.

        Raises:
            NotFoundError: One of the responses is not kept.
            InvalidRequestError: The response has not come to its end, or there are more items or bytes.
        """
        parts: list[tuple[StoredItem, ...]] = []
        num_items = num_bytes = 0
        next_id: str | None = response_id
        while next_id is not None:
            kept = self._earlier(tenant, next_id, response_id)
            parts += (kept.output, kept.input)
            num_items += len(kept.input) + len(kept.output)
            num_bytes += sum(len(item.json) for item in (*kept.input, *kept.output))
            if num_items > max_items or num_bytes > max_bytes:
                raise InvalidRequestError(
                    f"The conversation up to response {response_id!r} has more than {max_items} items or "
                    f"{max_bytes} bytes; start another one with what is needed of it."
                )
            next_id = kept.previous_id
        return [item for part in reversed(parts) for item in part]

    def find_items(self, tenant: str, item_ids: Iterable[str]) -> dict[str, StoredItem]:
        """Return those of the items that are in a response of the tenant."""
        self._forget_old(self._clock())
        shelf = self._shelves.get(tenant)
        found = {item_id: shelf.find_item(item_id) for item_id in item_ids} if shelf else {}
        return {item_id: item for item_id, item in found.items() if item is not None}

    def advance(self, tenant: str, response_id: str, progress: Progress) -> bool:
        """Note what a background response has come to; False: nobody wants more of it, it is to stop."""
        try:
            entry = self._find(tenant, response_id)
        except NotFoundError:
            return False
        if entry.is_ended:
            return False
        self._shelves[tenant].advance(entry, progress, now_s=self._clock())
        if self._make_room(entry):
            return True
        self._shelves[tenant].drop_events(entry)
        self._end(entry, "failed", OverloadedError("The events of the response are too many to be kept."))
        return False

    def read_events(self, tenant: str, response_id: str, after: int) -> EventPage:
        """Return the events behind number `after` that are there, a page at most.

        Raises:
            NotFoundError: The tenant has no such response.
            InvalidRequestError: Its events are not kept.
        """
        entry = self._find(tenant, response_id)
        if not entry.kept.keeps_events:
            raise InvalidRequestError(
                f"The events of response {response_id!r} are not kept; create it with background and stream.",
                param="stream",
            )
        return entry.page(after)

    def cancel(self, tenant: str, response_id: str) -> StoredResponse:
        """Stop a background response, unless it has ended, and return it.

        Raises:
            NotFoundError: The tenant has no such response.
            InvalidRequestError: It is none of the background.
        """
        entry = self._find(tenant, response_id)
        if entry.kept.owner is None:
            raise InvalidRequestError(
                f"Response {response_id!r} was not created with background; close its connection to stop it."
            )
        if not entry.is_ended:
            self._stop(entry)
            self._end(entry, "cancelled", None)
        return entry.kept

    def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response, and stop it; raise NotFoundError where the tenant has none of that id."""
        entry = self._find(tenant, response_id)
        if not entry.is_ended:
            self._stop(entry)
        self._shelves[tenant].drop(response_id)

    def renew(self, owner: str, running: Collection[str]) -> set[str]:
        """Note that an ingress lives; return which of its responses were stopped since it last asked.

        One that it no longer works on, and whose end it could not tell, has failed.

        Args:
            owner: The ingress.
            running: Ids of all responses that it works on.
        """
        now_s = self._clock()
        for shelf in self._shelves.values():
            for entry in shelf.left_by(owner, running, before_s=now_s - LEASE_S):
                self._end(entry, "failed", _lost())
        # Without a lease is as good as with an old one.
        self._leases = {name: at_s for name, at_s in self._leases.items() if now_s - at_s <= LEASE_S}
        self._leases[owner] = now_s
        stopped = self._stopped.pop(owner, set())
        self._stopped = {name: ids for name, ids in self._stopped.items() if name in self._leases}
        return stopped

    def _earlier(self, tenant: str, response_id: str, last_id: str) -> StoredResponse:
        try:
            entry = self._find(tenant, response_id)
        except NotFoundError:
            if response_id == last_id:
                raise
            raise NotFoundError(
                f"Response {response_id!r}, from which {last_id!r} goes on, is no longer kept here."
            ) from None
        if not entry.is_ended:
            raise InvalidRequestError(f"Response {response_id!r} has not come to its end.")
        return entry.kept

    def _find(self, tenant: str, response_id: str) -> StoreEntry:
        now_s = self._clock()
        self._forget_old(now_s)
        shelf = self._shelves.get(tenant)
        entry = shelf.use(response_id) if shelf else None
        if entry is None:
            raise NotFoundError(f"Response {response_id[:80]!r} is not kept here.")
        if not entry.is_ended and now_s - self._leases.get(entry.kept.owner or "", -math.inf) > LEASE_S:
            self._end(entry, "failed", _lost())
        return entry

    def _end(self, entry: StoreEntry, status: EndStatus, error: GptossError | None) -> None:
        self._shelves[entry.kept.tenant].end(entry, status, error)

    def _stop(self, entry: StoreEntry) -> None:
        owner = entry.kept.owner
        assert owner is not None, "only what works in the background can be stopped"
        self._stopped.setdefault(owner, set()).add(entry.kept.id)

    def _note_age(self, response: StoredResponse, now_s: float) -> None:
        self._by_age.append((now_s, response.tenant, response.id))
        if len(self._by_age) > 2 * len(self) + MAX_DROPPED_AGES:
            self._by_age = deque(age for age in self._by_age if self._shelves[age[1]].has(age[2]))

    def _forget_old(self, now_s: float) -> None:
        while self._by_age and now_s - self._by_age[0][0] > self._max_age_s:
            _, tenant, response_id = self._by_age.popleft()
            self._shelves[tenant].drop(response_id)

    def _make_room(self, entry: StoreEntry) -> bool:
        """Drop others until all fits; return whether it does. One that is too large by itself drops none."""
        if entry.num_bytes > self._max_bytes:
            return False
        while len(self) > self._max_responses or self.num_bytes > self._max_bytes:
            largest_first = sorted(self._shelves.values(), key=lambda shelf: -shelf.num_bytes)
            if not any(shelf.drop_least_used(keep=entry.kept.id) for shelf in largest_first):
                return False
        return True


def _lost() -> UnavailableError:
    return UnavailableError("The server that worked on this response was lost; create it again.")
