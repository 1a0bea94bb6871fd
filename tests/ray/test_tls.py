"""HTTPS and gRPC over TLS with an authority of our own, through a real Serve."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import httpx
import pytest
import yaml

from gptoss_ray.client import chat_request
from gptoss_ray.protos.gptoss.v1 import chat_pb2
from gptoss_ray.serving.tls import CERTIFICATE_VARIABLE, KEY_VARIABLE
from tests.support.certificates import make_certificates
from tests.support.served_app import API_KEY, serve_app, write_config

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def test_both_protocols_speak_tls_and_nothing_else(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certificates = make_certificates(tmp_path)
    path = write_config(tmp_path / "serve.yaml", tiny_checkpoint)
    config = yaml.safe_load(path.read_text())
    config["http_options"] |= {
        "ssl_keyfile": str(certificates.key),
        "ssl_certfile": str(certificates.certificate),
    }
    config["controller_options"]["runtime_env"]["env_vars"] |= {
        CERTIFICATE_VARIABLE: str(certificates.certificate),
        KEY_VARIABLE: str(certificates.key),
    }
    path.write_text(yaml.safe_dump(config))
    with serve_app(path) as app:
        https = f"https://localhost:{app.http_port}"
        trust = ssl.create_default_context(cafile=str(certificates.authority))
        with httpx.Client(base_url=https, verify=trust, headers=app.headers, timeout=60) as http:
            assert http.post("/v1/chat/completions", json=BODY).status_code == 200
        with httpx.Client(base_url=https, timeout=60) as stranger, pytest.raises(httpx.ConnectError):
            stranger.get("/live")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{app.http_port}/live", timeout=60)

        request = chat_request("tiny", "hi").SerializeToString()
        metadata = [("authorization", f"Bearer {API_KEY}")]
        credentials = grpc.ssl_channel_credentials(certificates.authority.read_bytes())
        target = f"localhost:{app.grpc_port}"
        with grpc.secure_channel(target, credentials) as channel:
            answer = channel.unary_unary("/gptoss.v1.ChatService/Chat")(
                request, metadata=metadata, timeout=60
            )
        assert chat_pb2.ChatResponse.FromString(answer).model == "tiny"
        for refused in (
            grpc.insecure_channel(target),
            grpc.secure_channel(target, grpc.ssl_channel_credentials()),
        ):
            with refused as channel, pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/gptoss.v1.ChatService/Chat")(request, metadata=metadata, timeout=5)
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
