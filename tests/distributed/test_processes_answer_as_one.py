"""Law 1 over real wires: ranks in processes of their own, on one host or on what looks like two."""

from __future__ import annotations

import pytest

from gptoss_ray.checkpoint.synthetic import write_checkpoint
from tests.support.group_requests import CONFIG, answers_of_one, arrivals_of, texts
from tests.support.rank_processes import rank_processes
from tests.support.serving_ranks import group_config, serve_rank

WIRES = {
    "shared memory": ("AAA", True),
    "gloo": ("AAA", False),
    "both": ("AAB", True),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, CONFIG, seed=23)
    return str(folder)


@pytest.fixture(scope="module")
def expected(checkpoint):
    return answers_of_one(checkpoint)


def serve(link, config, arrivals):
    return texts([serve_rank(link, config, arrivals).answers])


@pytest.mark.parametrize(
    ("wires", "dispatch", "pattern"),
    [
        ("shared memory", "padded", "random arrivals"),
        ("shared memory", "exact", "one rank"),
        ("gloo", "padded", "all ranks"),
        ("gloo", "exact", "random arrivals"),
        ("both", "padded", "one rank"),
        ("both", "exact", "all ranks"),
    ],
)
def test_processes_answer_as_one_rank_over_any_wires(checkpoint, expected, wires, dispatch, pattern):
    hosts, shared_memory = WIRES[wires]
    config = group_config(
        checkpoint,
        len(hosts),
        dispatch=dispatch,
        shared_memory=shared_memory,
        max_prefill_tokens_per_step=16,
        collective_timeout_s=120,
    )
    arrivals = arrivals_of(pattern, len(hosts))
    answers = rank_processes().run(serve, config, arrivals, hosts=hosts, config=config.parallel)
    assert {name: text for rank in answers for name, text in rank.items()} == expected
