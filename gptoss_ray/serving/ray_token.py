"""The token that Ray demands of whoever calls it, as a file for this user alone."""

from __future__ import annotations

import secrets
from pathlib import Path

_TOKEN_BYTES = 32


def write_token(path: Path) -> None:
    """Write a new random token to a file that is not there yet; raises FileExistsError where it is."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(secrets.token_hex(_TOKEN_BYTES), encoding="utf-8")
