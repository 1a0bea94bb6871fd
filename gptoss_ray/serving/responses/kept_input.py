"""Items of a request as they are kept and listed: ids filled in, contents as parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptoss_ray.serving.responses.input_items import AnyInputItem, MessageItem
from gptoss_ray.serving.responses.item_writer import new_id
from gptoss_ray.serving.responses.stored_response import StoredItem, stored_items

_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
}


def kept_input(items: Iterable[AnyInputItem]) -> tuple[StoredItem, ...]:
    """Return items for the store."""
    return stored_items(_listed(item) for item in items)


def _listed(item: AnyInputItem) -> dict[str, Any]:
    fields = item.model_dump(exclude_none=True)
    fields |= {"id": item.id or new_id(_ID_PREFIXES[item.type]), "status": item.status or "completed"}
    if isinstance(item, MessageItem):
        kind = "output_text" if item.role == "assistant" else "input_text"
        part: dict[str, Any] = {"type": kind, "text": item.content or ""}
        if item.role == "assistant":
            part["annotations"] = []
        fields["content"] = [part]
    return fields
