"""Where spans go, and what they are called; the variables are OpenTelemetry's own."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from gptoss_ray import tracing
from gptoss_ray.errors import ConfigError, UnavailableError
from gptoss_ray.tracing import Tracer
from tests.support.traces import TRACEPARENT, MemoryTracer, otlp_collector


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (
        "TRACES_EXPORTER",
        "EXPORTER_OTLP_PROTOCOL",
        "EXPORTER_OTLP_TRACES_PROTOCOL",
        "SERVICE_NAME",
    ):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


def test_spans_reach_a_collector_by_the_standard_variables(monkeypatch):
    with otlp_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        for name in (None, "mine"):
            if name is not None:
                monkeypatch.setenv("OTEL_SERVICE_NAME", name)
            tracer = Tracer(tracing._exporter())
            tracer.start("work", TRACEPARENT, {"gptoss.rank": 1}).end()
            tracer.flush()
            tracer._provider.shutdown()
        assert [(service, span.name) for service, span in collector.spans()] == [
            ("gptoss_ray", "work"),
            ("mine", "work"),
        ]


def test_the_exporter_is_the_one_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert isinstance(tracing._exporter(), ConsoleSpanExporter)


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")]
)
def test_an_exporter_that_is_not_installed_is_named_with_a_remedy(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    for make in (tracing.check_exporter, tracing._exporter):
        with pytest.raises(ConfigError, match=r"install gptoss-ray\[tracing\]"):
            make()


def test_a_span_that_the_environment_does_not_sample_has_no_children(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracer = MemoryTracer()
    assert tracer.start("work", TRACEPARENT).traceparent == ""
    tracer.close()


def test_a_block_is_a_span_and_what_it_raises_the_error():
    tracer = MemoryTracer()
    with pytest.raises(UnavailableError), tracing.span(tracer, "block", TRACEPARENT) as attributes:
        attributes["gptoss.rank"] = 2
        raise UnavailableError("a secret.")
    block = tracer.spans()["block"]
    assert dict(block.attributes) == {"gptoss.rank": 2, "error.type": "unavailable"}
    assert not block.events, "an exception's message may have anything in it"
    tracer.close()


def test_a_block_without_a_traced_parent_is_none():
    tracer = MemoryTracer()
    with tracing.span(tracer, "block", ""), tracing.span(None, "block", TRACEPARENT):
        pass
    assert tracer.spans() == {}
    tracer.close()
