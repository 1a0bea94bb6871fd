"""Whether a folder's tokenizer.json fits the model beside it (its ids, its harmony control tokens)."""

from __future__ import annotations

from pathlib import Path

from gptoss_ray.checkpoint.defect import Defect, printable
from gptoss_ray.checkpoint.json_file import read_json_object
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.errors import CheckpointError

CONTROL_TOKENS = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
)
# Without a tokenizer.json the vocabulary that ships with the package is used; it needs this many ids.
_SHIPPED_VOCAB_SIZE = 201088
_FILE = "tokenizer.json"
_MAX_BYTES = 1 << 28
_REMEDY = "use the tokenizer.json that was published with these weights"


def check_tokenizer(folder: Path, config: ModelConfig) -> list[Defect]:
    """Return what makes tokenizer.json unusable with the model, nothing if it fits."""
    path = folder / _FILE
    if not path.exists():
        if config.vocab_size >= _SHIPPED_VOCAB_SIZE:
            return []
        problem = f"absent, and the shipped vocabulary does not fit vocab_size {config.vocab_size}"
        return [Defect(_FILE, problem, _REMEDY)]
    try:
        document = read_json_object(path, max_bytes=_MAX_BYTES)
        vocabulary, added = _vocabulary(document), _added_tokens(document)
    except CheckpointError as error:
        return [Defect(_FILE, error.message.removeprefix(f"{path}: "), _REMEDY)]
    except ValueError as error:
        return [Defect(_FILE, str(error), _REMEDY)]
    return _check_ids(vocabulary, added, config.vocab_size) + _check_control_tokens(added, config)


def _vocabulary(document: dict[str, object]) -> dict[str, int]:
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not all(_is_id(token_id) for token_id in vocabulary.values()):
        raise ValueError("model.vocab is not a map from token to id")
    return vocabulary


def _added_tokens(document: dict[str, object]) -> dict[str, int]:
    tokens = document.get("added_tokens")
    found: dict[str, int] = {}
    for token in tokens if isinstance(tokens, list) else []:
        if (
            not isinstance(token, dict)
            or not isinstance(token.get("content"), str)
            or not _is_id(token.get("id"))
        ):
            raise ValueError("added_tokens is not a list of {content, id}")
        found[token["content"]] = token["id"]
    return found


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_ids(vocabulary: dict[str, int], added: dict[str, int], vocab_size: int) -> list[Defect]:
    owners: dict[int, str] = {}
    for token, token_id in (vocabulary | added).items():
        if token_id >= vocab_size:
            problem = f"token {printable(repr(token))} has id {token_id}, but vocab_size is {vocab_size}"
            return [Defect(_FILE, problem, _REMEDY)]
        if token_id in owners:
            both = f"{printable(repr(owners[token_id]))} and {printable(repr(token))}"
            return [Defect(_FILE, f"tokens {both} share id {token_id}", _REMEDY)]
        owners[token_id] = token
    return []


def _check_control_tokens(added: dict[str, int], config: ModelConfig) -> list[Defect]:
    defects = [
        Defect(_FILE, f"harmony's control token {token} is missing from added_tokens", _REMEDY)
        for token in CONTROL_TOKENS
        if token not in added
    ]
    control_ids = set(added.values())
    for token_id in config.eos_token_ids:
        if token_id not in control_ids:
            problem = f"eos_token_id {token_id} of config.json is none of its control tokens"
            defects.append(Defect(_FILE, problem, _REMEDY))
    return defects
