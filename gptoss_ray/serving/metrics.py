"""What an ingress measures, as Prometheus reads it; one registry for each ingress replica."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from gptoss_ray.errors import GptossError, InternalError
from gptoss_ray.generation import TokenOutput

if TYPE_CHECKING:
    from gptoss_ray.ranks.engine_rank import RankStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_NEXT_TOKEN_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5)
_WHOLE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class ChoiceWatch:
    """Measures one choice from its request to its end."""

    def __init__(self, metrics: IngressMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._start_s = self._last_s = time.monotonic()
        self._generation_tokens = metrics.generation_tokens.labels(model)
        self._first_token = metrics.time_to_first_token.labels(model)
        self._inter_token = metrics.inter_token.labels(model)
        self._has_tokens = False

    def took_prompt(self, num_tokens: int, num_cached_tokens: int) -> None:
        """Count a prompt, once however many choices it has."""
        self._metrics.prompt_tokens.labels(self._model).inc(num_tokens)
        self._metrics.cached_prompt_tokens.labels(self._model).inc(num_cached_tokens)

    def took_output(self, output: TokenOutput) -> None:
        """Count an output's tokens and the time since the one before."""
        if not output.token_ids:
            return
        now_s = time.monotonic()
        histogram = self._inter_token if self._has_tokens else self._first_token
        histogram.observe(now_s - self._last_s)
        self._last_s = now_s
        self._has_tokens = True
        self._generation_tokens.inc(len(output.token_ids))

    def ended(self, reason: str, repairs: Mapping[str, int], num_reasoning_tokens: int) -> None:
        """Count a choice that came to its end."""
        metrics = self._metrics
        metrics.choices.labels(self._model, reason).inc()
        metrics.reasoning_tokens.labels(self._model).inc(num_reasoning_tokens)
        metrics.duration.labels(self._model).observe(time.monotonic() - self._start_s)
        for kind, count in repairs.items():
            metrics.harmony_repairs.labels(self._model, kind).inc(count)


class IngressMetrics:
    """The counters, gauges and histograms; `docs/api.md` has the names that vLLM's dashboards expect."""

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
        self.sequences_running = self._gauge(
            "sequences_running", "Sequences that own KV blocks, by rank of one replica.", "rank"
        )
        self.sequences_waiting = self._gauge(
            "sequences_waiting", "Sequences that wait for a seat or for KV blocks.", "rank"
        )
        self.requests_queued = self._gauge("requests_queued", "Requests that wait for a rank of one replica.")
        self.kv_cache_usage = self._gauge("kv_cache_usage_ratio", "Share of KV blocks in use.", "rank")
        self.duration = self._histogram(
            "choice_duration_seconds", "From the request to the end of a choice.", _WHOLE_S
        )

    @contextmanager
    def watch(self, model: str) -> Iterator[ChoiceWatch]:
        """Measure a choice; what is raised inside, but not a reader's leaving, is a failure."""
        gauge = self.in_progress.labels(model)
        gauge.inc()
        try:
            yield ChoiceWatch(self, model)
        except Exception as error:
            code = error.code if isinstance(error, GptossError) else InternalError.code
            self.failures.labels(model, code or "invalid_request").inc()
            raise
        finally:
            gauge.dec()

    def note_ranks(self, ranks: Mapping[str, Sequence[RankStats]]) -> None:
        """Take what the ranks of each model report now in place of what they reported before."""
        gauges = {
            "num_running": self.sequences_running,
            "num_waiting": self.sequences_waiting,
            "kv_cache_usage": self.kv_cache_usage,
        }
        self.requests_queued.clear()
        for model, stats in ranks.items():
            if stats:
                self.requests_queued.labels(model).set(stats[0].num_queued)
        for field, gauge in gauges.items():
            gauge.clear()
            for model, stats in ranks.items():
                for rank in stats:
                    gauge.labels(model, str(rank.rank)).set(getattr(rank.engine, field))

    def exposition(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"gptoss_{name}", text, ("model", *labels), registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"gptoss_{name}", text, ("model", *labels), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gptoss_{name}", text, ("model",), buckets=buckets, registry=self._registry)
