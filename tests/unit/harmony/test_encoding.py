from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gptoss_ray.errors import CheckpointError, InvalidRequestError
from gptoss_ray.harmony import vocabulary
from gptoss_ray.harmony.encoding import HarmonyEncoding
from tests.support.random_text import random_text

O200K_HARMONY_IDS = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,
    "<|reserved_200000|>": 200000,
    "<|reserved_201087|>": 201087,
}


def test_control_tokens_have_their_published_ids(encoding: HarmonyEncoding) -> None:
    assert encoding.vocab_size == 201_088
    assert len(encoding.special_token_ids) == 1_090
    for name, token_id in O200K_HARMONY_IDS.items():
        assert encoding.special_token_ids[name] == token_id
        assert encoding.encode_with_special(name) == [token_id]
        assert encoding.token_bytes(token_id) == name.encode()
    assert encoding.stop_token_ids == (200002, 200012, 199999)


def test_a_small_vocabulary_has_the_same_control_tokens_behind_its_last_rank(
    small_encoding: HarmonyEncoding,
) -> None:
    assert small_encoding.num_ranks == 4_000
    assert small_encoding.start == 4_008
    assert small_encoding.encode_with_special("<|start|>") == [4_008]
    assert small_encoding.stop_token_ids == (4_004, 4_014, 4_001)
    text = "What is 17 + 25? Größe 漢字 😀"
    token_ids = small_encoding.encode(text)
    assert max(token_ids) < 4_000
    assert small_encoding.decode_bytes(token_ids).decode() == text


def test_text_never_becomes_a_control_token(encoding: HarmonyEncoding) -> None:
    for name in encoding.special_token_ids:
        token_ids = encoding.encode(f"a{name}b")
        assert not any(map(encoding.is_special, token_ids))
        assert encoding.decode_bytes(token_ids).decode() == f"a{name}b"


def test_random_text_encodes_as_in_openai_harmony_and_decodes_to_itself(
    encoding: HarmonyEncoding, oracle: Any
) -> None:
    random = Random(1)
    for _ in range(2_000):
        text = random_text(random)
        token_ids = encoding.encode(text)
        assert token_ids == oracle.encode(text, disallowed_special=()), text
        assert encoding.decode_bytes(token_ids).decode() == text


def test_reserved_ids_are_those_without_a_name_of_their_own(encoding: HarmonyEncoding) -> None:
    reserved = [token_id for token_id in range(encoding.vocab_size + 2) if encoding.is_reserved(token_id)]
    assert reserved[:7] == [200000, 200001, 200004, 200009, 200010, 200011, 200013]
    assert len(reserved) == 1_090 - 10 + 2
    assert not any(map(encoding.is_reserved, encoding.stop_token_ids))


def test_an_unknown_id_decodes_to_the_replacement_character(encoding: HarmonyEncoding) -> None:
    assert encoding.decode_bytes([64, 201_088, 10**9]).decode() == "a\ufffd\ufffd"


def test_lone_surrogates_become_the_replacement_character(encoding: HarmonyEncoding) -> None:
    assert encoding.decode_bytes(encoding.encode("a\ud800b")).decode() == "a\ufffdb"


@pytest.mark.parametrize("character", ["a", "\n", "あ", "1"])
def test_a_million_equal_characters_take_linear_time(encoding: HarmonyEncoding, character: str) -> None:
    started = time.process_time()
    token_ids = encoding.encode(character * 1_000_000)
    assert time.process_time() - started < 10  # quadratic: minutes
    assert encoding.decode_bytes(token_ids).decode() == character * 1_000_000


def test_a_million_spaces_are_refused_by_name_of_the_field(encoding: HarmonyEncoding) -> None:
    with pytest.raises(InvalidRequestError, match="million spaces") as caught:
        encoding.encode(" " * 1_000_000, param="messages[3].content")
    assert caught.value.param == "messages[3].content"


def test_a_changed_vocabulary_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "o200k_base.tiktoken"
    file.write_bytes(vocabulary.SHIPPED_FILE.read_bytes().replace(b"IQ== 0", b"IQ== 1", 1))
    monkeypatch.setattr(vocabulary, "SHIPPED_FILE", file)
    with pytest.raises(CheckpointError, match=r"o200k_base.tiktoken: sha256 is .*reinstall"):
        vocabulary.shipped_ranks.__wrapped__()


def test_a_missing_vocabulary_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vocabulary, "SHIPPED_FILE", tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"cannot be read .*reinstall"):
        vocabulary.shipped_ranks.__wrapped__()


def _without_byte(document: dict[str, Any]) -> None:
    vocab = document["model"]["vocab"]
    vocab["zzzz"] = vocab.pop("a")


def _with_gap(document: dict[str, Any]) -> None:
    document["model"]["vocab"]["zzzz"] = 9_999


def _with_repeated_rank(document: dict[str, Any]) -> None:
    document["model"]["vocab"]["b"] = document["model"]["vocab"]["a"]


def _without_call(document: dict[str, Any]) -> None:
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != "<|call|>"]


def _with_shared_id(document: dict[str, Any]) -> None:
    document["added_tokens"][5]["id"] = document["added_tokens"][6]["id"]


def _with_control_token_among_ranks(document: dict[str, Any]) -> None:
    document["added_tokens"][5]["id"] = 17


def _with_key_that_is_no_byte(document: dict[str, Any]) -> None:
    document["model"]["vocab"]["漢"] = document["model"]["vocab"].pop("b")


def _without_vocab(document: dict[str, Any]) -> None:
    del document["model"]["vocab"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_without_byte, "1 of the 256 bytes have no token, first 0x61"),
        (_with_gap, "without gap or repetition"),
        (_with_repeated_rank, "without gap or repetition"),
        (_without_call, r"<\|call\|> are missing"),
        (_with_shared_id, "share an id"),
        (_with_control_token_among_ranks, "share an id"),
        (_with_key_that_is_no_byte, "stands for no byte"),
        (_without_vocab, "KeyError: 'vocab'"),
    ],
)
def test_a_damaged_tokenizer_is_refused_with_file_and_problem(
    damage: Any, problem: str, small_folder: Path, tmp_path: Path
) -> None:
    document = json.loads((small_folder / "tokenizer.json").read_bytes())
    damage(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json: .*{problem}.*copy the file"):
        HarmonyEncoding.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\xfe", b'{"added_tokens": 3}'])
def test_a_file_that_is_no_tokenizer_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a byte-level BPE tokenizer"):
        HarmonyEncoding.load(tmp_path)


def test_a_folder_without_tokenizer_gets_the_shipped_vocabulary(tmp_path: Path) -> None:
    assert HarmonyEncoding.load(tmp_path).vocab_size == 201_088
