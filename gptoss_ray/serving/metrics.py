"""What an ingress measures of its requests; one registry for each ingress replica."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric

from gptoss_ray.errors import GptossError, InternalError
from gptoss_ray.generation import TokenOutput

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_NEXT_TOKEN_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5)
_NUM_TOKENS = tuple(1 << exponent for exponent in range(18))
_WHOLE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class ChoiceWatch:
    """Measures one choice from its request to its end."""

    def __init__(self, metrics: IngressMetrics, model: str, num_prompt_tokens: int) -> None:
        self._metrics = metrics
        self._model = model
        self._start_s = self._last_s = time.monotonic()
        self._generation_tokens = metrics.generation_tokens.labels(model)
        self._first_token = metrics.time_to_first_token.labels(model)
        self._inter_token = metrics.inter_token.labels(model)
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._first_s = self._start_s

    def took_prompt(self, num_tokens: int, num_cached_tokens: int) -> None:
        """Count a prompt, once however many choices it has."""
        self._metrics.prompt_tokens.labels(self._model).inc(num_tokens)
        self._metrics.cached_prompt_tokens.labels(self._model).inc(num_cached_tokens)

    def took_output(self, output: TokenOutput) -> None:
        """Count an output's tokens and the time since the one before."""
        if not output.token_ids:
            return
        now_s = time.monotonic()
        histogram = self._inter_token if self._num_tokens else self._first_token
        histogram.observe(now_s - self._last_s)
        if not self._num_tokens:
            self._first_s = now_s
        self._last_s = now_s
        self._num_tokens += len(output.token_ids)
        self._generation_tokens.inc(len(output.token_ids))

    def ended(self, reason: str, repairs: Mapping[str, int], num_reasoning_tokens: int) -> None:
        """Count a choice that came to its end."""
        metrics = self._metrics
        metrics.choices.labels(self._model, reason).inc()
        metrics.reasoning_tokens.labels(self._model).inc(num_reasoning_tokens)
        metrics.duration.labels(self._model).observe(time.monotonic() - self._start_s)
        metrics.decode_time.labels(self._model).observe(self._last_s - self._first_s)
        metrics.choice_prompt_tokens.labels(self._model).observe(self._num_prompt_tokens)
        metrics.choice_generation_tokens.labels(self._model).observe(self._num_tokens)
        for kind, count in repairs.items():
            metrics.harmony_repairs.labels(self._model, kind).inc(count)


class PhaseWatch(NamedTuple):
    """Told how long each request took, in seconds, to get to a rank, and from there to its first token."""

    note_queue: Callable[[float], None] = lambda _: None
    note_prefill: Callable[[float], None] = lambda _: None


class IngressMetrics:
    """The counters, gauges and histograms; `docs/monitoring.md` has the names that vLLM's users know."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.in_progress = self._gauge("choices_in_progress", "Choices that wait for tokens or get them.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.cached_prompt_tokens = self._counter(
            "cached_prompt_tokens", "Tokens of prompts that were in the prefix cache."
        )
        self.generation_tokens = self._counter("generation_tokens", "Tokens drawn, reasoning included.")
        self.reasoning_tokens = self._counter("reasoning_tokens", "Tokens drawn on the analysis channel.")
        self.choices = self._counter("choices", "Choices that ended, by reason.", "finish_reason")
        self.migrations = self._counter("migrations", "Lost requests that went on elsewhere.")
        self.failures = self._counter("failures", "Choices that failed, by error code.", "code")
        self.harmony_repairs = self._counter(
            "harmony_repairs", "Malformed pieces of output that were repaired, by kind.", "kind"
        )
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", _FIRST_TOKEN_S
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "From one output of a choice to the next.", _NEXT_TOKEN_S
        )
        self.queue_time = self._histogram(
            "queue_time_seconds", "From the request to its rank, each time that it is sent.", _FIRST_TOKEN_S
        )
        self.prefill_time = self._histogram(
            "prefill_time_seconds", "From the rank to the first token that it makes.", _FIRST_TOKEN_S
        )
        self.decode_time = self._histogram(
            "decode_time_seconds", "From the first token of a choice to its last.", _WHOLE_S
        )
        self.choice_prompt_tokens = self._histogram(
            "choice_prompt_tokens", "Tokens of the prompt of a choice that ended.", _NUM_TOKENS
        )
        self.choice_generation_tokens = self._histogram(
            "choice_generation_tokens", "Tokens drawn for a choice that ended.", _NUM_TOKENS
        )
        self.duration = self._histogram(
            "choice_duration_seconds", "From the request to the end of a choice.", _WHOLE_S
        )

    @contextmanager
    def watch(self, model: str, num_prompt_tokens: int) -> Iterator[ChoiceWatch]:
        """Measure a choice; what is raised inside, but not a reader's leaving, is a failure."""
        gauge = self.in_progress.labels(model)
        gauge.inc()
        try:
            yield ChoiceWatch(self, model, num_prompt_tokens)
        except Exception as error:
            code = error.code if isinstance(error, GptossError) else InternalError.code
            self.failures.labels(model, code or "invalid_request").inc()
            raise
        finally:
            gauge.dec()

    def families(self) -> list[Metric]:
        """Return all of them as they are now."""
        return list(self._registry.collect())

    def phases(self, model: str) -> PhaseWatch:
        """Return what times a model's requests on their way through a rank."""
        return PhaseWatch(self.queue_time.labels(model).observe, self.prefill_time.labels(model).observe)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gptoss_{name}", text, ("model", *labels), registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"gptoss_{name}", text, ("model", *labels), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gptoss_{name}", text, ("model",), buckets=buckets, registry=self._registry)
