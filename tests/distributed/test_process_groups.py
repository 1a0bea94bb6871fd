"""Law 1 across processes: equal tokens and equal logprob bits, over every wire."""

from __future__ import annotations

import functools
from dataclasses import replace
from unittest.mock import patch

import pytest

from gptoss_ray.checkpoint.hub import DEMO, resolve_folder
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import write_checkpoint
from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.prompt import Message, PromptOptions, render_chat
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.ranks.engine_loader import load_engine
from tests.support.engine_runs import small_config
from tests.support.group_cases import every_case, pairwise
from tests.support.group_requests import CONFIG, REQUESTS
from tests.support.group_serving import answers_of_one, check_case
from tests.support.rank_processes import rank_processes

TINY = {
    "8 experts": CONFIG,
    "10 experts": CONFIG.replace(num_layers=3, num_experts=10, num_experts_per_token=3),
}
CASES = every_case([*TINY, DEMO])
QUESTIONS = (
    "What is 12 + 30?",
    "What is the capital of France?",
    "Count from 3 to 7.",
    "My name is Ada. What is my name?",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model's configuration, its requests and what one rank answers, made when first asked for."""

    @functools.cache
    def make(name):
        folder = DEMO
        if name in TINY:
            folder = str(tmp_path_factory.mktemp("checkpoint"))
            write_checkpoint(folder, TINY[name], seed=23)
        config = ServedModelConfig(name="m", checkpoint=folder, engine=small_config())
        requests = demo_requests() if name == DEMO else REQUESTS
        return config, requests, answers_of_one(config, requests)

    return make


def demo_requests():
    """Chats that share the beginning of their prompts, so that prefix-cache hits depend on the rank."""
    encoding = HarmonyEncoding.load(resolve_folder(DEMO))
    stop = CheckpointReader.open(DEMO).config.eos_token_ids
    options = PromptOptions(current_date="2026-01-01", reasoning_effort="low")
    return [
        GenerationRequest(
            f"chat{number}",
            tuple(render_chat(encoding, [Message("user", question)], [], options)),
            replace(REQUESTS[number].params, max_tokens=16, stop_token_ids=stop),
        )
        for number, question in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize("case", pairwise(CASES), ids=str)
def test_any_ranks_over_any_wire_answer_as_one(model, case):
    check_case(case, *model(case.model))


@pytest.mark.ep
@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_combinations_of_ranks_and_wires_answer_as_one(model, case):
    check_case(case, *model(case.model))


def exchanges_of_a_step(link, config, request):
    """Return the exchanges of an agreement, and those of the step that follows."""
    import deepspeed.comm

    engine = load_engine(config, link.rank, link, (), lambda fraction: None)
    if link.rank == 0:
        engine.submit(request)
    real = deepspeed.comm.all_to_all_single
    with patch.object(deepspeed.comm, "all_to_all_single", side_effect=real) as exchange:
        agreement = engine.agree()
        num_to_agree = exchange.call_count
        engine.run(agreement)
    return num_to_agree, exchange.call_count - num_to_agree


@pytest.mark.parametrize(("dispatch", "num_per_layer"), [("padded", 2), ("exact", 3)])
def test_a_step_over_gloo_is_so_many_deepspeed_exchanges_a_layer_on_busy_and_idle_ranks(
    model, dispatch, num_per_layer
):
    config, requests, _ = model("8 experts")
    parallel = ParallelConfig(num_ranks=3, dispatch=dispatch, shared_memory=False, collective_timeout_s=240)
    config = config.model_copy(update={"parallel": parallel})
    counts = rank_processes().run(exchanges_of_a_step, config, requests[1], hosts="AAA", config=parallel)
    assert counts == [(0, num_per_layer * TINY["8 experts"].num_layers)] * 3


def bytes_read(link, config):
    """Return the bytes of the checkpoint that loading a rank's engine reads."""
    readers = []
    real = CheckpointReader.open
    with patch.object(CheckpointReader, "open", lambda source: readers.append(real(source)) or readers[-1]):
        load_engine(config, link.rank, link, (), lambda fraction: None)
    return sum(reader.num_bytes_read for reader in readers)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_each_rank_reads_the_bytes_of_its_own_experts_and_no_others(model, num_ranks):
    config, _, _ = model("10 experts")
    parallel = ParallelConfig(num_ranks=num_ranks, collective_timeout_s=240)
    config = config.model_copy(update={"parallel": parallel})
    reader = CheckpointReader.open(config.checkpoint)
    expert_bytes = sum(map(reader.num_bytes_of, filter(is_of_experts, reader.names())))
    dense_bytes = sum(map(reader.num_bytes_of, reader.names())) - expert_bytes
    bytes_per_expert, remainder = divmod(expert_bytes, reader.config.num_experts)  # of all layers
    assert bytes_per_expert > 0
    assert remainder == 0

    placement = contiguous(reader.config.num_experts, num_ranks)
    expected = [
        dense_bytes + bytes_per_expert * len(placement.local_slots(rank)) for rank in range(num_ranks)
    ]
    assert rank_processes().run(bytes_read, config, hosts="A" * num_ranks, config=parallel) == expected


def is_of_experts(name):
    return ".experts." in name
