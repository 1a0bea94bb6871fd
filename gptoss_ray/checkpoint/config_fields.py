"""ConfigFields: typed, bounded access to the fields of a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptoss_ray.checkpoint.defect import printable
from gptoss_ray.errors import CheckpointError

_MAX_NUMBER = 1e12


@dataclass(frozen=True)
class ConfigFields:
    """The fields of one JSON object; every method raises CheckpointError naming file, field and value."""

    values: Mapping[str, object]
    file: str
    prefix: str = ""

    def get(self, field: str) -> object:
        """Return the raw value, None if absent."""
        return self.values.get(field)

    def error(self, field: str, value: object, supported: str) -> CheckpointError:
        """Return the error for a field whose value is not supported."""
        name = self.prefix + field
        found = "absent" if value is None else printable(repr(value))
        return CheckpointError(f"{self.file}: {name} is {found}; supported: {supported}", param=name)

    def section(self, field: str) -> ConfigFields | None:
        """Return a nested object, None if absent or null."""
        value = self.values.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(field, value, "an object")
        return ConfigFields(value, self.file, f"{self.prefix}{field}.")

    def require(self, field: str, supported: Sequence[object], **default: object) -> None:
        """Check that a field has a supported value; `default` stands for an absent one."""
        value = self.values.get(field, default.get("default"))
        if not any(value is one or (type(value) is type(one) and value == one) for one in supported):
            raise self.error(field, value, " or ".join(map(repr, supported)))

    def integer(self, field: str, maximum: int) -> int:
        """Return a required integer in 1..maximum."""
        value = self.values.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
            raise self.error(field, value, f"an integer from 1 to {maximum}")
        return value

    def number(self, field: str, *, default: float | None = None) -> float:
        """Return a finite number above 0; required unless `default` is given."""
        value = self.values.get(field, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < _MAX_NUMBER or not math.isfinite(value):  # type: ignore[operator, arg-type]
            raise self.error(field, value, "a number above 0")
        return float(value)  # type: ignore[arg-type]

    def strings(self, field: str) -> tuple[str, ...]:
        """Return a required list of strings."""
        value = self.values.get(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(field, value, "a list of strings")
        return tuple(value)

    def token_ids(self, field: str) -> tuple[int, ...]:
        """Return the ids in a field that holds null, one id or a list of ids."""
        value = self.values.get(field)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
            raise self.error(field, value, "a token id or a list of them")
        return tuple(ids)
