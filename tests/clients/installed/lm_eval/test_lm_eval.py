"""lm-eval, with tasks of our own: generation through chats, likelihoods through completions."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from tests.support.eval_harness import EvalHarness

TASKS = Path(__file__).parent / "tasks"
SUMS = [
    {"question": "17 + 25", "answer": "17 + 25 = 42."},
    {"question": "12 + 31", "answer": "12 + 31 = 43."},
    {"question": "20 + 20", "answer": "wrong on purpose"},
]
CAPITALS = [
    {"country": "France", "gold": 0},
    {"country": "Italy", "gold": 1},
    {"country": "Japan", "gold": 0},  # wrong on purpose
]


@pytest.fixture
def evaluate(client, demo):
    """Return a run of a task: its results and its samples."""

    def run(model, path, task, documents, *options, arguments=""):
        shutil.copytree(TASKS, client.work / "tasks")
        (client.work / f"{task}.json").write_text(json.dumps(documents))
        client.run(
            "lm_eval",
            *("--model", model, "--tasks", task, "--include_path", "tasks"),
            *("--model_args", f"model={demo.model},base_url={demo.url}{path},max_retries=1{arguments}"),
            *("--output_path", "out", "--log_samples", *options),
            server=demo,
        )
        (results,) = (client.work / "out").rglob("results_*.json")
        (samples,) = (client.work / "out").rglob("samples_*.jsonl")
        return (
            json.loads(results.read_text())["results"][task],
            sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"]),
        )

    return run


def test_answers_of_chats_are_generated_and_scored(evaluate):
    results, samples = evaluate(
        "local-chat-completions", "/v1/chat/completions", "sums", SUMS, "--apply_chat_template"
    )
    assert [sample["resps"] for sample in samples] == [
        [["17 + 25 = 42."]],
        [["12 + 31 = 43."]],
        [["20 + 20 = 40."]],
    ]
    assert results["exact_match,none"] == pytest.approx(2 / 3)


def test_continuations_have_the_likelihood_that_the_server_tells(evaluate, demo):
    arguments = f",tokenizer_backend=remote,auth_token={demo.api_key}"
    results, samples = evaluate(
        "local-completions", "/v1/completions", "capitals", CAPITALS, arguments=arguments
    )
    with httpx.Client(base_url=demo.url, headers={"Authorization": f"Bearer {demo.api_key}"}) as http:
        harness = EvalHarness(http, demo.model)
        for sample in samples:
            requests = sample["arguments"].values()
            pairs = [(request["arg_0"], request["arg_1"]) for request in requests]
            told = [(float(value), greedy == "True") for ((value, greedy),) in sample["resps"]]
            assert told == harness.log_likelihoods(pairs)
            assert len(told) == 3
    assert results["acc,none"] == pytest.approx(2 / 3)
