"""The services over one channel, and what every call sends along."""

from __future__ import annotations

from typing import Any

import grpc

from gptoss_ray.protos.gptoss.v1 import (
    chat_pb2_grpc,
    generation_pb2_grpc,
    models_pb2_grpc,
    responses_pb2_grpc,
    server_pb2_grpc,
    tokenize_pb2_grpc,
)

Metadata = tuple[tuple[str, str], ...]


class Stubs:
    """Generated stubs are untyped; the clients' methods tell the types."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel, api_key: str | None) -> None:
        self.chat: Any = chat_pb2_grpc.ChatServiceStub(channel)
        self.generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self.models: Any = models_pb2_grpc.ModelServiceStub(channel)
        self.responses: Any = responses_pb2_grpc.ResponsesServiceStub(channel)
        self.server: Any = server_pb2_grpc.ServerServiceStub(channel)
        self.tokenize: Any = tokenize_pb2_grpc.TokenizeServiceStub(channel)
        self._key: Metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    def metadata(self, request_id: str | None = None) -> Metadata:
        """Return the metadata of a call that may be aborted by an id."""
        return (*self._key, ("x-request-id", request_id)) if request_id else self._key
