from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.tokenizer_files import write_tokenizer
from tests.support.random_text import random_text


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("size", ["full", "small"])
def test_transformers_reads_the_same_tokens_from_the_files(
    size: str, full_folder: Path, small_folder: Path
) -> None:
    from transformers import AutoTokenizer

    folder = full_folder if size == "full" else small_folder
    encoding = HarmonyEncoding.load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == encoding.vocab_size
    assert tokenizer.eos_token_id == encoding.return_
    assert tokenizer.pad_token_id == encoding.end_of_text
    random = Random(2)
    for _ in range(500):
        text = random_text(random)
        token_ids = encoding.encode_with_special(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == token_ids, text
        assert tokenizer.decode(token_ids) == text


def test_the_full_files_have_the_ids_of_the_shipped_vocabulary(
    encoding: HarmonyEncoding, full_folder: Path
) -> None:
    read = HarmonyEncoding.load(full_folder)
    assert read.special_token_ids == encoding.special_token_ids
    ids = range(encoding.vocab_size)
    assert [read.token_bytes(i) for i in ids] == [encoding.token_bytes(i) for i in ids]


def test_more_ids_than_tokens_become_reserved_ones(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 300, 512)
    encoding = HarmonyEncoding.load(tmp_path)
    assert encoding.vocab_size == 512
    assert encoding.special_token_ids["<|reserved_511|>"] == 511
    assert encoding.is_reserved(511)


@pytest.mark.parametrize(("num_ranks", "num_ids"), [(255, None), (200_000, None), (300, 320)])
def test_sizes_that_cannot_be_are_refused(num_ranks: int, num_ids: int | None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        write_tokenizer(tmp_path, num_ranks, num_ids)
