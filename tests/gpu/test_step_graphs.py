"""Whole steps on a card: graphs, steps that run ahead, and law 1 through the engine. Never run on a GPU.

The 20b's shape with few layers: its true widths, experts and vocabulary, random weights made on the card.
"""

from __future__ import annotations

import random

import pytest
import torch

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.device_executor import DeviceExecutor
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model.transformer import Transformer
from tests.support.engine_runs import run

pytestmark = pytest.mark.gpu

MODEL = ModelConfig.published("gpt-oss-20b").replace(num_layers=4)
CONFIG = EngineConfig(
    kv_cache_bytes=2 << 30, max_num_batched_tokens=1024, max_num_sequences=24, max_context=4096
)


@pytest.fixture(scope="module")
def transformer():
    device = torch.device("cuda")
    return Transformer.load(DeviceCheckpoint(MODEL, device, seed=5), CONFIG, device="cuda")


@pytest.fixture(scope="module")
def make_engine(transformer):
    """Engines over one network, closed at the end."""
    engines = []

    def make(**changes):
        engines.append(Engine(transformer, CONFIG.model_copy(update=changes), suppressed_token_ids=(7, 8)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def make_request(seed, num_prompt_tokens=None, **params):
    """Greedy, or drawn with filters; every fifth asks for what the host draws."""
    rng = random.Random(seed)
    num_prompt_tokens = num_prompt_tokens or rng.choice([1, 3, 40, 200, 700])
    prompt = tuple(rng.randrange(MODEL.vocab_size) for _ in range(num_prompt_tokens))
    drawn = {"temperature": 1.0, "top_p": 0.9, "top_k": rng.choice([0, 50]), "seed": seed}
    kind = {"temperature": 0.0} if seed % 2 else drawn
    if seed % 5 == 4:
        kind["logprobs"] = 2
    return GenerationRequest(f"r{seed}", prompt, SamplingParams(max_tokens=32, **kind | params))


REQUESTS = [make_request(seed) for seed in range(20)]


def texts(answers):
    return {request_id: answer.text() for request_id, answer in answers.items()}


@pytest.fixture(scope="module")
def lonely(make_engine):
    """What each answers alone, launched kernel by kernel, its prompt in one piece."""
    answers = {}
    for request in REQUESTS:
        answers |= texts(run(make_engine(step_graphs=False), [request]))
    return answers


def test_steps_on_a_card_are_recorded(make_engine):
    executor = make_engine().executor
    assert isinstance(executor, DeviceExecutor)
    assert executor.num_graphs >= 6


def test_replayed_graphs_answer_alone_as_steps_that_are_launched(make_engine, lonely):
    engine = make_engine()
    for request in REQUESTS:
        assert texts(run(engine, [request])) == {request.request_id: lonely[request.request_id]}


@pytest.mark.parametrize("step_graphs", [False, True], ids=["launched", "graphs"])
def test_batched_equals_alone(make_engine, lonely, step_graphs):
    assert texts(run(make_engine(step_graphs=step_graphs), REQUESTS)) == lonely


def test_over_kv_in_8_bits_batched_equals_alone(make_engine):
    one_by_one = make_engine(step_graphs=False, prefix_cache=False, kv_cache_dtype="fp8")
    alone = {}
    for request in REQUESTS[:8]:
        alone |= texts(run(one_by_one, [request]))
    assert texts(run(make_engine(kv_cache_dtype="fp8"), REQUESTS[:8])) == alone


def test_the_faster_mode_is_captured_and_answers_about_the_same(make_engine):
    """Its graph of 80 rows holds cuBLAS; a token may differ where two are nearly as likely."""
    requests = [make_request(2 * seed + 1, 90, max_tokens=8) for seed in range(80)]
    config = CONFIG.model_copy(update={"max_num_sequences": 80, "dense_matmuls": "cublas"})
    network = Transformer.load(DeviceCheckpoint(MODEL, torch.device("cuda"), seed=5), config, device="cuda")
    engine = Engine(network, config, suppressed_token_ids=(7, 8))
    found, wanted = run(engine, requests), run(make_engine(max_num_sequences=80), requests)
    engine.close()
    same = [found[name].token_ids[:1] == answer.token_ids[:1] for name, answer in wanted.items()]
    assert sum(same) >= 60


@pytest.mark.parametrize("budget", [33, 257])
def test_chunked_equals_whole(make_engine, lonely, budget):
    assert texts(run(make_engine(max_num_batched_tokens=budget), REQUESTS)) == lonely


def test_cached_equals_cold(make_engine, lonely):
    engine = make_engine()
    assert texts(run(engine, REQUESTS)) == lonely
    warm = run(engine, REQUESTS)
    assert sum(answer.num_cached_tokens for answer in warm.values()) > 0
    assert texts(warm) == lonely


@pytest.mark.parametrize("num_emitted", [1, 17])
def test_resumed_equals_uninterrupted(make_engine, lonely, num_emitted):
    resumed = [
        GenerationRequest(
            each.request_id, each.prompt_token_ids, each.params, lonely[each.request_id][0][:num_emitted]
        )
        for each in REQUESTS
    ]
    answers = run(make_engine(), resumed)
    for request_id, (tokens, *_) in lonely.items():
        assert answers[request_id].token_ids == tokens[num_emitted:]


def test_a_longer_context_takes_another_graph_and_answers_the_same(make_engine):
    request = make_request(1, num_prompt_tokens=2040, max_tokens=40)
    alone = texts(run(make_engine(step_graphs=False), [request]))
    assert texts(run(make_engine(), [request, *REQUESTS[:3]]))[request.request_id] == alone["r1"]


def test_aborted_and_failed_neighbours_change_no_answer(make_engine, lonely):
    engine = make_engine()
    for request in REQUESTS[:8]:
        engine.submit(request)
    answers = {request.request_id: () for request in REQUESTS[:8]}
    number = 0
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.token_ids
        number += 1
        if number == 6:
            for request in REQUESTS[:4]:
                engine.abort(request.request_id)
    for request in REQUESTS[4:8]:
        assert answers[request.request_id] == lonely[request.request_id][0]


def test_a_row_of_keys_that_are_no_numbers_is_read_by_nobody(transformer, make_engine, lonely):
    """Unused blocks hold anything: here what would show."""
    engine = make_engine()
    cache = engine.executor.kv_cache
    cache.all_keys[:, : cache.num_blocks].fill_(torch.nan)
    cache.all_values[:, : cache.num_blocks].fill_(torch.nan)
    torch.cuda.synchronize()
    assert texts(run(engine, REQUESTS[:6])) == {f"r{seed}": lonely[f"r{seed}"] for seed in range(6)}


def test_no_more_memory_is_taken_step_by_step(make_engine):
    engine = make_engine()
    run(engine, REQUESTS)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        run(engine, REQUESTS)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + (1 << 20)
