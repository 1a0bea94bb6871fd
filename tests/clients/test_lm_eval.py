"""lm-eval as a client; its requests are in `tests/support/eval_harness.py`."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.eval_harness import EvalHarness
from tests.support.ingresses import MODEL, encoding, http_server, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

TEXT = "Paris is it.\nNext question"
ANSWER = (
    f"<|channel|>analysis<|message|>Think.\nMore.<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}"
)


@pytest.fixture
def harness() -> Iterator[EvalHarness]:
    def script(request):
        is_chat = request.prompt_token_ids[0] == encoding().start
        return tokens(f"{ANSWER if is_chat else TEXT}<|return|>")

    with (
        http_server(make_ingress(ScriptedSource(script))) as url,
        httpx.Client(base_url=url) as http,
    ):
        yield EvalHarness(http, MODEL)


def test_continuations_have_a_log_likelihood_each(harness):
    pairs = [("The capital of France is", " Paris"), ("Two and two are", " four, of course")]
    lengths = [len(harness.encode(a + b)) - len(harness.encode(a)) for a, b in pairs]
    assert lengths[0] < lengths[1]
    for max_tokens in (0, 1):
        results = harness.log_likelihoods(pairs, max_tokens)
        assert results == [(-0.25 * length, True) for length in lengths]


def test_a_batch_of_generations_stops_at_a_line_or_at_the_end(harness):
    assert harness.generate(["Capital of France?", "And of Spain?"], ["\n\n"]) == [TEXT] * 2
    assert harness.generate(["Capital of France?"], ["\n"]) == ["Paris is it."]


def test_a_stop_string_ends_a_chats_answer_and_never_its_reasoning(harness):
    assert harness.chat("Capital of France?", ["\n"]) == "Paris is it."
    assert harness.chat("Capital of France?", ["Next"]) == "Paris is it.\n"


def test_the_remote_tokenizer_turns_its_own_tokens_back(harness):
    assert harness.encode(harness.eos) == [encoding().encode_with_special("<|return|>")[0]]
    text = "a \N{SNOWMAN} and <|end|>"
    assert harness.post("/detokenize", tokens=harness.encode(text)) == {"prompt": text}
