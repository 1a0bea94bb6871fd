"""tokenizer.json and its companions: read for our encoding, written for the checkpoints that we make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from gptoss_ray.errors import CheckpointError
from gptoss_ray.harmony import byte_alphabet
from gptoss_ray.harmony.vocabulary import (
    MIN_NUM_CONTROL_TOKENS,
    NUM_IDS,
    PATTERN,
    control_tokens,
    shipped_ranks,
)

TOKEN_ROLES = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
TOKENIZER_CLASS = "PreTrainedTokenizerFast"
FILE_NAME = "tokenizer.json"
MAX_CONTEXT = 131_072


def read_tokenizer(file: Path) -> tuple[dict[bytes, int], dict[str, int]]:
    """Return (token bytes -> rank, control token name -> id) of a byte-level BPE tokenizer.json.

    Raises:
        CheckpointError: The file is not JSON, or not a tokenizer of that kind.
    """
    try:
        document = json.loads(file.read_bytes())
        special_token_ids = {str(token["content"]): int(token["id"]) for token in document["added_tokens"]}
        vocabulary: dict[str, int] = document["model"]["vocab"]
        ranks = {
            byte_alphabet.to_bytes(text): int(rank)
            for text, rank in vocabulary.items()
            if text not in special_token_ids
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: not a byte-level BPE tokenizer ({type(error).__name__}: {error}); "
            "copy the file from the published checkpoint again."
        ) from error
    return ranks, special_token_ids


def write_tokenizer(folder: Path, num_ranks: int | None = None, num_ids: int | None = None) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json, as transformers loads them.

    Args:
        folder: An existing folder.
        num_ranks: How many of o200k's ranks to keep, at least 256; None keeps all 199,998.
        num_ids: Smallest number above every id, control tokens included, so the rows of the embedding;
            None is the smallest possible (all of o200k: 201,088).
    """
    full = shipped_ranks()
    num_ranks = len(full) if num_ranks is None else num_ranks
    if num_ids is None:
        num_ids = NUM_IDS if num_ranks == len(full) else num_ranks + MIN_NUM_CONTROL_TOKENS
    if not 256 <= num_ranks <= len(full):
        raise ValueError(f"num_ranks is {num_ranks}; it must be 256 to {len(full)}")
    if num_ids < num_ranks + MIN_NUM_CONTROL_TOKENS:
        raise ValueError(f"num_ids is {num_ids}; it must be at least {num_ranks + MIN_NUM_CONTROL_TOKENS}")
    ranks = dict(islice(full.items(), num_ranks))
    special_token_ids = control_tokens(num_ranks, num_ids)
    config = TOKEN_ROLES | {
        "tokenizer_class": TOKENIZER_CLASS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_CONTEXT,
    }
    _write_json(folder / FILE_NAME, _document(ranks, special_token_ids))
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", TOKEN_ROLES)


def _document(ranks: dict[bytes, int], special_token_ids: dict[str, int]) -> dict[str, Any]:
    """Return the content of tokenizer.json (format of the `tokenizers` library)."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, token_id in sorted(special_token_ids.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                byte_level,
            ],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # tiktoken takes a word that is a token as it is; so must this.
            "ignore_merges": True,
            "vocab": {byte_alphabet.to_text(token): rank for token, rank in ranks.items()},
            "merges": list(_merges(ranks)),
        },
    }


def _merges(ranks: dict[bytes, int]) -> Iterator[tuple[str, str]]:
    """Yield every pair of tokens that makes a token, in rank order.

    tiktoken merges any two neighbours whose bytes make a token, lowest rank first, so every split counts, not
    only the one from which the token was learnt.
    """
    for token in ranks:
        for middle in range(1, len(token)):
            left, right = token[:middle], token[middle:]
            if left in ranks and right in ranks:
                yield byte_alphabet.to_text(left), byte_alphabet.to_text(right)


def _write_json(file: Path, document: dict[str, Any]) -> None:
    """Write compact UTF-8 JSON."""
    file.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
