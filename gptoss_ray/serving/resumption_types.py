"""What a client sends back to go on with an answer whose stream broke."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gptoss_ray.serving.request_fields import MAX_ITEMS, MAX_PROMPT_IDS, Items, RequestFields, at_most

MAX_UNIX_TIME = 253_402_300_799
"""The last second of the year 9999; a chat's prompt tells the day."""


class ResumedChoice(RequestFields):
    """What the client has of one choice: the token ids of all its pieces, and whether its end came."""

    index: int = Field(ge=0)
    token_ids: Annotated[list[int], Field(fail_fast=True), at_most(MAX_PROMPT_IDS)]
    has_ended: bool = False


class Resumption(RequestFields):
    """What fixes an answer, as a resumable stream's first piece tells it, and what the client has of it.

    `recalled_reasoning` is what the server put into the prompt where the client had left it out: tool call id
    to what the model thought before that call.
    """

    id: str = Field(pattern=r"^[!-~]{1,128}$")
    created: int = Field(ge=0, le=MAX_UNIX_TIME)
    seed: int
    recalled_reasoning: Annotated[dict[str, str], at_most(MAX_ITEMS)] = Field(default_factory=dict)
    choices: Items[ResumedChoice] = Field(default_factory=list)
