from __future__ import annotations

import platform
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from gptoss_ray.cli import app
from gptoss_ray.errors import UnavailableError
from gptoss_ray.kernels import backend
from gptoss_ray.ranks import cluster_nodes
from gptoss_ray.ranks.rank_placement import NodeResources
from gptoss_ray.serving.free_ports import free_ports
from tests.support.served_app import ROOT

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving import preflight


@dataclass
class Verdict:
    exit_code: int
    rows: dict[str, str]

    def row(self, subject: str) -> str:
        (found,) = [text for name, text in self.rows.items() if name.endswith(subject)]
        return found


def doctor(path: Path, *options: str) -> Verdict:
    # The second is what the command would set, and would leave behind in this process.
    environment = {"COLUMNS": "2000", "RAY_NUM_REDIS_GET_RETRIES": "3"}
    result = CliRunner().invoke(app, ["doctor", str(path), *options], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    _, *lines = (line.strip() for line in result.stdout.splitlines() if line.strip())
    rows = dict(line.split("  ", 1) for line in lines)
    return Verdict(result.exit_code, {name: text.strip() for name, text in rows.items()})


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write a copy of a configuration file with free ports and changes to its first model."""

    def write(name: str = "demo", **model: object) -> Path:
        content = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
        content["http_options"]["port"], content["grpc_options"]["port"] = free_ports(2)
        content["applications"][0]["args"]["models"][0] |= model
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_nodes, "connect", lambda address: False)
    monkeypatch.setattr(cluster_nodes, "this_machine", lambda: machine(2))
    monkeypatch.setattr(preflight, "free_memory_bytes", lambda: 16 << 30)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let a cluster of these nodes run; returns what was done with it."""

    def run(nodes: list[NodeResources], free: list[NodeResources] | None = None) -> list[str]:
        done: list[str] = []
        monkeypatch.setattr(cluster_nodes, "connect", lambda address: not done.append(address))
        monkeypatch.setattr(cluster_nodes, "cluster_nodes", lambda: nodes)
        monkeypatch.setattr(cluster_nodes, "free_cluster_nodes", lambda: free or nodes)
        monkeypatch.setattr(cluster_nodes, "disconnect", lambda: done.append("disconnected"))
        return done

    return run


def machine(cpus: float, gpus: float = 0, address: str = "this machine") -> NodeResources:
    return NodeResources(address, {"CPU": cpus, "GPU": gpus})


def test_the_demo_lacks_nothing_on_a_machine_of_two_cpus(config):
    verdict = doctor(config())
    assert verdict.exit_code == 0, verdict.rows
    assert all(text.startswith("ok") for text in verdict.rows.values())
    assert "2 CPUs on one node" in verdict.row("room for the ranks")
    assert "shared memory between 2 ranks" in verdict.row("wires")
    assert "2 ranks, each" in verdict.row("memory of a rank")


def test_on_a_machine_of_one_cpu_it_says_what_is_missing_and_what_to_change(config, monkeypatch):
    monkeypatch.setattr(cluster_nodes, "this_machine", lambda: machine(1))
    verdict = doctor(path := config())
    assert verdict.exit_code == 1
    row = verdict.row("room for the ranks")
    assert row.startswith("missing")
    assert "gpt-oss-demo needs 2 CPUs on one node" in row
    assert "this machine has 1 CPU" in row
    assert "lower parallel.num_ranks" in row
    assert str(path) in row
    assert verdict.row("backend").startswith("ok"), "one thing missing does not hide the others"


def test_it_says_which_kernels_run_and_why(config, monkeypatch):
    monkeypatch.setattr(backend, "find_library", lambda: "they are not built; build them with `make native`")
    row = doctor(config()).row("backend")
    assert row.startswith("ok") and "torch-reference" in row and "make native" in row
    row = doctor(config(engine={"kernels": "native"})).row("backend")
    assert row.startswith("missing") and "make native" in row
    library = SimpleNamespace(instruction_set="avx2", build_id="1")
    monkeypatch.setattr(backend, "find_library", lambda: library)
    row = doctor(config()).row("backend")
    assert row.startswith("ok") and "native-avx2" in row


def test_a_taken_port_is_missing(config):
    path = config()
    port = yaml.safe_load(path.read_text())["grpc_options"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        verdict = doctor(path)
    assert verdict.exit_code == 1
    assert f"port {port} on 127.0.0.1 cannot be used" in verdict.row("ports")


def test_a_key_that_is_not_set_is_missing(config, monkeypatch):
    path = config()
    content = yaml.safe_load(path.read_text())
    content["applications"][0]["args"]["api_keys_env"] = "KEYS_FOR_A_TEST"
    path.write_text(yaml.safe_dump(content))
    assert "KEYS_FOR_A_TEST" in doctor(path).row("API keys")
    monkeypatch.setenv("KEYS_FOR_A_TEST", "a,b")
    assert doctor(path).row("API keys").split(maxsplit=1) == ["ok", "2 set"]


@pytest.mark.parametrize("source", ["nobody-at-all/no-such-model", "/no/such folder"])
def test_a_checkpoint_that_is_not_here_is_missing_and_not_fetched(config, monkeypatch, source):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    verdict = doctor(config(checkpoint=source))
    assert verdict.exit_code == 1
    assert f"gptoss-ray checkpoint verify {source}" in verdict.row("checkpoint")
    assert verdict.row("memory of a rank").startswith("missing")


def test_a_folder_that_holds_no_checkpoint_is_missing_its_files(config, tmp_path):
    (tmp_path / "empty").mkdir()
    row = doctor(config(checkpoint=str(tmp_path / "empty"))).row("checkpoint")
    assert row.startswith("missing")
    assert "config.json: no such file" in row


def test_a_published_model_on_gpus_is_judged_before_it_was_fetched(config):
    verdict = doctor(config("gpt-oss-120b-8gpu"))
    assert verdict.exit_code == 1
    assert "needs 8 GPUs on one node" in verdict.row("room for the ranks")
    assert "triton: ranks have GPUs" in verdict.row("backend")
    assert "deepspeed.comm over nccl" in verdict.row("wires")
    assert verdict.row("memory of a rank").startswith("ok")
    assert "8 ranks, each" in verdict.row("memory of a rank")


def test_a_running_cluster_is_judged_node_by_node_and_left_again(config, cluster):
    done = cluster([machine(64, 8, "10.0.0.1"), machine(64, 4, "10.0.0.2")])
    verdict = doctor(config("gpt-oss-120b-2nodes"), "--address", "10.0.0.1:6379")
    assert verdict.exit_code == 1
    assert verdict.row("Ray cluster").endswith("nodes: 10.0.0.1, 10.0.0.2")
    row = verdict.row("room for the ranks")
    assert "needs 8 GPUs on each of 2 nodes" in row
    assert "10.0.0.1 has 8 GPUs, 10.0.0.2 has 4 GPUs" in row
    assert "ports" not in verdict.rows
    assert done == ["10.0.0.1:6379", "disconnected"]


def test_room_that_others_use_now_is_not_missing_but_said(config, cluster):
    cluster([machine(4, address="10.0.0.1")], free=[machine(1, address="10.0.0.1")])
    verdict = doctor(config())
    assert verdict.exit_code == 0
    assert "while others use the nodes" in verdict.row("room for the ranks")
    assert "10.0.0.1 has 1 CPU" in verdict.row("room for the ranks")


def test_a_cluster_that_cannot_be_joined_is_said_and_this_machine_judged(config, monkeypatch):
    def connect(address: str) -> bool:
        raise UnavailableError("no Ray cluster answers at 10.0.0.9:6379")

    monkeypatch.setattr(cluster_nodes, "connect", connect)
    verdict = doctor(config(), "--address", "10.0.0.9:6379")
    assert verdict.exit_code == 1
    assert "10.0.0.9" in verdict.row("Ray cluster")
    assert verdict.row("room for the ranks").startswith("ok")


def test_shared_memory_on_another_processor_is_missing(config, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    verdict = doctor(config())
    assert verdict.exit_code == 1
    assert "parallel.shared_memory: false" in verdict.row("wires")
    parallel = {"num_ranks": 2, "shared_memory": False}
    assert "gloo" in doctor(config(parallel=parallel)).row("wires")


def test_memory_that_both_ranks_do_not_find_is_missing_with_numbers(config, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory_bytes", lambda: 100 << 20)
    verdict = doctor(config())
    assert verdict.exit_code == 1
    row = verdict.row("memory of a rank")
    assert row.startswith("missing")
    assert "gpt-oss-demo: A rank needs" in row
    assert "but has 52.43 MB" in row
