"""The two servers that installed clients are pointed at: the demo model, and rules in place of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gptoss_ray.bench.scripted_process import scripted_process
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ServedModelConfig, ServingConfig
from gptoss_ray.serving.free_ports import LOOPBACK, free_ports
from gptoss_ray.serving.ruled_script import RULES, Rule
from gptoss_ray.serving.scripted_options import ScriptedAnswers, ScriptedServer, ScriptedServing
from tests.support.served_app import API_KEY, serve_app, write_demo_config

RULED_MODEL, RULED_ALIAS = "openai/gpt-oss-20b", "gpt-oss-20b"

_KEYS_VARIABLE = "RULED_SERVER_KEYS"


@dataclass(frozen=True)
class Server:
    """What a client has to know of a server."""

    url: str
    grpc_address: str
    model: str
    api_key: str = API_KEY

    def post(self, path: str, **body: Any) -> Any:
        """Ask without any client: what clients show is compared to this."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        response = httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=120)
        return response.raise_for_status().json()


@dataclass(frozen=True)
class RuledServer(Server):
    """A server whose model does as it is told, with the published vocabulary and context."""

    rules: Path = Path()

    def say(self, *rules: tuple[str, str]) -> None:
        """Set pairs of an expression, to be found in a prompt, and what to say to it; see `RuledScript`."""
        self.rules.write_bytes(
            RULES.dump_json([Rule(prompt=prompt, output=output) for prompt, output in rules])
        )


@contextmanager
def demo_server(folder: Path) -> Iterator[Server]:
    """Serve the demo model as its configuration says, but with a key and on free ports."""
    with serve_app(write_demo_config(folder / "demo.yaml", api_keys=[API_KEY])) as app:
        yield Server(app.base_url, f"{LOOPBACK}:{app.grpc_port}", "gpt-oss-demo")


@contextmanager
def ruled_server(folder: Path) -> Iterator[RuledServer]:
    """Serve rules; at first nothing is said to anything."""
    shape = ModelConfig.published("gpt-oss-20b")
    (folder / "config.json").write_text(json.dumps(shape.to_json("huggingface")), encoding="utf-8")
    engine = EngineConfig(kv_cache_bytes=1 << 20)
    model = ServedModelConfig(name=RULED_MODEL, aliases=(RULED_ALIAS,), checkpoint=str(folder), engine=engine)
    # A key in the configuration would not be written out.
    serving = ServingConfig(models=(model,), api_keys_env=_KEYS_VARIABLE)
    answers = {RULED_MODEL: ScriptedAnswers(rules=folder / "rules.json")}
    http_port, grpc_port = free_ports(2)
    server = RuledServer(
        f"http://{LOOPBACK}:{http_port}",
        f"{LOOPBACK}:{grpc_port}",
        RULED_MODEL,
        rules=folder / "rules.json",
    )
    # A rank warms up with a prompt of its own.
    server.say(("", ""))
    options = ScriptedServer(
        http_port=http_port,
        grpc_port=grpc_port,
        application=ScriptedServing(serving=serving, answers=answers),
    )
    with scripted_process(options, {_KEYS_VARIABLE: API_KEY}):
        yield server
