"""The requests of lm-eval 0.4.13, models `local-completions` and `local-chat-completions`, and its reading.

lm-eval itself would bring pandas, scikit-learn and pyarrow along.
"""

from collections.abc import Iterator
from operator import itemgetter

import httpx
import pytest

from tests.support.ingresses import MODEL, encoding, http_server, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource

TEXT = "Paris is it.\nNext question"
ANSWER = (
    f"<|channel|>analysis<|message|>Think.\nMore.<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}"
)


class Harness:
    """Sends what lm-eval sends, with its remote tokenizer."""

    def __init__(self, http):
        self.http = http
        self.eos = self.get("/tokenizer_info")["eos_token"]

    def get(self, path):
        return self.http.get(path).raise_for_status().json()

    def post(self, path, **body):
        return self.http.post(path, json=body).raise_for_status().json()

    def encode(self, text):
        return self.post("/tokenize", prompt=text, add_special_tokens=False)["tokens"]

    def log_likelihoods(self, pairs):
        """Return of each context and continuation: the sum, and whether greedy decoding would say it."""
        contexts = [self.encode(context) for context, _ in pairs]
        prompts = [self.encode(context + continuation) for context, continuation in pairs]
        fields = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
        outputs = self.post("/v1/completions", model=MODEL, prompt=prompts, **fields)
        results = []
        choices = sorted(outputs["choices"], key=itemgetter("index"))
        for choice, context in zip(choices, contexts, strict=True):
            own = choice["logprobs"]["token_logprobs"][len(context) : -1]
            top = choice["logprobs"]["top_logprobs"][len(context) : -1]
            is_greedy = all(value == max(best.values()) for value, best in zip(own, top, strict=True))
            results.append((sum(own), is_greedy))
        return results

    def generate(self, prompts, until):
        fields = {"max_tokens": 64, "temperature": 0, "stop": [*until, self.eos], "seed": 1234}
        outputs = self.post("/v1/completions", model=MODEL, prompt=list(map(self.encode, prompts)), **fields)
        return [choice["text"] for choice in sorted(outputs["choices"], key=itemgetter("index"))]

    def chat(self, text, until):
        messages = [{"role": "user", "content": text, "type": "text"}]
        fields = {"max_tokens": 64, "temperature": 0, "stop": until, "seed": 1234}
        outputs = self.post("/v1/chat/completions", model=MODEL, messages=messages, **fields)
        return outputs["choices"][0]["message"]["content"]


@pytest.fixture
def harness() -> Iterator[Harness]:
    def script(request):
        is_chat = request.prompt_token_ids[0] == encoding().start
        return tokens(f"{ANSWER if is_chat else TEXT}<|return|>")

    with (
        http_server(make_ingress(ScriptedSource(script))) as url,
        httpx.Client(base_url=url) as http,
    ):
        yield Harness(http)


def test_continuations_have_a_log_likelihood_each(harness):
    pairs = [("The capital of France is", " Paris"), ("Two and two are", " four, of course")]
    lengths = [len(harness.encode(a + b)) - len(harness.encode(a)) for a, b in pairs]
    assert lengths[0] < lengths[1]
    assert harness.log_likelihoods(pairs) == [(-0.25 * length, True) for length in lengths]


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
