"""Pages of a response's input items."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.serving.responses.api import PageRequest
from gptoss_ray.serving.responses.objects import InputItemList
from gptoss_ray.serving.responses.stored_response import StoredItem

MAX_PAGE_ITEMS = 100


def input_page(items: Sequence[StoredItem], page: PageRequest) -> InputItemList:
    """Return a page; raise InvalidRequestError where it is too large or begins at an unknown item."""
    if not 1 <= page.limit <= MAX_PAGE_ITEMS:
        raise InvalidRequestError(f"limit is {page.limit}; it must be 1 to {MAX_PAGE_ITEMS}.", param="limit")
    ordered = list(items) if page.order == "asc" else list(reversed(items))
    first = 0 if page.after is None else _place(ordered, page.after, "after") + 1
    last = len(ordered) if page.before is None else _place(ordered, page.before, "before")
    rest = ordered[first:last]
    shown = rest[: page.limit]
    return InputItemList(
        object="list",
        data=[from_json(item.json) for item in shown],
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(rest) > len(shown),
    )


def _place(items: Sequence[StoredItem], item_id: str, param: str) -> int:
    for place, item in enumerate(items):
        if item.id == item_id:
            return place
    raise InvalidRequestError(f"{param} is {item_id[:80]!r}, which is none of the items.", param=param)
