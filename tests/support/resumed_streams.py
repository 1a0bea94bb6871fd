"""Streams over gRPC by the client library, which resumes them: what each said, and its longest pause."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from gptoss_ray.client import AsyncClient, RetryPolicy, generate_request
from gptoss_ray.protos.gptoss.v1 import common_pb2
from tests.support.served_app import API_KEY, ServedApp

NUM_TOKENS = 200
PATIENT = RetryPolicy(max_attempts=60, max_backoff_s=2.0)


@dataclass
class ResumedStream:
    """A stream's end: its text and log probabilities, or why it broke for good."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    num_output_tokens: int = 0
    problem: str = ""
    longest_pause_s: float = 0.0

    @property
    def said(self) -> tuple[object, ...]:
        """All that must not depend on what happens to the server."""
        return self.text, self.logprobs, self.num_output_tokens, self.problem


def patient_client(served: ServedApp) -> AsyncClient:
    """Return a client that goes on trying for a minute or two."""
    return AsyncClient(f"127.0.0.1:{served.grpc_port}", api_key=API_KEY, retry=PATIENT)


async def stream(
    client: AsyncClient, number: int, note_piece: Callable[[], None] = lambda: None
) -> ResumedStream:
    """Stream one of many different answers to its end; `note_piece` is called whenever something comes."""
    sampling = common_pb2.SamplingParams(
        temperature=0.0 if number % 2 else 0.7,
        seed=number,
        max_tokens=NUM_TOKENS,
        ignore_eos=True,
        top_logprobs=0,
    )
    prompt = f"{number} streams go on and on. " * (1 + number % 5)
    answer, last_s = ResumedStream(), None
    try:
        async for piece in client.stream_generate(generate_request("tiny", prompt, sampling=sampling)):
            now_s = time.monotonic()
            answer.longest_pause_s = max(answer.longest_pause_s, now_s - (last_s or now_s))
            last_s = now_s
            note_piece()
            if piece.HasField("choice"):
                answer.text += piece.choice.text
                answer.logprobs += [token.chosen.logprob for token in piece.choice.logprobs]
            if piece.HasField("usage"):
                answer.num_output_tokens = piece.usage.completion_tokens
    except grpc.RpcError as error:
        answer.problem = f"{error.code().name}: {error.details()}"
    return answer
