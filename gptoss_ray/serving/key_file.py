"""The file of API keys: a name for each, the SHA-256 of the key, and what it may use.

::

    alice: {sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
    batch: {sha256: "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752", share: 0.5}

`gptoss-ray keys new NAME` makes a key and its line. Keys are random, so that a fast hash keeps them secret; a
slow one would let strangers spend the server's time with wrong keys.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import Field

from gptoss_ray.config import QuotaConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.yaml_document import YamlDocument

logger = logging.getLogger(__name__)

REREAD_INTERVAL_S = 1.0
"""How long a change of the file may go unnoticed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_Version = tuple[int, int, int]


class KeyEntry(QuotaConfig):
    """A key as the file knows it."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the key, in hex.")


def check_key_name(name: str) -> str:
    """Return a name that may stand in the file; ConfigError where it may not."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"the name of a key is {name[:80]!r}; use up to 64 letters, digits and . _ @ -, not one of the "
            "last four first."
        )
    return name


def read_key_file(path: Path) -> dict[str, KeyEntry]:
    """Return the keys by name.

    Raises:
        ConfigError: The file cannot be read, has a mistake, two names of one key, or no key at all.
    """
    document = YamlDocument.read(path)
    entries: dict[str, KeyEntry] = {}
    names: dict[str, str] = {}
    for name in document.data:
        if not isinstance(name, str):
            raise document.error(document.root, f"the name {name!r} is no text; put it into quotes.")
        entries[check_key_name(name)] = entry = document.validate(KeyEntry, at=(name,))
        if (other := names.setdefault(entry.sha256, name)) != name:
            raise document.error(document.node((name,)), f"{name} and {other} have the same key; remove one.")
    return entries


class KeyFile:
    """The keys of a file, read again when it has changed.

    A changed file that is wrong or gone leaves the keys as they were, and the log says so: a slip of an
    editor neither opens the server nor locks everybody out.

    Args:
        path: Of the file.
        clock: Seconds that only grow.

    Raises:
        ConfigError: The file is wrong at the start.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(path)
        self._clock = clock
        self._version = _version(self._path)
        self._entries = read_key_file(self._path)
        self._check_at_s = clock() + REREAD_INTERVAL_S

    def entries(self) -> Mapping[str, KeyEntry]:
        """Return the keys by name, as of at most `REREAD_INTERVAL_S` ago; the same object while unchanged."""
        now_s = self._clock()
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + REREAD_INTERVAL_S
            version = _version(self._path)
            if version != self._version:
                self._version = version
                self._reread()
        return self._entries

    def _reread(self) -> None:
        try:
            self._entries = read_key_file(self._path)
        except ConfigError as error:
            logger.error("event=api_keys_file_refused action=keep_former_keys error=%s", error)
        else:
            logger.info("event=api_keys_file_read num_keys=%d", len(self._entries))


def _version(path: Path) -> _Version | None:
    """Return what changes with the file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
