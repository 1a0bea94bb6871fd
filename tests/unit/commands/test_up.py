"""`up`, `down` and `status` against commands of Ray that only note that they were run."""

from __future__ import annotations

import importlib
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from gptoss_ray.cli import app
from gptoss_ray.cluster import teardown
from gptoss_ray.cluster.ray_commands import RayCommands
from gptoss_ray.cluster.remote_status import find_status
from gptoss_ray.commands import up as up_module
from gptoss_ray.errors import UnavailableError
from gptoss_ray.ranks import cluster_nodes
from gptoss_ray.serving.cluster_status import ClusterStatus, DeploymentStatus, NodeStatus
from tests.support.cluster_files import cloud_file, local_file
from tests.support.served_app import ROOT

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    importlib.import_module("gptoss_ray.serving.preflight")
    importlib.import_module("gptoss_ray.serving.cluster_reading")

NODES = (NodeStatus(address="10.1.0.1", is_head=True, resources={"CPU": 0, "GPU": 0}),)
DEMO = DeploymentStatus(
    name="demo",
    status="HEALTHY",
    num_running=1,
    num_wanted=1,
    num_ranks=0,
    nodes=("10.1.0.2",),
    ranks=(),
    message="",
)
HEALTHY = ClusterStatus(
    nodes=NODES, application="RUNNING", deployments=(DEMO,), addresses={"HTTP": ("http://10.1.0.1:8000/v1",)}
)
STARTING = HEALTHY.model_copy(update={"application": "DEPLOYING"})
FAILED = HEALTHY.model_copy(update={"application": "DEPLOY_FAILED", "message": "no room"})

Ran = list[tuple[str, ...]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Let no command of Ray run; returns those that would have."""
    found: Ran = []
    monkeypatch.setattr(
        RayCommands, "up", lambda self, *, restart: found.append(("up", "anew") if restart else ("up",))
    )
    monkeypatch.setattr(RayCommands, "down", lambda self: found.append(("down",)))
    monkeypatch.setattr(RayCommands, "put", lambda self, *args: found.append(("put", *map(str, args))))
    monkeypatch.setattr(RayCommands, "do", lambda self, command: found.append(("do", command)) or "")
    monkeypatch.setattr(up_module, "_POLL_S", 0)
    monkeypatch.setattr(up_module, "check_tools", lambda: "all")
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the head node tell these statuses, one after the other."""

    def tell(*statuses: ClusterStatus) -> None:
        left: Iterator[ClusterStatus] = iter(statuses)

        def ask(self: RayCommands, command: str) -> subprocess.CompletedProcess[str]:
            assert command == "gptoss-ray status --json"
            line = next(left).model_dump_json()
            return subprocess.CompletedProcess([], 1, f"Fetched IP: 10.1.0.1\n{line}\r\nConnection closed.\n")

        monkeypatch.setattr(RayCommands, "ask", ask)

    return tell


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "2000"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def config(folder: Path, **parallel: Any) -> Path:
    content = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    content["applications"][0]["args"]["models"][0]["parallel"] = parallel
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_up_makes_the_cluster_deploys_and_returns_when_it_is_healthy(tmp_path, ran, told):
    told(STARTING, STARTING, HEALTHY)
    serve = config(tmp_path)
    result = run("up", cloud_file(tmp_path), serve)
    assert result.exit_code == 0
    assert ran == [
        ("up",),
        ("put", str(serve), "~/gptoss-ray.yaml"),
        ("do", "serve deploy ~/gptoss-ray.yaml"),
    ]
    assert "HTTP  http://10.1.0.1:8000/v1" in result.stdout
    assert result.stdout.endswith("healthy\n")
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_up_without_a_configuration_only_makes_the_cluster(tmp_path, ran):
    assert run("up", cloud_file(tmp_path)).exit_code == 0
    assert ran == [("up",)]


def test_up_starts_ray_anew_only_where_that_is_asked_for(tmp_path, ran):
    assert run("up", cloud_file(tmp_path), "--restart").exit_code == 0
    assert ran == [("up", "anew")]


@pytest.mark.parametrize("restart", [False, True])
def test_ray_is_told_not_to_start_anew(tmp_path, monkeypatch, restart):
    asked: list[str] = []
    monkeypatch.setattr(
        "gptoss_ray.cluster.ray_commands._command", lambda arguments: asked.extend(arguments) or ["true"]
    )
    RayCommands(tmp_path / "c.yaml").up(restart=restart)
    assert asked[0] == "up"
    assert ("--no-restart" in asked) != restart


def test_up_starts_nothing_where_a_check_fails_and_tells_all_that_fail(tmp_path, ran):
    path = cloud_file(tmp_path, provider={"type": "aws", "region": "replace"})
    result = run("up", path, config(tmp_path, num_ranks=64))
    assert result.exit_code == 1
    assert ran == []
    assert not (tmp_path / "token").exists()
    missing = [line.split("  ")[0] for line in result.stdout.splitlines() if " missing " in line]
    assert missing == ["placeholders", "room for the ranks"]


def test_up_with_check_starts_nothing(tmp_path, ran):
    assert run("up", cloud_file(tmp_path), config(tmp_path), "--check").exit_code == 0
    assert ran == []
    assert not (tmp_path / "token").exists()


@pytest.mark.parametrize(("num_failures", "is_up"), [(2, True), (3, False)])
def test_up_asks_serve_again_which_may_come_up_late(tmp_path, ran, told, monkeypatch, num_failures, is_up):
    told(HEALTHY)

    def do(self: RayCommands, command: str) -> str:
        ran.append(("do", command))
        if len(ran) <= 2 + num_failures:
            raise UnavailableError("Serve did not come up")
        return ""

    monkeypatch.setattr(RayCommands, "do", do)
    if is_up:
        assert run("up", cloud_file(tmp_path), config(tmp_path)).exit_code == 0
    else:
        with pytest.raises(UnavailableError, match="Serve did not come up"):
            run("up", cloud_file(tmp_path), config(tmp_path))
    assert ran.count(("do", "serve deploy ~/gptoss-ray.yaml")) == 3


def test_up_ends_at_once_where_serve_has_given_up(tmp_path, ran, told):
    told(STARTING, FAILED)
    with pytest.raises(UnavailableError, match="did not start: the application is DEPLOY_FAILED: no room"):
        run("up", cloud_file(tmp_path), config(tmp_path))


def test_up_goes_on_where_the_head_does_not_answer_once(tmp_path, ran, monkeypatch):
    answers = iter(["ssh: Connection reset by peer", HEALTHY.model_dump_json()])
    monkeypatch.setattr(
        RayCommands, "ask", lambda self, command: subprocess.CompletedProcess([], 0, next(answers))
    )
    assert run("up", cloud_file(tmp_path), config(tmp_path)).exit_code == 0


def test_up_ends_where_the_time_is_over(tmp_path, ran, told):
    told(STARTING)
    with pytest.raises(UnavailableError, match="not ready within --wait-s: the application is DEPLOYING"):
        run("up", cloud_file(tmp_path), config(tmp_path), "--wait-s", "0")


def test_down_of_a_cloud_leaves_it_to_ray(tmp_path, ran):
    assert run("down", cloud_file(tmp_path)).exit_code == 0
    assert ran == [("down",)]


def test_down_stops_ray_on_every_machine_of_your_own_before_the_head_forgets_them(tmp_path, ran, monkeypatch):
    monkeypatch.setattr(teardown, "_accepts", lambda host, port: False)
    assert run("down", local_file(tmp_path)).exit_code == 0
    (kind, command), last = ran
    assert kind == "do"
    assert command.index("ray stop;") < command.index("ubuntu@10.1.0.2") < command.index("ubuntu@10.1.0.3")
    assert last == ("down",)


def test_down_tells_of_a_ray_that_goes_on(tmp_path, ran, monkeypatch):
    asked = []
    monkeypatch.setattr(teardown, "_accepts", lambda host, port: not asked.append((host, port)))
    with pytest.raises(
        UnavailableError, match=r"Ray still runs at 10\.1\.0\.1:6400; `ray` must be on the PATH"
    ):
        run("down", local_file(tmp_path))
    assert asked == [("10.1.0.1", 6400)]
    assert ran[-1] == ("down",), "what can be ended is"


def test_down_stops_the_machines_in_reach_and_names_the_others(tmp_path):
    fake = tmp_path / "ssh"
    fake.write_text('#!/bin/sh\necho "$@" >> "$0.log"\ncase "$*" in *10.1.0.2*) exit 255;; esac\n')
    fake.chmod(0o755)
    (tmp_path / "ray").symlink_to("/bin/true")
    done = subprocess.run(
        ["bash", "-c", teardown.stop_command("ubuntu", ("10.1.0.2", "10.1.0.3"))],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stdout == "Ray was not stopped on 10.1.0.2; run ray stop there\n"
    asked = (tmp_path / "ssh.log").read_text().splitlines()
    assert len(asked) == 2
    assert all("source ~/.bashrc; ray stop" in line for line in asked)


@pytest.mark.parametrize(("found", "code"), [(HEALTHY, 0), (STARTING, 1), (ClusterStatus(nodes=NODES), 1)])
def test_status_of_a_file_asks_the_head_and_ends_with_1_where_it_is_not_healthy(tmp_path, told, found, code):
    told(found)
    result = run("status", cloud_file(tmp_path))
    assert result.exit_code == code
    assert "10.1.0.1" in result.stdout
    assert ("healthy" in result.stdout) == (code == 0)


def test_status_as_json_is_one_line_that_can_be_found_again(tmp_path, told):
    told(STARTING)
    result = run("status", cloud_file(tmp_path), "--json")
    assert find_status(result.stdout) == STARTING
    assert result.exit_code == 1


def test_status_of_no_cluster_at_all_is_an_error(monkeypatch):
    monkeypatch.setattr(cluster_nodes, "connect", lambda address: False)
    with pytest.raises(UnavailableError, match="no Ray cluster runs on this machine"):
        run("status")


def test_a_head_that_tells_nothing_is_an_error_with_what_it_said(tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "ssh: connect to host 10.1.0.1: No route to host\n")
    monkeypatch.setattr(RayCommands, "ask", lambda self, command: answer)
    with pytest.raises(
        UnavailableError, match=r"does not tell the cluster's status: ssh: connect .* No route"
    ):
        run("status", cloud_file(tmp_path))


def test_a_command_of_ray_that_fails_is_told_by_its_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "gptoss_ray.cluster.ray_commands._command", lambda arguments: ["sh", "-c", "echo cause; exit 3"]
    )
    ray = RayCommands(tmp_path / "c.yaml")
    with pytest.raises(UnavailableError, match=r"`ray exec .*c.yaml true` failed: cause"):
        ray.do("true")
    with pytest.raises(UnavailableError, match=r"`ray up .*c.yaml` ended with 3"):
        ray.up()
