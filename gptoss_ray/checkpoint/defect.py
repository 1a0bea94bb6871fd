"""Defect: one thing that is wrong with a checkpoint, in words a person can act on."""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.errors import CheckpointError

_MAX_NAME_CHARS = 160


@dataclass(frozen=True)
class Defect:
    """A fault in `file` (and in `tensor`, if it concerns one), with what to do about it."""

    file: str
    problem: str
    remedy: str
    tensor: str | None = None

    def __str__(self) -> str:
        place = self.file if self.tensor is None else f"{self.file}: tensor {self.tensor}"
        return f"{place}: {self.problem}; {self.remedy}"

    def to_error(self) -> CheckpointError:
        """Return the defect as the error that stops a load."""
        return CheckpointError(str(self), param=self.tensor)


def printable(name: object) -> str:
    """Return text from an untrusted file, shortened, with nothing that could steer a terminal."""
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(name)[:_MAX_NAME_CHARS])
    return text if len(str(name)) <= _MAX_NAME_CHARS else text + "…"
