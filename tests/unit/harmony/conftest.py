from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.tokenizer_files import write_tokenizer
from gptoss_ray.harmony.vocabulary import SHIPPED_FILE


@pytest.fixture(scope="session")
def encoding() -> HarmonyEncoding:
    return HarmonyEncoding.load(None)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer of a vocabulary cut to 4,000 ranks."""
    folder = tmp_path_factory.mktemp("small")
    write_tokenizer(folder, 4_000)
    return folder


@pytest.fixture(scope="session")
def small_encoding(small_folder: Path) -> HarmonyEncoding:
    return HarmonyEncoding.load(small_folder)


@pytest.fixture(scope="session")
def oracle() -> Any:
    """openai-harmony's encoding, reading the vocabulary that our package ships."""
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(SHIPPED_FILE.parent))
        return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
