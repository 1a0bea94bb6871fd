"""Measures what drafts gain: the same requests without them, with those that should pay, and with all.

The modes take turns within a round, so that they see the same machine, and have to answer alike, token for
token. Random weights do not write texts that repeat themselves, so that there a drafter knows the answers and
is right as often as it is told to be; the demo model answers questions, and drafts come from the text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass, field
from random import Random

from gptoss_ray.bench.engine_cases import DecodeCase, engine_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.draft import Draft, Drafter
from gptoss_ray.engine.engine import Engine
from gptoss_ray.engine.ngram_drafter import NgramDrafter
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.errors import GptossError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model.transformer import Transformer

MODES = ("off", "auto", "ngram")
_PROMPT_TOKENS = 16

Answers = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Workload:
    """Requests, and who drafts for them.

    Attributes:
        name: As it is printed.
        requests: All submitted at once.
        num_streams: That decode together.
        make_drafter: From what the requests are answered.
    """

    name: str
    requests: tuple[GenerationRequest, ...]
    num_streams: int
    make_drafter: Callable[[Answers], Drafter] = lambda _: NgramDrafter()

    @property
    def case(self) -> DecodeCase:
        """Whose KV memory is enough."""
        longest = max(len(each.prompt_token_ids) + each.params.max_tokens for each in self.requests)
        return DecodeCase(self.num_streams, longest)


@dataclass
class ModeResult:
    """What a workload took in one mode."""

    workload: str
    num_streams: int
    mode: str
    tokens_per_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0

    def row(self, plain: ModeResult) -> dict[str, float | int | str]:
        """Return the figures that are printed; ratios are those of rounds, the median first."""
        ratios = [mine / other for mine, other in zip(self.tokens_per_s, plain.tokens_per_s, strict=True)]
        return {
            "workload": self.workload,
            "streams": self.num_streams,
            "speculation": self.mode,
            "tokens_per_s": round(statistics.median(self.tokens_per_s), 2),
            "ratio": round(statistics.median(ratios), 2),
            "ratios": f"{min(ratios):.2f}-{max(ratios):.2f}",
            "tokens_per_step": round(self.num_tokens / self.num_steps, 2),
            "drafted": self.num_draft_tokens,
            "accepted_percent": round(100 * self.num_accepted_tokens / max(1, self.num_draft_tokens), 1),
        }


class RightAtTimes:
    """Drafts answers that it knows; each token is right with a likelihood, and behind a wrong one none is."""

    def __init__(self, answers: Answers, likelihood: float, vocab_size: int) -> None:
        self._answers = answers
        self._likelihood = likelihood
        self._vocab_size = vocab_size
        self._random = Random(0)

    def propose(
        self, sequences: ReadOnlySequence[Sequence], max_lengths: ReadOnlySequence[int]
    ) -> list[Draft]:
        """See `Drafter`."""
        return [self._propose(*each) for each in zip(sequences, max_lengths, strict=True)]

    def _propose(self, sequence: Sequence, max_length: int) -> Draft:
        start = sequence.num_output_tokens
        return tuple(
            token_id if self._random.random() < self._likelihood else (token_id + 1) % self._vocab_size
            for token_id in self._answers[sequence.request_id][start : start + max(0, max_length)]
        )


def random_workloads(
    vocab_size: int, streams: ReadOnlySequence[int], likelihoods: ReadOnlySequence[float], num_tokens: int
) -> list[Workload]:
    """Return short random prompts, for each number of streams and each likelihood of a right draft."""
    random = Random(0)
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens)

    def requests(num_streams: int) -> tuple[GenerationRequest, ...]:
        return tuple(
            GenerationRequest(
                f"r{number}", tuple(random.choices(range(vocab_size), k=_PROMPT_TOKENS)), params
            )
            for number in range(num_streams)
        )

    return [
        Workload(
            f"drafts right at {likelihood:g}",
            requests(num_streams),
            num_streams,
            lambda answers, likelihood=likelihood: RightAtTimes(answers, likelihood, vocab_size),  # type: ignore[misc]
        )
        for num_streams in streams
        for likelihood in likelihoods
    ]


def run(
    transformer: Transformer,
    engine: EngineConfig,
    workloads: ReadOnlySequence[Workload],
    num_rounds: int,
    note: Callable[[str], None] = lambda _: None,
) -> list[dict[str, float | int | str]]:
    """Measure every workload in every mode; return the rows of a table.

    Raises:
        GptossError: Drafts changed an answer.
    """
    rows = []
    for workload in workloads:
        note(f"{workload.name}, {workload.num_streams} stream(s), {num_rounds} round(s)")
        rows += _measure(transformer, engine, workload, num_rounds)
    return rows


def _measure(
    transformer: Transformer, engine: EngineConfig, workload: Workload, num_rounds: int
) -> list[dict[str, float | int | str]]:
    config = engine_config(engine, transformer.config, [workload.case], workload.case.context)
    plain = Engine(transformer, config.model_copy(update={"speculation": "off"}))
    expected, _ = _answer(plain, workload)
    plain.close()
    results = [ModeResult(workload.name, workload.num_streams, mode) for mode in MODES]
    for _ in range(num_rounds):
        for result in results:
            changes = {"speculation": result.mode}
            under_test = Engine(
                transformer, config.model_copy(update=changes), drafter=workload.make_drafter(expected)
            )
            answers, seconds = _answer(under_test, workload)
            if answers != expected:
                raise GptossError(
                    f"with drafts, {workload.name} was answered otherwise: a fault of the engine"
                )
            _add(result, under_test, seconds)
            under_test.close()
    return [result.row(results[0]) for result in results]


def _answer(engine: Engine, workload: Workload) -> tuple[dict[str, tuple[int, ...]], float]:
    """Return all outputs and the seconds until the last."""
    answers: dict[str, tuple[int, ...]] = {request.request_id: () for request in workload.requests}
    began = time.perf_counter()
    for request in workload.requests:
        engine.submit(request)
    while engine.has_work:
        for output in engine.step():
            answers[output.request_id] += output.token_ids
    return answers, time.perf_counter() - began


def _add(result: ModeResult, engine: Engine, seconds: float) -> None:
    stats = engine.stats()
    result.tokens_per_s.append(stats.num_generation_tokens / seconds)
    result.num_tokens += stats.num_generation_tokens
    result.num_steps += stats.num_steps
    result.num_draft_tokens += stats.num_draft_tokens
    result.num_accepted_tokens += stats.num_accepted_tokens
