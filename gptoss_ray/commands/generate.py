"""`gptoss-ray generate`: continue a raw prompt through the gRPC service, streamed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def generate(
    prompt: Annotated[
        str, typer.Argument(help="Raw text; harmony markers such as <|start|> are control tokens.")
    ],
    address: Annotated[str, typer.Option(help="gRPC address of the server.")] = "127.0.0.1:9000",
    model: Annotated[str | None, typer.Option(help="Model; the server's first where not given.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Output tokens at most.", min=1)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal text.")] = None,
    api_key: Annotated[str, typer.Option(envvar="GPTOSS_RAY_API_KEY", help="Key of the server.")] = "",
) -> None:
    """Continue a prompt as it is, without a chat format."""
    # gRPC takes a while to import: only this command pays for it.
    import grpc  # noqa: PLC0415

    from gptoss_ray.client import Client, generate_request  # noqa: PLC0415
    from gptoss_ray.errors import GptossError  # noqa: PLC0415
    from gptoss_ray.protos.gptoss.v1 import common_pb2  # noqa: PLC0415

    sampling = common_pb2.SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    try:
        with Client(address, api_key=api_key or None) as client:
            name = model or client.list_models()[0].name
            for piece in client.stream_generate(generate_request(name, prompt, sampling=sampling)):
                sys.stdout.write(piece.choice.text)
                sys.stdout.flush()
    except grpc.RpcError as error:
        code, details = getattr(error, "code", lambda: None)(), getattr(error, "details", lambda: "")()
        remedy = (
            "; start it with `make serve` or pass --address" if code is grpc.StatusCode.UNAVAILABLE else ""
        )
        raise GptossError(f"{address}: {details}{remedy}.") from error
    sys.stdout.write("\n")
