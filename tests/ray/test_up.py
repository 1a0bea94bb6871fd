"""`gptoss-ray up` over real ssh, with Ray's own `ray up`: from nothing to answers, and back to nothing."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.hosts import Host
from tests.support.served_app import API_KEY, ROOT
from tests.support.ssh_hosts import SshHost, ssh_hosts, why_no_ssh_hosts

UP_WITHIN_S = 1500.0
GONE_WITHIN_S = 60.0
ANSWER = "17 + 25 = 42."
KEYS = "/run/gptoss/keys.yaml"

pytestmark = [pytest.mark.up, pytest.mark.timeout(3600)]

ASK_HTTP = """
import sys, httpx
question = {"model": "gpt-oss-demo", "temperature": 0, "messages": [{"role": "user", "content": "17 + 25"}]}
headers = {"authorization": f"Bearer {sys.argv[2]}"} if len(sys.argv) > 2 else {}
url = f"http://{sys.argv[1]}:8000/v1/chat/completions"
answer = httpx.post(url, json=question, headers=headers, timeout=120)
print(answer.status_code, answer.json().get("choices", [{"message": {}}])[0]["message"].get("content"))
"""
ASK_GRPC = """
import sys
from gptoss_ray.client import Client, chat_request
from gptoss_ray.protos.gptoss.v1.common_pb2 import SamplingParams
with Client(f"{sys.argv[1]}:9000", api_key=sys.argv[2]) as client:
    request = chat_request("gpt-oss-demo", "17 + 25", sampling=SamplingParams(temperature=0))
    print(client.chat(request).choices[0].content)
"""
ASK_DASHBOARD = """
import sys, urllib.error, urllib.request
token = open(sys.argv[1]).read().strip() if len(sys.argv) > 1 else "wrong"
request = urllib.request.Request("http://127.0.0.1:8265/api/serve/applications/")
request.add_header("Authorization", f"Bearer {token}")
try:
    print(urllib.request.urlopen(request, timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module", autouse=True)
def _needs_hosts() -> None:
    reason = why_no_ssh_hosts()
    if reason is not None:
        pytest.skip(reason)


@dataclass(frozen=True)
class Operator:
    """Somebody on a host outside the cluster, with a cluster file and a configuration."""

    host: SshHost
    head: Host
    workers: list[Host]
    cluster: Path
    config: Path

    def run(self, *command: str, timeout_s: float = UP_WITHIN_S) -> str:
        return self.host.run(*command, env=environment(), timeout_s=timeout_s)

    def gptoss_ray(self, *arguments: str) -> str:
        return self.run(str(Path(sys.executable).with_name("gptoss-ray")), *arguments)

    def python(self, program: str, *arguments: str) -> str:
        return self.run(sys.executable, "-c", program, *arguments).strip()


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST"))}
    return kept | {"COLUMNS": "200"}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("up")
    with ssh_hosts(4, folder) as (outside, head, *workers):
        yield Operator(
            outside,
            head.host,
            [worker.host for worker in workers],
            write_cluster(folder, head, workers),
            write_config(folder / "serve.yaml"),
        )


def write_cluster(folder: Path, head: SshHost, workers: list[SshHost]) -> Path:
    """Write cluster/onprem.yaml for the hosts. Nothing is installed: this environment is on their disk."""
    content = yaml.safe_load((ROOT / "cluster/onprem.yaml").read_text(encoding="utf-8"))
    content["provider"] |= {
        "head_ip": head.host.address,
        "worker_ips": [worker.host.address for worker in workers],
    }
    content["auth"] = {"ssh_user": "root", "ssh_private_key": str(head.key)}
    keys = folder / "keys.yaml"
    keys.write_text(
        f'tester: {{sha256: "{hashlib.sha256(API_KEY.encode()).hexdigest()}"}}\n', encoding="utf-8"
    )
    content["file_mounts"] = {"~/.gptoss-ray-token": "~/.gptoss-ray-token", KEYS: str(keys)}
    kept = [command for command in content["setup_commands"] if "token" in command]
    assert len(kept) == 2, "the mode of the token's file, and what every shell exports"
    content["setup_commands"] = [f"ln -sfn {Path(sys.prefix)} ~/gptoss-ray-env", *kept]
    content["worker_setup_commands"] = []
    small = f"ray start --object-store-memory={80 << 20}"
    for field, options in (
        ("head_start_ray_commands", ""),
        ("worker_start_ray_commands", " --num-cpus=2 --num-gpus=0"),
    ):
        content[field][-1] = content[field][-1].replace("ray start", small + options)
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def write_config(path: Path, **model: Any) -> Path:
    """Write configs/demo.yaml with two ranks on two nodes, open to other hosts, with keys of a file."""
    content = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    content["http_options"] |= {"host": "0.0.0.0", "port": 8000}
    content["controller_options"]["runtime_env"]["env_vars"]["GPTOSS_RAY_GRPC_HOST"] = "0.0.0.0"
    args = content["applications"][0]["args"]
    args["api_keys_file"] = KEYS
    args["models"][0] |= {"parallel": {"num_ranks": 2, "num_nodes": 2}} | model
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_cluster_comes_from_nothing_answers_from_outside_and_goes_without_a_trace(operator):
    started_s = time.monotonic()
    told = operator.gptoss_ray("up", str(operator.cluster), str(operator.config))
    print(f"up and healthy in {time.monotonic() - started_s:.0f} s")
    assert told.endswith("healthy\n"), told
    check_answers(operator)
    check_group(operator)
    check_token(operator)
    check_status(operator)
    check_update(operator)
    operator.gptoss_ray("down", str(operator.cluster))
    gone_after_s = wait_until_gone([operator.head, *operator.workers])
    print(f"nothing left {gone_after_s:.0f} s after down")
    with pytest.raises(AssertionError, match="does not tell the cluster's status"):
        operator.gptoss_ray("status", str(operator.cluster))


def check_answers(operator: Operator) -> None:
    """HTTP and gRPC answer on the head's address, and only who has a key."""
    head = operator.head.address
    assert operator.python(ASK_HTTP, head, API_KEY) == f"200 {ANSWER}"
    assert operator.python(ASK_GRPC, head, API_KEY) == ANSWER
    assert operator.python(ASK_HTTP, head).startswith("401")


def check_group(operator: Operator) -> None:
    """A rank works on each worker, and none on the head."""
    assert [len(host.processes("ray::EngineRank")) for host in operator.workers] == [1, 1]
    assert operator.head.processes("ray::EngineRank") == []


def check_token(operator: Operator) -> None:
    """Ray's own API answers who has the cluster's token, and nobody else."""
    token = operator.host.home / ".gptoss-ray-token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert operator.head.run(sys.executable, "-c", ASK_DASHBOARD, env=environment()).strip() in ("401", "403")
    allowed = operator.head.run(sys.executable, "-c", ASK_DASHBOARD, str(token), env=environment())
    assert allowed.strip() == "200"


def check_status(operator: Operator) -> None:
    """`status` names every node, the replica with its ranks, and the addresses."""
    told = operator.gptoss_ray("status", str(operator.cluster))
    for host in (operator.head, *operator.workers):
        assert host.address in told
    assert "2 of 2 ready" in told
    assert f"http://{operator.head.address}:8000/v1" in told


def check_update(operator: Operator) -> None:
    """Another configuration replaces the only replica and its ranks, after a pause; Ray itself runs on."""
    raylets = [host.processes("raylet/raylet")[0].pid for host in (operator.head, *operator.workers)]
    ranks = [host.processes("ray::EngineRank")[0].pid for host in operator.workers]
    write_config(operator.config, aliases=["another"])
    operator.gptoss_ray("up", str(operator.cluster), str(operator.config))
    assert operator.python(ASK_HTTP, operator.head.address, API_KEY) == f"200 {ANSWER}"
    assert raylets == [host.processes("raylet/raylet")[0].pid for host in (operator.head, *operator.workers)]
    assert ranks != [host.processes("ray::EngineRank")[0].pid for host in operator.workers]


def wait_until_gone(cluster: list[Host]) -> float:
    """Return how long it took until each host has its first process and sshd, and no other."""
    started_s = time.monotonic()
    while left := [process for host in cluster for process in others(host)]:
        assert time.monotonic() - started_s < GONE_WITHIN_S, [command_of(process) for process in left]
        time.sleep(0.5)
    return time.monotonic() - started_s


def others(host: Host) -> list[psutil.Process]:
    return [
        process
        for process in host.processes()[1:]
        if not command_of(process).startswith(("sshd", "/usr/sbin/sshd"))
    ]


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "sshd: has ended meanwhile"
