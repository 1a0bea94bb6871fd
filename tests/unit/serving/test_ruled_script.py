from __future__ import annotations

import pytest

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.serving.ruled_script import RULES, Rule, RuledScript
from tests.support.ingresses import encoding


@pytest.fixture
def file(tmp_path):
    return tmp_path / "rules.json"


def write(file, *rules):
    file.write_bytes(RULES.dump_json([Rule(prompt=prompt, output=output) for prompt, output in rules]))


def answer(file, prompt):
    request = GenerationRequest("r", tuple(encoding().encode_with_special(prompt)), SamplingParams())
    return encoding().decode_bytes(RuledScript(file, encoding())(request)).decode()


def test_the_first_rule_that_fits_the_prompt_answers(file):
    write(file, ("told.*asked", "both"), ("asked", "one"), ("", "none"))
    assert answer(file, "told,\nthen asked") == "both"
    assert answer(file, "asked") == "one"
    assert answer(file, "nothing") == "none"


def test_control_tokens_are_found_in_the_prompt_and_said(file):
    write(file, (r"<\|message\|>hello<\|end\|>", "<|channel|>final<|message|>x<|return|>"))
    assert answer(file, "<|start|>user<|message|>hello<|end|>") == "<|channel|>final<|message|>x<|return|>"
    request = GenerationRequest(
        "r", tuple(encoding().encode_with_special("<|message|>hello<|end|>")), SamplingParams()
    )
    assert RuledScript(file, encoding())(request)[-1] == encoding().return_


def test_what_a_named_group_found_can_be_said_again_and_other_dollars_stay(file):
    write(file, (r"city is (?P<city>\w+)", r"$city \n costs $5 and $more"))
    assert answer(file, "The city is Bern.") == r"Bern \n costs $5 and $more"


def test_a_changed_file_holds_for_the_next_request(file):
    write(file, ("", "first"))
    assert answer(file, "x") == "first"
    write(file, ("", "second"))
    assert answer(file, "x") == "second"


def test_a_prompt_that_no_rule_fits_is_refused_with_its_end(file):
    write(file, ("a", "b"))
    with pytest.raises(InvalidRequestError, match="ends in 'xyz'"):
        answer(file, "xyz")
