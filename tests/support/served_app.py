"""Configuration files for test servers, and a handle on a server that runs in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.serving.free_ports import free_ports
from gptoss_ray.serving.scripted_options import ScriptedServer
from gptoss_ray.serving.session_processes import session_processes

ROOT = Path(__file__).parents[2]
API_KEY = "a-key-for-tests"


def write_tiny_checkpoint(folder: Path) -> None:
    """Write random weights that speak the whole o200k vocabulary."""
    write_checkpoint(folder, tiny_config(vocab_size=201_088, eos_token_ids=(200_002, 200_012)))


def write_config(path: Path, checkpoint: Path | str, **changes: Any) -> Path:
    """Write configs/demo.yaml with free ports, another checkpoint, a key, and one rank or `num_ranks`.

    One replica, or `num_replicas`, and one ingress, or `num_ingresses`, whatever the load, so that a test
    knows which.
    `parallel` and `engine` have more fields of these sections.
    """
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    http_port, grpc_port = free_ports(2)
    config["http_options"]["port"] = changes.get("http_port", http_port)
    config["grpc_options"]["port"] = changes.get("grpc_port", grpc_port)
    args = config["applications"][0]["args"]
    args["models"][0] |= {"checkpoint": str(checkpoint), "name": "tiny"}
    args["models"][0]["engine"] |= {"max_context": 2048, "kv_cache_bytes": 32 << 20} | changes.get(
        "engine", {}
    )
    args["models"][0]["parallel"] |= {"num_ranks": changes.get("num_ranks", 1)} | changes.get("parallel", {})
    del args["models"][0]["scaling"]
    deployments = {each["name"]: each for each in config["applications"][0]["deployments"]}
    del deployments["Ingress"]["autoscaling_config"]
    deployments["Ingress"]["num_replicas"] = changes.get("num_ingresses", 1)
    deployments["EngineReplica"]["num_replicas"] = changes.get("num_replicas", 1)
    args["api_keys"] = [API_KEY]
    path.write_text(yaml.safe_dump(config))
    return path


def write_demo_config(path: Path, **args: Any) -> Path:
    """Write configs/demo.yaml with free ports and more `args` of the application."""
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"], config["grpc_options"]["port"] = free_ports(2)
    config["applications"][0]["args"] |= args
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@dataclass
class ServedApp:
    """A running server and its addresses."""

    process: subprocess.Popen[str]
    session_id: str
    http_port: int
    grpc_port: int
    logs: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {API_KEY}"}

    @property
    def grpc_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {API_KEY}")]

    def ask(self, command: str) -> Any:
        """Send a command to the server's process; see serve_process.py."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the server's processes whose title has this text in it."""
        return [p for p in session_processes(self.session_id) if title in " ".join(p.cmdline())]

    def rank_stats(self) -> dict[str, Any]:
        """Return the counters of the only rank."""
        stats = self.ask("stats")
        assert len(stats) == 1
        rank: dict[str, Any] = stats[0]
        return rank


@contextmanager
def serve_app(config_path: Path, **environment: str) -> Iterator[ServedApp]:
    """Run a server until the block ends; all its processes have these variables besides the present ones."""
    config = yaml.safe_load(config_path.read_text())
    with _serve_process(
        config_path, config["http_options"]["port"], config["grpc_options"]["port"], os.environ | environment
    ) as app:
        yield app


@contextmanager
def serve_script(path: Path, server: ScriptedServer, *, num_cpus: int | None) -> Iterator[ServedApp]:
    """Run a server over scripted engines until the block ends.

    Args:
        path: Where to write what it is told, a name that ends in `.json`.
        server: Where and what.
        num_cpus: That Ray is to find on this machine: scripts need next to none. None: one on its head, and
            one on each node that it adds.
    """
    path.write_text(server.model_dump_json(), encoding="utf-8")
    environment: Mapping[str, str] = os.environ
    if num_cpus is not None:
        environment = os.environ | {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": num_cpus})}
    kind = "elastic" if num_cpus is None else "local"
    with _serve_process(path, server.http_port, server.grpc_port, environment, kind) as app:
        yield app


@contextmanager
def _serve_process(
    path: Path, http_port: int, grpc_port: int, environment: Mapping[str, str], kind: str = "local"
) -> Iterator[ServedApp]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.serve_process", str(path), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server ended with {process.wait()} before it was ready"
        started = json.loads(line)
        yield ServedApp(process, started["session_id"], http_port, grpc_port, Path(started["logs"]))
        assert process.stdin is not None
        process.stdin.close()
        process.wait(120)
