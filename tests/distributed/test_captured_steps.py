"""Whole steps of a group's members as graphs, exchanges and all, on streams that work beside the host.

What is replayed here is what a card would replay; that NCCL can be captured, only cards can show.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.engine import engine as engine_module
from gptoss_ray.engine.engine import Engine
from gptoss_ray.engine.graph_shapes import block_counts, row_counts
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.expert_placement import LayerPlacement
from gptoss_ray.ranks.layer_swap import LayerSwap
from gptoss_ray.ranks.rank_experts import with_swap
from tests.support.drafters import knowing
from tests.support.engine_runs import run, small_config
from tests.support.group_requests import CONFIG, PATTERNS, REQUESTS, answers_of_one, arrivals_of, texts
from tests.support.recorded_stream import ThreadedStream, on_stream
from tests.support.serving_ranks import group_config, serve_in_threads

POLICY = {"max_prefill_tokens_per_step": 16, "max_prefill_delay_steps": 2, "dispatch": "padded"}
BYTES_PER_TOKEN = CONFIG.num_experts_per_token * CONFIG.hidden_size * 2
"""Of what comes home to one rank, from each."""


@pytest.fixture(scope="module")
def expected_of_torch(checkpoint):
    return answers_of_one(checkpoint, small_config(kernels="torch"))


@pytest.fixture(scope="module")
def expected_on_device(checkpoint):
    """What a rank alone answers to requests whose tokens a device draws."""
    engine = Engine(Transformer.load(CheckpointReader.open(checkpoint), small_config()), small_config())
    return texts([run(engine, DRAWN_ON_DEVICE)])


DRAWN_ON_DEVICE = [replace(each, params=replace(each.params, logprobs=None)) for each in REQUESTS]


@pytest.fixture
def on_streams(monkeypatch):
    """Every rank that is made computes on a stream of its own."""

    def find(transformer, config, suppressed_token_ids):
        return on_stream(ThreadedStream(), records_graphs=config.step_graphs)

    monkeypatch.setattr(engine_module, "find_executor", find)


def streams_of(ranks):
    return [rank.engine.executor.stream for rank in ranks]


def spoil_the_cache(step, rank):
    """Blocks hold no numbers before they are written: what padding must not touch would show."""
    if step == 0:
        rank.engine.executor.kv_cache.all_keys.fill_(torch.nan)
        rank.engine.executor.kv_cache.all_values.fill_(torch.nan)


def serve(checkpoint, arrivals, num_ranks, before_step=spoil_the_cache, *, engine=None, **parallel):
    config = group_config(checkpoint, num_ranks, **POLICY | parallel)
    config = config.model_copy(update={"engine": engine or small_config()})
    ranks = serve_in_threads(config, arrivals, before_step, is_streamed=True)
    assert len({rank.link.collectives.num_calls for rank in ranks}) == 1
    return ranks


def answers(ranks):
    return texts([rank.answers for rank in ranks])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_that_replay_graphs_answers_as_one(
    checkpoint, expected, on_streams, num_ranks, pattern
):
    ranks = serve(checkpoint, arrivals_of(pattern, num_ranks), num_ranks)
    assert answers(ranks) == expected
    replays = [stream.num["graph"] for stream in streams_of(ranks)]
    assert min(replays) > 20, "a rank with nothing to decode replays, too"


def test_ranks_that_compute_with_torch_answer_as_one(checkpoint, expected_of_torch, on_streams):
    engine = small_config(kernels="torch")
    ranks = serve(checkpoint, arrivals_of("all ranks", 2), 2, engine=engine)
    assert answers(ranks) == expected_of_torch


def test_steps_that_are_launched_kernel_by_kernel_answer_as_graphs_do(checkpoint, expected, on_streams):
    engine = small_config(step_graphs=False)
    ranks = serve(checkpoint, arrivals_of("all ranks", 2), 2, engine=engine)
    assert answers(ranks) == expected
    assert sum(stream.num["graph"] + stream.num_graphs for stream in streams_of(ranks)) == 0


@pytest.mark.parametrize("by_device", [False, True], ids=["drawn by host", "drawn by device"])
def test_steps_that_are_too_large_to_be_padded_are_in_no_graph_and_all_ranks_know(
    checkpoint, expected, expected_on_device, on_streams, by_device
):
    options = {"dispatch": "auto", "max_padded_bytes": 2 * 2 * BYTES_PER_TOKEN}
    requests = DRAWN_ON_DEVICE if by_device else REQUESTS
    ranks = serve(checkpoint, arrivals_of("all ranks", 2, requests), 2, **options)
    assert answers(ranks) == (expected_on_device if by_device else expected)
    for rank, stream in zip(ranks, streams_of(ranks), strict=True):
        num_contexts = len(block_counts(rank.engine.max_context, small_config().kv_block_size))
        assert stream.num_graphs == 2 * num_contexts, "of one row and of two"
        assert 0 < stream.num["graph"] < rank.engine.stats().num_steps


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_tokens_that_the_devices_draw_are_those_of_one(
    checkpoint, expected_on_device, on_streams, num_ranks, pattern
):
    arrivals = arrivals_of(pattern, num_ranks, DRAWN_ON_DEVICE)
    assert answers(serve(checkpoint, arrivals, num_ranks)) == expected_on_device


def test_every_rank_launches_the_next_step_before_it_reads_the_present_one(
    checkpoint, expected_on_device, on_streams
):
    """A rank with nothing to decode does so, too: its part of a step has to be there for the others."""

    def be_reluctant(step, rank):
        spoil_the_cache(step, rank)
        rank.engine.executor.stream.is_reluctant = 12 <= step < 18

    longest = max(DRAWN_ON_DEVICE, key=lambda each: each.params.max_tokens)
    ranks = serve(checkpoint, [(0, 1, longest)], 3, be_reluctant)
    assert answers(ranks) == {longest.request_id: expected_on_device[longest.request_id]}


def test_ranks_that_draw_on_the_host_and_ranks_that_run_ahead_answer_as_one(
    checkpoint, expected, expected_on_device, on_streams
):
    """Who has to read a step first keeps the others waiting in the agreement, and launches the same one."""
    arrivals = [(2 * number, 0, each) for number, each in enumerate(REQUESTS[:3])]
    arrivals += [(2 * number, 1, each) for number, each in enumerate(DRAWN_ON_DEVICE[3:])]
    wanted = {name: expected[name] for name in ("r0", "r1", "r2")}
    wanted |= {name: expected_on_device[name] for name in ("r3", "r4", "r5")}
    assert answers(serve(checkpoint, arrivals, 2)) == wanted


def test_a_decoding_step_is_one_copy_one_graph_and_one_fetch_on_every_rank(checkpoint, on_streams):
    num_runs, counts = {}, []

    def watch(step, rank):
        spoil_the_cache(step, rank)
        stream = rank.engine.executor.stream
        before = num_runs.get(rank.link.rank)
        num_runs[rank.link.rank] = stream.num.copy()
        if before is not None and step > 12:
            counts.append(stream.num - before)

    longest = max(DRAWN_ON_DEVICE, key=lambda each: each.params.max_tokens)
    serve(checkpoint, [(0, 1, replace(longest, prompt_token_ids=(5, 6)))], 2, watch)
    assert len(counts) > 10
    assert all(count == {"run": 2, "graph": 1} for count in counts)


def test_all_graphs_are_recorded_in_the_first_step_and_none_later(checkpoint, expected, on_streams):
    num_graphs = {}

    def watch(step, rank):
        spoil_the_cache(step, rank)
        num_graphs.setdefault(step, set()).add(rank.engine.executor.num_graphs)

    assert answers(serve(checkpoint, arrivals_of("all ranks", 2), 2, watch)) == expected
    assert num_graphs.pop(0) == {0}
    (of_all_steps,) = set.union(*num_graphs.values())
    assert of_all_steps % len(row_counts(64)) == 0 < of_all_steps


@pytest.mark.parametrize("by_device", [False, True], ids=["drawn by host", "drawn by device"])
def test_experts_that_are_swapped_while_requests_run_have_graphs_of_their_own(
    checkpoint, expected, expected_on_device, on_streams, by_device
):
    requests = DRAWN_ON_DEVICE if by_device else REQUESTS
    placement = LayerPlacement(((7, 0, 1, 2, 3), (4, 5, 6, 0, 7)))
    swap = LayerSwap(1, 0, placement, ("here", "there"))

    def stage(step, rank):
        spoil_the_cache(step, rank)
        if step == 3 + 4 * rank.link.rank:  # one rank is ready before the other
            rank.engine.stage_placement(1, with_swap(rank.engine.transformer, checkpoint, swap))

    ranks = serve(checkpoint, arrivals_of("all ranks", 2, requests), 2, stage)
    assert answers(ranks) == (expected_on_device if by_device else expected)
    assert [rank.engine.stats().placement for rank in ranks] == [1, 1]
    for rank, stream in zip(ranks, streams_of(ranks), strict=True):
        assert stream.num_graphs == 2 * rank.engine.executor.num_graphs


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_that_draft_each_for_itself_answer_as_one(checkpoint, expected, on_streams, num_ranks):
    known = {name: text[0] for name, text in expected.items()}

    def give_drafter(step, rank):
        if step == 0 and rank.link.rank > 0:  # one has none
            rank.engine._speculation._drafter = knowing(known, CONFIG.vocab_size, rank.link.rank)

    engine = small_config(speculation="ngram")
    arrivals = arrivals_of("all ranks", num_ranks)
    ranks = serve(checkpoint, arrivals, num_ranks, give_drafter, engine=engine)
    assert answers(ranks) == expected
    num_accepted = [rank.engine.stats().num_accepted_tokens for rank in ranks]
    assert num_accepted[0] < min(num_accepted[1:])


def test_padding_counts_as_no_choice_of_an_expert(checkpoint, on_streams):
    """Else experts would follow the padding of ranks that have nothing to do."""
    request = replace(REQUESTS[0], prompt_token_ids=(5, 6))
    (answering, idle) = serve(checkpoint, [(0, 0, request)], 2)
    num_tokens = 2 + len(answering.answers["r0"].token_ids) - 1
    per_layer = CONFIG.num_experts_per_token * num_tokens
    assert [sum(layer) for layer in answering.engine.stats().expert_load] == [per_layer] * CONFIG.num_layers
    assert [sum(layer) for layer in idle.engine.stats().expert_load] == [0] * CONFIG.num_layers
    num_rows = [rank.engine.stats().num_expert_rows for rank in (answering, idle)]
    assert sum(num_rows) == per_layer * CONFIG.num_layers
    assert min(num_rows) > 0


def test_a_step_that_fails_on_one_rank_breaks_that_of_all(checkpoint, on_streams):
    seen = {}

    def fail(step, rank):
        if step != 4:
            return
        if rank.link.rank == 1:
            rank.engine.executor.device_sampler = rank.engine.executor.kv_cache = None
        with pytest.raises(GroupBrokenError) as caught:
            rank.engine.run(rank.engine.agree())
        seen[rank.link.rank] = str(caught.value)
        raise caught.value

    with pytest.raises(GroupBrokenError):
        serve(checkpoint, arrivals_of("all ranks", 3), 3, fail)
    assert seen.keys() == {0, 1, 2}
    assert "step failed" in seen[1]
