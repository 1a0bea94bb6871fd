"""What a client may send over gRPC that is wrong, and exactly what it is told."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from gptoss_ray.client import chat_request, generate_request
from gptoss_ray.protos.gptoss.v1 import chat_pb2, common_pb2, generation_pb2
from tests.support.ingresses import MAX_CONTEXT, MODEL

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
_UNREADABLE = grpc.StatusCode.UNKNOWN
"""What the gRPC library itself says of bytes that are none of the message that it expects."""


@dataclass(frozen=True)
class GrpcCase:
    """A message as bytes, and the status that answers it, with something that its text says."""

    name: str
    sent: bytes
    said: str
    code: grpc.StatusCode = _INVALID
    method: str = "/gptoss.v1.ChatService/Chat"


def _chat(name: str, said: str, message: chat_pb2.ChatRequest) -> GrpcCase:
    return GrpcCase(name, message.SerializeToString(), said)


def _generate(name: str, said: str, message: Message) -> GrpcCase:
    return GrpcCase(name, message.SerializeToString(), said, method="/gptoss.v1.GenerationService/Generate")


def _sampling(name: str, said: str, **fields: float) -> GrpcCase:
    return _chat(name, said, chat_request(MODEL, "hi", sampling=common_pb2.SamplingParams(**fields)))


_NESTED_GROUPS = b"\xfb\x3f" * 5000
"""Start of group 1023, over and over: what a message within a message within a message is to a parser."""

GRPC_CASES = [
    GrpcCase("garbage", b"\xff" * 100, "DecodeError", _UNREADABLE),
    GrpcCase("a message cut short", b"\x0a\x7fa", "DecodeError", _UNREADABLE),
    GrpcCase("5,000 messages deep", _NESTED_GROUPS, "DecodeError", _UNREADABLE),
    GrpcCase("text that is no UTF-8", b"\x0a\x02\xff\xfe", "DecodeError", _UNREADABLE),
    GrpcCase("an empty message", b"", "messages"),
    GrpcCase(
        "no such model",
        chat_request("gpt-9", "hi").SerializeToString(),
        "model_not_found",
        grpc.StatusCode.NOT_FOUND,
    ),
    _chat("no messages", "messages", chat_pb2.ChatRequest(model=MODEL)),
    _chat("an effort of no name", "reasoning_effort", chat_pb2.ChatRequest(model=MODEL, reasoning_effort=99)),
    _chat(
        "parameters that are no JSON",
        "parameters_json",
        chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="f", parameters_json="[" * 9999)]),
    ),
    _chat(
        "a control token for a name",
        "tools[0]",
        chat_request(MODEL, "x", tools=[chat_pb2.Tool(name="<|call|>")]),
    ),
    _sampling("a temperature of 3", "temperature", temperature=3),
    _sampling("a temperature that is no number", "temperature", temperature=float("nan")),
    _sampling("a temperature beyond all", "temperature", temperature=float("inf")),
    _sampling("n of a billion", "n is 1000000000", n=10**9),
    _sampling("top_p of 0", "top_p", top_p=0),
    _generate("no prompt", "prompt", generation_pb2.GenerateRequest(model=MODEL)),
    _generate("a token id of no token", "prompt", generate_request(MODEL, [99_999])),
    _generate(
        "a prompt over the context", "context_length_exceeded", generate_request(MODEL, [1] * MAX_CONTEXT)
    ),
    _generate("a million spaces", "prompt", generate_request(MODEL, " " * 500_000)),
]
