"""The requests of lm-eval 0.4.13, models `local-completions` and `local-chat-completions`, and its reading.

lm-eval itself would bring pandas, scikit-learn and pyarrow along.
"""

from __future__ import annotations

from operator import itemgetter


class EvalHarness:
    """Sends what lm-eval sends, with its remote tokenizer, about one model."""

    def __init__(self, http, model):
        self.http = http
        self.model = model
        self.eos = self.get("/tokenizer_info")["eos_token"]

    def get(self, path):
        return self.http.get(path).raise_for_status().json()

    def post(self, path, **body):
        return self.http.post(path, json=body).raise_for_status().json()

    def encode(self, text):
        return self.post("/tokenize", prompt=text, add_special_tokens=False)["tokens"]

    def log_likelihoods(self, pairs, max_tokens=1):
        """Return of each context and continuation: the sum, and whether greedy decoding would say it.

        lm-eval has a token drawn, which it then drops; with 0 there is none.
        """
        contexts = [self.encode(context) for context, _ in pairs]
        prompts = [self.encode(context + continuation) for context, continuation in pairs]
        fields = {"temperature": 0, "max_tokens": max_tokens, "logprobs": 1, "seed": 1234, "echo": True}
        outputs = self.post("/v1/completions", model=self.model, prompt=prompts, **fields)
        results = []
        choices = sorted(outputs["choices"], key=itemgetter("index"))
        for choice, context in zip(choices, contexts, strict=True):
            continuation = slice(len(context), -1 if max_tokens else None)
            own = choice["logprobs"]["token_logprobs"][continuation]
            top = choice["logprobs"]["top_logprobs"][continuation]
            is_greedy = all(value == max(best.values()) for value, best in zip(own, top, strict=True))
            results.append((sum(own), is_greedy))
        return results

    def generate(self, prompts, until):
        fields = {"max_tokens": 64, "temperature": 0, "stop": [*until, self.eos], "seed": 1234}
        outputs = self.post(
            "/v1/completions", model=self.model, prompt=list(map(self.encode, prompts)), **fields
        )
        return [choice["text"] for choice in sorted(outputs["choices"], key=itemgetter("index"))]

    def chat(self, text, until):
        messages = [{"role": "user", "content": text, "type": "text"}]
        fields = {"max_tokens": 64, "temperature": 0, "stop": until, "seed": 1234}
        outputs = self.post("/v1/chat/completions", model=self.model, messages=messages, **fields)
        return outputs["choices"][0]["message"]["content"]
