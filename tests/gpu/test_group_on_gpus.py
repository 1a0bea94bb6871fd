"""Groups of ranks on cards: graphs with all-to-alls in them answer as a rank alone. Never run on a GPU.

One card is enough for NCCL in a graph; what is lost, late or in another order needs several.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.parallel.all_to_all import TokenExchange
from gptoss_ray.parallel.expert_placement import contiguous
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.parallel.step_sync import GroupStepSync
from gptoss_ray.ranks.rank_experts import make_dispatcher
from tests.support.engine_runs import run, small_config, take
from tests.support.rank_processes import fresh_membership

pytestmark = pytest.mark.gpu

MODEL = ModelConfig.published("gpt-oss-20b").replace(num_layers=4)
CONFIG = small_config(
    kv_cache_bytes=1 << 30, max_num_batched_tokens=256, max_num_sequences=8, max_context=2048
)
REQUESTS = [
    GenerationRequest(
        f"r{seed}",
        tuple((seed * 7919 + 31 * place) % MODEL.vocab_size for place in range(1 + 37 * seed % 90)),
        SamplingParams(temperature=float(seed % 2), seed=seed, max_tokens=24),
    )
    for seed in range(6)
]


def load(device, config: EngineConfig = CONFIG, **parts):
    return Transformer.load(DeviceCheckpoint(MODEL, device, seed=5), config, device="cuda", **parts)


@pytest.fixture(scope="module")
def lonely():
    """What each answers alone, launched kernel by kernel."""
    config = CONFIG.model_copy(update={"step_graphs": False})
    engine = Engine(load(torch.device("cuda"), config), config)
    answers = {}
    for request in REQUESTS:
        answers |= {name: answer.text() for name, answer in run(engine, [request]).items()}
    engine.close()
    return answers


def be_rank(rank, membership, parallel):
    """Serve every so many-th request on a card of one's own; return the answers and the graphs recorded."""
    torch.cuda.set_device(rank)
    device, num_ranks = torch.device("cuda", rank), membership.world_size
    link = GroupLink(rank, parallel)
    link.join(membership, 120)
    exchange = TokenExchange(
        link,
        parallel,
        num_experts=MODEL.num_experts,
        experts_per_token=MODEL.num_experts_per_token,
        hidden_size=MODEL.hidden_size,
        dtype=torch.bfloat16,
        device=device,
        largest_step=CONFIG.max_num_batched_tokens,
    )
    placement = contiguous(MODEL.num_experts, num_ranks)
    hosts = ("",) * num_ranks
    transformer = load(
        device,
        expert_ids=[placement.local_slots(rank)] * MODEL.num_layers,
        dispatchers=[make_dispatcher(exchange, placement, hosts) for _ in range(MODEL.num_layers)],
    )
    sync = GroupStepSync(link, parallel)
    engine = Engine(transformer, CONFIG, step_sync=sync, leave_group=link.leave)
    for request in REQUESTS[rank::num_ranks]:
        engine.submit(request)
    answers, runs = {}, True
    while runs:
        agreement = engine.agree()
        take(answers, engine.run(agreement))
        runs = agreement.runs
    num_graphs = engine.executor.num_graphs
    engine.close()
    link.leave()
    return {name: answer.text() for name, answer in answers.items()}, num_graphs


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("collectives", ["auto", "symmetric_memory"])
@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_ranks_that_replay_their_exchanges_answer_as_one(lonely, num_ranks, collectives):
    if torch.cuda.device_count() < num_ranks:
        pytest.skip(f"needs {num_ranks} cards")
    parallel = ParallelConfig(
        num_ranks=num_ranks, device="cuda", collectives=collectives, collective_timeout_s=600
    )
    membership = fresh_membership(("host",) * num_ranks)
    with ProcessPoolExecutor(num_ranks, get_context("spawn")) as processes:
        ranks = [processes.submit(be_rank, rank, membership, parallel) for rank in range(num_ranks)]
        results = [rank.result() for rank in ranks]
    assert {name: text for answers, _ in results for name, text in answers.items()} == lonely
    assert len({num_graphs for _, num_graphs in results}) == 1
    assert results[0][1] >= 4
