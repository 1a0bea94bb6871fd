"""Ray and Serve on hosts in namespaces, started by Ray's own commands, as an operator would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from gptoss_ray.serving.ray_token import write_token
from tests.support.hosts import Host
from tests.support.served_app import API_KEY, ROOT

KEY = {"Authorization": f"Bearer {API_KEY}"}
RAY_PORT = 6379
START_WITHIN_S = 240.0
NODE_OPTIONS = ("--num-cpus=2", f"--object-store-memory={80 << 20}", "--disable-usage-stats")


def ray_environment(folder: Path) -> dict[str, str]:
    """Return the environment of every Ray process: a token of the test is demanded."""
    token = folder / "auth_token"
    write_token(token)
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_core_worker_rpc_server_reconnect_timeout_base_s": "0",
        "RAY_grpc_client_check_connection_status_interval_milliseconds": "100",
        "OMP_NUM_THREADS": "1",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | ours


def start_ray(cluster: Sequence[Host], environment: dict[str, str]) -> None:
    """Start the head on the first host and a node on each of the others."""
    head, *others = cluster
    start = (script("ray"), "start", *NODE_OPTIONS)
    here = (f"--node-ip-address={head.address}", f"--port={RAY_PORT}", "--include-dashboard=false")
    head.run(*start, "--head", *here, env=environment)
    for host in others:
        address = (f"--address={head.address}:{RAY_PORT}", f"--node-ip-address={host.address}")
        host.run(*start, *address, env=environment)


def demo_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    model = config["applications"][0]["args"]["models"][0]
    model["name"] = "demo"
    del model["parallel"]["num_ranks"]
    return config


def write_config(path: Path, head: Host, num_ranks: int, num_nodes: int, *, name: str = "demo") -> Path:
    """Write a configuration of the demo model, called `name`, on ranks of several hosts.

    There is one replica, and one ingress on the head, beside the proxy.
    """
    config = demo_config()
    config["http_options"]["host"] = head.address
    args = config["applications"][0]["args"]
    args["models"][0] |= {"name": name}
    del args["models"][0]["scaling"]
    (ingress,) = [each for each in config["applications"][0]["deployments"] if each["name"] == "Ingress"]
    del ingress["autoscaling_config"]
    ingress["ray_actor_options"] = {"resources": {"node:__internal_head__": 0.001}}
    args["models"][0]["parallel"] |= {"num_ranks": num_ranks, "num_nodes": num_nodes}
    args["api_keys"] = [API_KEY]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@contextmanager
def served(head: Host, config: Path, environment: dict[str, str]) -> Iterator[str]:
    """Serve a file with Ray's own command; yields the address of its HTTP side."""
    options = yaml.safe_load(config.read_text(encoding="utf-8"))["http_options"]
    url = f"http://{options['host']}:{options['port']}"
    log = config.with_suffix(".log")
    command = head.command(script("serve"), "run", "--address=auto", str(config))
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            deadline = time.monotonic() + START_WITHIN_S
            while not answers(url):
                assert process.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
                time.sleep(0.5)
            yield url
        finally:
            process.kill()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def script(name: str) -> str:
    """Return the path of a command of the packages installed here."""
    return str(Path(sys.executable).with_name(name))
