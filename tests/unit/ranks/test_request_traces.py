"""The spans that a rank makes of requests that come with a traceparent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio
from opentelemetry.trace import StatusCode

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import ConfigError, InvalidRequestError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.ranks import request_traces
from gptoss_ray.ranks.engine_rank import EngineRank
from tests.support.counting_engine import CountingEngine
from tests.support.traces import PARENT_ID, TRACE_ID, TRACEPARENT, MemoryTracer, parent_id, trace_id

REQUEST = GenerationRequest("r", (1, 2), SamplingParams(max_tokens=5), sink_id="a", traceparent=TRACEPARENT)


@pytest.fixture
def tracer(monkeypatch) -> Iterator[MemoryTracer]:
    tracer = MemoryTracer()
    monkeypatch.setattr(request_traces, "process_tracer", lambda: tracer)
    yield tracer
    tracer.close()


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine(step_s=0.001)


@pytest_asyncio.fixture
async def rank(engine: CountingEngine) -> AsyncIterator[EngineRank]:
    rank = EngineRank(ServedModelConfig(name="m", checkpoint="none"), 3, lambda *_: engine)
    await rank.load()
    await rank.start()
    yield rank
    rank.stop()


async def serve(rank: EngineRank, request: GenerationRequest) -> None:
    assert await rank.submit(request) is None
    await rank.wait_ended(request.request_id)


async def test_a_traced_request_has_a_prefill_and_a_decode_below_its_span(rank, tracer):
    await serve(rank, REQUEST)
    spans = tracer.spans()
    assert spans.keys() == {"prefill", "decode"}
    prefill, decode = spans["prefill"], spans["decode"]
    assert {trace_id(span) for span in spans.values()} == {TRACE_ID}
    assert {parent_id(span) for span in spans.values()} == {PARENT_ID}
    assert prefill.end_time <= decode.start_time <= decode.end_time
    assert prefill.attributes["gptoss.prompt_tokens"] == 2
    assert prefill.attributes["gptoss.rank"] == decode.attributes["gptoss.rank"] == 3
    assert prefill.attributes["gptoss.model"] == "m"
    assert decode.attributes["gptoss.output_tokens"] == 5
    assert decode.attributes["gptoss.finish_reason"] == "length"


async def test_a_request_without_a_traceparent_makes_no_span_and_no_tracer(rank, monkeypatch):
    monkeypatch.setattr(request_traces, "process_tracer", lambda: pytest.fail("asked for"))
    await serve(rank, replace(REQUEST, traceparent=""))
    assert not rank._traces


async def test_an_output_of_one_token_has_no_decode(rank, tracer):
    await serve(rank, replace(REQUEST, params=SamplingParams(max_tokens=1)))
    assert tracer.spans().keys() == {"prefill"}


async def test_a_refused_request_ends_its_span_as_an_error(rank, tracer):
    refusal = await rank.submit(replace(REQUEST, prompt_token_ids=(666,)))
    assert isinstance(refusal, InvalidRequestError)
    prefill = tracer.spans()["prefill"]
    assert prefill.status.status_code is StatusCode.ERROR
    assert prefill.attributes["error.type"] == "InvalidRequestError"
    assert not rank._traces


async def test_an_aborted_request_ends_what_is_under_way(rank, tracer):
    await rank.submit(replace(REQUEST, params=SamplingParams(max_tokens=100_000)))
    await rank.abort("r")
    await rank.wait_ended("r")
    last = list(tracer.spans().values())[-1]
    assert last.attributes["gptoss.finish_reason"] == "abort"
    assert not rank._traces


async def test_a_node_that_cannot_trace_serves_all_the_same_and_says_so_once(rank, monkeypatch, caplog):
    def missing() -> None:
        raise ConfigError("no exporter is installed.")

    monkeypatch.setattr(request_traces, "process_tracer", missing)
    await serve(rank, REQUEST)
    await serve(rank, REQUEST)
    assert [message for message in caplog.messages if message.startswith("tracing_off")] == [
        "tracing_off reason=no exporter is installed."
    ]
