"""Spans of OpenTelemetry, opt-in: who makes them, and which one a task works under.

A span's parent is a W3C traceparent, a string, so that it crosses processes beside a request. Nothing of
OpenTelemetry is imported, and no span is made, unless the configuration says `tracing: true`; a rank makes
some for requests that come with a traceparent, and only the ingress puts one there. What is exported where is
told by the standard variables (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, ...).

No attribute has any text of a prompt or an answer, and none has a key.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from gptoss_ray.errors import ConfigError, GptossError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

TRACEPARENT = "traceparent"
SERVICE_NAME = "gptoss_ray"

Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]
_NONE: Attributes = {}

_current: ContextVar[str] = ContextVar("traceparent", default="")
_making = threading.Lock()


def current_traceparent() -> str:
    """Return the traceparent of the request that this task works on; "" where it is not traced."""
    return _current.get()


def set_current_traceparent(traceparent: str) -> None:
    """Have the rest of this task's work belong to a span."""
    _current.set(traceparent)


class Span:
    """One span; ends once.

    Attributes:
        traceparent: What its children are told; "" where it is not sampled, so that there are none.
    """

    def __init__(self, span: OtelSpan, traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def rename(self, name: str) -> None:
        """Give it another name, now that more is known."""
        self._span.update_name(name)

    def end(self, attributes: Attributes = _NONE, *, error: str = "") -> None:
        """End it; `error` is the code of what failed."""
        if error:
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attributes(attributes)
        self._span.end()


class Tracer:
    """Makes spans and exports them from a thread of its own.

    Args:
        exporter: Where they go.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = TracerProvider(resource=_resource())
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE_NAME)
        self._propagator = TraceContextTextMapPropagator()

    def start(
        self,
        name: str,
        parent: str = "",
        attributes: Attributes = _NONE,
        *,
        is_server: bool = False,
    ) -> Span:
        """Begin a span below a traceparent; one that is malformed counts as none."""
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415

        context = self._propagator.extract({TRACEPARENT: parent} if parent else {}, Context())
        span = self._tracer.start_span(
            name,
            context,
            SpanKind.SERVER if is_server else SpanKind.INTERNAL,
            attributes,
        )
        carrier: dict[str, str] = {}
        if span.is_recording():
            self._propagator.inject(carrier, set_span_in_context(span, Context()))
        return Span(span, carrier.get(TRACEPARENT, ""))

    def flush(self, timeout_s: float = 5.0) -> None:
        """Export what has ended, and wait for that."""
        self._provider.force_flush(round(timeout_s * 1000))


def process_tracer() -> Tracer:
    """Return the tracer of this process, made when it is first asked for.

    Raises:
        ConfigError: The SDK, or the exporter that the environment asks for, is not installed.
    """
    with _making:
        return _process_tracer()


@contextmanager
def span(tracer: Tracer | None, name: str, parent: str) -> Iterator[dict[str, Attribute]]:
    """Make a span of the block, where the parent is traced; yields its attributes, to be filled in.

    What is raised inside is the span's error.
    """
    found: dict[str, Attribute] = {}
    if tracer is None or not parent:
        yield found
        return
    started = tracer.start(name, parent)
    error = ""
    try:
        yield found
    except BaseException as raised:
        error = error_code(raised)
        raise
    finally:
        started.end(found, error=error)


def error_code(error: BaseException) -> str:
    """Return what a span says of an error: our code, or the name of the class, and never the message."""
    code = error.code if isinstance(error, GptossError) else None
    return code or type(error).__name__


@cache
def _process_tracer() -> Tracer:
    return Tracer(_exporter())


def check_exporter() -> None:
    """Raise ConfigError where the exporter that the environment asks for is not installed."""
    _exporter_entry()


def _exporter() -> SpanExporter:
    exporter: SpanExporter = _exporter_entry().load()()
    return exporter


def _exporter_entry() -> EntryPoint:
    name = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip()
    if name == "otlp":
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = f"otlp_proto_{protocol.partition('/')[0]}"
    found = entry_points(group="opentelemetry_traces_exporter", name=name)
    if not found:
        raise ConfigError(
            f"tracing is on, and no OpenTelemetry exporter {name} is installed; install gptoss-ray[tracing] "
            "on every node, or set OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_PROTOCOL to one that is.",
            param="tracing",
        )
    return next(iter(found))


def _resource() -> Any:
    from opentelemetry.sdk.resources import SERVICE_NAME as NAME_KEY  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

    found = Resource.create()
    is_named = not str(found.attributes.get(NAME_KEY, "unknown_service")).startswith("unknown_service")
    return found if is_named else found.merge(Resource({NAME_KEY: SERVICE_NAME}))
