"""What a server over scripted engines is told: where to listen, and how its models answer. Free of Ray."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from gptoss_ray.config import ServingConfig

OPENING = "<|channel|>final<|message|>"
LETTER = "x"
"""One token, so that a client can count the tokens of a text."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptedAnswers(_Frozen):
    """How a model answers: by rules, else `OPENING` and `LETTER` over and over, up to the request's limit."""

    step_s: float = Field(0.0, ge=0, description="How long a step takes; 0: no longer than it must.")
    stamps: Path | None = Field(None, description="File for the moments of each letter; see StampedScript.")
    rules: Path | None = Field(None, description="File of what to say to which prompt; see RuledScript.")

    @model_validator(mode="after")
    def _check_one_script(self) -> Self:
        if self.rules is not None and self.stamps is not None:
            raise ValueError("answers by rules have no stamps")
        return self


class ScriptedServing(_Frozen):
    """The `args` of the application in `scripted_app.py`."""

    serving: ServingConfig
    answers: dict[str, ScriptedAnswers] = Field(description="By name of the model.")


class ScriptedServer(_Frozen):
    """What `scripted_server.py` reads."""

    http_port: int
    grpc_port: int
    application: ScriptedServing
