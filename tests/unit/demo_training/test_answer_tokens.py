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


def test_a_name_has_the_tokens_it_has_at_the_beginning_of_a_line(encoding: HarmonyEncoding) -> None:
    name = encoding.encode("destination")
    prompt = encoding.encode("\ndestination: string. Show the destination Zorvinaka")
    answer = PromptText(encoding, prompt).encode("with ⟪destination⟫ ⟦Zorvinaka⟧")
    expected = [*encoding.encode("with"), *encoding.encode(" "), *name]
    assert answer[: len(expected)] == expected
    assert encoding.decode_bytes(answer) == b"with destination Zorvinaka"


def test_part_of_a_word_is_not_a_source(encoding: HarmonyEncoding) -> None:
    with pytest.raises(ValueError, match="nothing to copy"):
        PromptText(encoding, encoding.encode("Annabel")).encode("⟦Anna⟧")
