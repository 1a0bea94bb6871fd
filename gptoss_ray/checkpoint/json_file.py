"""Read a JSON object from a file that nobody vouches for: bounded, without duplicate keys."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from pathlib import Path

from gptoss_ray.checkpoint.defect import printable
from gptoss_ray.errors import CheckpointError


def read_json_object(path: Path, *, max_bytes: int) -> dict[str, object]:
    """Return the object in `path`; CheckpointError names the file if it is absent, too large or malformed."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: not a regular file; put the file itself into the folder")
        if status.st_size > max_bytes:
            raise CheckpointError(
                f"{path}: {status.st_size} bytes exceed the limit of {max_bytes}; fetch the file again"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this the folder of a gpt-oss checkpoint?") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        return parse_json_object(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; fetch the file again") from None


def parse_json_object(data: bytes) -> dict[str, object]:
    """Return the JSON object in `data`; ValueError says what is wrong (duplicate keys are)."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at byte {error.pos})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    if not isinstance(value, dict):
        raise ValueError("the JSON is not an object")
    return value


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the name {printable(key)} appears twice")
        result[key] = value
    return result


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")
