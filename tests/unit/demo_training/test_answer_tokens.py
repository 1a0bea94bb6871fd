from __future__ import annotations

import pytest

from gptoss_ray.demo_training.answer_tokens import PromptText
from gptoss_ray.harmony.encoding import HarmonyEncoding


def test_a_copied_word_has_the_tokens_of_the_prompt(encoding: HarmonyEncoding) -> None:
    prompt = encoding.encode("My name is Zorvinaka.")
    answer = PromptText(encoding, prompt).encode("Your name is ⟦Zorvinaka⟧.")
    assert answer[-len(prompt) + 3 :] == prompt[3:] or encoding.encode(" Zorvinaka")[0] in answer
    assert encoding.decode_bytes(answer) == b"Your name is Zorvinaka."


def test_a_copied_word_without_its_space_changes_its_first_token_only(encoding: HarmonyEncoding) -> None:
    source = encoding.encode(" Zorvinaka")
    answer = PromptText(encoding, encoding.encode("in Zorvinaka?")).encode('"⟦Zorvinaka⟧"')
    assert encoding.decode_bytes(answer) == b'"Zorvinaka"'
    assert answer[-len(source) : -1] == source[1:]


def test_part_of_a_word_is_not_a_source(encoding: HarmonyEncoding) -> None:
    with pytest.raises(ValueError, match="nothing to copy"):
        PromptText(encoding, encoding.encode("Annabel")).encode("⟦Anna⟧")
