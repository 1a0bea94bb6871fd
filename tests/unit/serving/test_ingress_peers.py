"""What is told where some of the replicas that are asked do not answer."""

from __future__ import annotations

import warnings

import pytest

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.serving.metrics import IngressMetrics
from tests.support.group_stats import healed_group

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving.ingress_peers import IngressPeers, Measured
    from gptoss_ray.serving.token_stream import RoutedTokenSource, TokenStreams

OWN = Measured("own", IngressMetrics().families())
OTHER = Measured("other", IngressMetrics().families())


class Handle:
    """Answers a broadcast with what it was given, or raises it."""

    deployment_name = "m"

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def broadcast(self, method):
        self.asked.append(method)
        return self

    async def results_async(self, *, timeout_s, return_exceptions):
        assert return_exceptions, "one that fails must not hide the others"
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


async def measured(answers):
    peers = IngressPeers()
    peers._handle = Handle(answers)
    found = await peers.measured(OWN)
    assert peers._handle.asked == ["own_measured"]
    return found


async def test_every_ingress_that_answers_is_told_by_its_id():
    assert (await measured([OTHER, OWN])).keys() == {"own", "other"}


@pytest.mark.parametrize("answers", [[RuntimeError("gone"), OTHER], [OTHER]])
async def test_one_that_does_not_answer_is_left_out_and_the_one_that_is_asked_never(answers):
    assert (await measured(answers)).keys() == {"own", "other"}


async def test_where_none_can_be_asked_the_own_are_told():
    assert (await measured(TimeoutError("late"))).keys() == {"own"}


async def stats(answers):
    model = ServedModelConfig(name="m", checkpoint="demo")
    return await RoutedTokenSource(Handle(answers), TokenStreams(16), model).stats()


async def test_replicas_that_answer_are_told_and_others_left_out():
    group = healed_group()
    assert await stats([RuntimeError("gone"), group]) == [group]
    assert await stats(TimeoutError("late")) == []
