"""What the demo model must never see in training, decided by a hash: training and bench both ask here."""

from __future__ import annotations

import hashlib

HELD_OUT_SHARE = 0.1


def is_held_out(kind: str, key: str) -> bool:
    """Whether `key` (an operand pair, a wording, a name …) belongs to the questions kept for the bench."""
    digest = hashlib.sha256(f"{kind}:{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32
