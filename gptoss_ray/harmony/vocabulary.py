"""The o200k vocabulary that ships with the package, and where its control tokens lie.

`vocabulary/o200k_base.tiktoken` has one line a token, `base64(bytes) rank`, in rank order. The control
tokens follow the last rank at fixed distances, so a vocabulary cut to its first few thousand ranks (still a
valid BPE: a token's parts have lower ranks) keeps the same table, moved down.
"""

from __future__ import annotations

import binascii
import hashlib
from functools import cache
from pathlib import Path

from gptoss_ray.errors import CheckpointError

SHIPPED_FILE = Path(__file__).parent / "vocabulary" / "o200k_base.tiktoken"
SHIPPED_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
NUM_IDS = 201_088
"""Ids of o200k_harmony: 199,998 ranks and 1,090 control tokens; columns of gpt-oss's logits."""

PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How o200k cuts text into words before BPE (tiktoken's `o200k_base`)."""

CONTROL_TOKEN_OFFSETS = {
    "<|startoftext|>": 0,
    "<|endoftext|>": 1,
    "<|return|>": 4,
    "<|constrain|>": 5,
    "<|channel|>": 7,
    "<|start|>": 8,
    "<|end|>": 9,
    "<|message|>": 10,
    "<|call|>": 14,
    "<|endofprompt|>": 20,
}
"""Distance of each control token from the number of ranks (199,998 in o200k); the gaps are reserved."""

MIN_NUM_CONTROL_TOKENS = max(CONTROL_TOKEN_OFFSETS.values()) + 1


def control_tokens(num_ranks: int, num_ids: int) -> dict[str, int]:
    """Return name -> id of every id from `num_ranks` up to `num_ids`, the gaps as `<|reserved_ID|>`."""
    tokens = {name: num_ranks + offset for name, offset in CONTROL_TOKEN_OFFSETS.items()}
    named = set(tokens.values())
    reserved = {f"<|reserved_{i}|>": i for i in range(num_ranks, num_ids) if i not in named}
    return tokens | reserved


@cache
def shipped_ranks() -> dict[bytes, int]:
    """Return the shipped o200k ranks, token bytes -> rank, after checking the file's sha256.

    Raises:
        CheckpointError: The file is missing or is not the published one.
    """
    remedy = "reinstall gptoss-ray to restore it."
    try:
        data = SHIPPED_FILE.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{SHIPPED_FILE}: cannot be read ({error.strerror}); {remedy}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHIPPED_SHA256:
        raise CheckpointError(f"{SHIPPED_FILE}: sha256 is {digest}, not {SHIPPED_SHA256}; {remedy}")
    lines = data.split()
    return dict(zip(map(binascii.a2b_base64, lines[::2]), map(int, lines[1::2]), strict=True))
