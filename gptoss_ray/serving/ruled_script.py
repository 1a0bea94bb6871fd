"""A script whose answers depend on the prompt, by rules in a file: for clients that act on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.harmony.encoding import HarmonyEncoding

_SHOWN_CHARACTERS = 400


class Rule(BaseModel):
    """What to say to a prompt in which an expression is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(description="Regular expression; its dot is any character, a line's end too.")
    output: str = Field(description="Harmony markup; $name is what the group of that name has found.")


RULES = TypeAdapter(list[Rule])
"""What is in a file of rules, as JSON."""


@dataclass(frozen=True)
class RuledScript:
    """Answers by the first rule that fits.

    Attributes:
        file: The rules. They are read anew for every request, so that a running server can be told others.
        encoding: How the prompt is read and the answer written.
    """

    file: Path
    encoding: HarmonyEncoding

    def __call__(self, request: GenerationRequest) -> Sequence[int]:
        """Return the tokens of one answer.

        Raises:
            InvalidRequestError: No rule fits; the message has the end of the prompt.
        """
        prompt = self.encoding.decode_bytes(request.prompt_token_ids).decode(errors="replace")
        for rule in RULES.validate_json(self.file.read_bytes()):
            if found := re.search(rule.prompt, prompt, re.DOTALL):
                return self.encoding.encode_with_special(
                    Template(rule.output).safe_substitute(found.groupdict())
                )
        raise InvalidRequestError(f"No rule fits a prompt that ends in {prompt[-_SHOWN_CHARACTERS:]!r}.")
