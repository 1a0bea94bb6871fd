"""guidellm: benchmarks whose requests all succeed, with the tokens and the texts that were asked for."""

import json

import pytest

from tests.support.chat_facts import SUM, SUM_ANSWER, chat_facts, count
from tests.support.served_app import ROOT

NUM_REQUESTS = 4
TOKENIZER = f"kind=huggingface_auto,model={ROOT / 'gptoss_ray/checkpoint/demo'}"


@pytest.fixture
def benchmark(client, demo):
    """Return the requests of a benchmark."""

    def run(path, data, **backend):
        backend |= {"kind": "openai_http", "target": demo.url, "model": demo.model, "request_format": path}
        file = client.work / "benchmarks.json"
        client.run(
            *("guidellm", "run", "--backend", json.dumps(backend | {"api_key": demo.api_key})),
            *("--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={NUM_REQUESTS}"),
            *("--tokenizer", TOKENIZER, "--data", data, "--output", f"kind=json,path={file}"),
            "--disable-progress",
        )
        (report,) = json.loads(file.read_text())["benchmarks"]
        state = report["scheduler_state"]
        assert state["successful_requests"] == state["created_requests"] == NUM_REQUESTS
        # Of these, guidellm may leave out one at either end of what it takes for the measured time.
        requests = report["requests"]["successful"]
        assert len(requests) >= NUM_REQUESTS - 2
        return requests

    return run


def body(request):
    return json.loads(request["request_args"])["body"]


def test_synthetic_chats_have_the_tokens_that_were_asked_for(benchmark, demo):
    requests = benchmark("/v1/chat/completions", "kind=synthetic_text,prompt_tokens=32,output_tokens=12")
    for request in requests:
        assert request["output_tokens"] == 12
        assert request["prompt_tokens"] == count(demo, messages=body(request)["messages"])


def test_synthetic_completions_have_the_tokens_that_were_asked_for(benchmark, demo):
    requests = benchmark("/v1/completions", "kind=synthetic_text,prompt_tokens=32,output_tokens=12")
    for request in requests:
        assert request["output_tokens"] == 12
        assert request["prompt_tokens"] == count(demo, prompt=body(request)["prompt"])


def test_chats_of_a_file_are_answered_as_the_server_answers_them(benchmark, client, demo):
    file = client.work / "questions.json"
    file.write_text("\n".join(json.dumps({"prompt": SUM[0]["content"]}) for _ in range(NUM_REQUESTS)))
    requests = benchmark(
        "/v1/chat/completions",
        f"kind=json_file,path={file}",
        extras={"body": {"temperature": 0}},
    )
    facts = chat_facts(demo, SUM)
    for request in requests:
        assert (request["output"], request["reasoning_output"]) == (SUM_ANSWER, facts["reasoning"])
        assert request["output_tokens"] == facts["completion_tokens"]
