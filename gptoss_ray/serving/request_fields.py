"""What the types of all requests share: strict fields, refusals in plain words, bounds of lists."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

ItemT = TypeVar("ItemT")

MAX_ITEMS = 16_384
"""Of any list in a request; limits of the configuration are lower. Longer ones are refused unread, because
reading them would hold up everybody's streams."""

MAX_PROMPT_IDS = 200_000
"""Token ids in all prompts of a request together; more than the longest context holds."""


class RequestFields(BaseModel):
    """Base: strict types (no number in place of a string), unknown keys ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def wrong(message: str) -> PydanticCustomError:
    """Return a field validator's error; the message may hold braces of its own."""
    return PydanticCustomError("wrong_value", "{text}", {"text": message})


def at_most(limit: int) -> BeforeValidator:
    """Return a validator that refuses a longer list or mapping before its items are looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > limit:
            raise wrong(f"has {len(value)} items; send at most {limit}")
        return value

    return BeforeValidator(check)


Items = Annotated[list[ItemT], Field(fail_fast=True), at_most(MAX_ITEMS)]
"""A list in a request; behind its first wrong item, which is the error told, no other is looked at."""
