from __future__ import annotations

import importlib
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptoss_ray.cluster import cluster_checks
from gptoss_ray.cluster.cluster_checks import (
    check_fit,
    check_keys_on_nodes,
    check_mounts,
    check_placeholders,
    check_token,
    check_tools,
)
from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.token_file import ensure_token
from gptoss_ray.errors import ConfigError
from tests.support.cluster_files import TOKEN_START, cloud_file, local_file
from tests.support.served_app import ROOT

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    importlib.import_module("gptoss_ray.serving.preflight")
    from gptoss_ray.serving.serve_file import ServeFile

KEYS = "/home/ubuntu/keys.yaml"


def serve_file(
    folder: Path, host: str = "127.0.0.1", parallel: dict[str, Any] | None = None, **args: Any
) -> ServeFile:
    content = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    content["http_options"]["host"] = host
    content["applications"][0]["args"] |= args
    content["applications"][0]["args"]["models"][0]["parallel"] = parallel or {}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return ServeFile.read(path)


# Placeholders


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        (
            {"type": "gcp", "project_id": "replace-by-your-project"},
            r"provider.project_id .line \d+. is replace-by-",
        ),
        (
            {"type": "local", "head_ip": "192.0.2.1", "worker_ips": []},
            r"provider.head_ip .line \d+. is 192.0.2.1",
        ),
        (
            {"type": "local", "worker_ips": ["10.1.0.1", "192.0.2.9"]},
            r"provider.worker_ips\[1\] .line \d+. is 192.0",
        ),
    ],
)
def test_a_value_that_is_still_to_be_replaced_is_told(tmp_path, provider, told):
    cluster = ClusterFile.read(local_file(tmp_path, provider=provider | {"type": "local"}))
    with pytest.raises(ConfigError, match=told):
        check_placeholders(cluster)


def test_addresses_and_commands_of_an_operator_are_no_placeholders(tmp_path):
    commands = ["sed -i s/a/b/ file # replace a"]
    cluster = ClusterFile.read(local_file(tmp_path, setup_commands=commands))
    assert check_placeholders(cluster) == "all replaced"


# Token


@pytest.mark.parametrize("field", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_a_cluster_without_a_token_is_refused(tmp_path, field):
    cluster = ClusterFile.read(cloud_file(tmp_path, **{field: ["RAY_AUTH_MODE=token true", "ray start"]}))
    with pytest.raises(ConfigError, match=f"{field} start Ray without RAY_AUTH_MODE=token"):
        check_token(cluster)


def test_a_token_that_no_node_gets_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"file_mounts has no ~/.gptoss-ray-token"):
        check_token(ClusterFile.read(cloud_file(tmp_path, file_mounts={})))


def test_a_token_is_made_once_and_for_this_user_alone(tmp_path):
    cluster = ClusterFile.read(cloud_file(tmp_path))
    token = tmp_path / "token"
    assert check_token(cluster) == f"{token} will be made"
    assert not token.exists()
    ensure_token(token)
    made = token.read_text()
    assert len(made) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    ensure_token(token)
    assert token.read_text() == made
    assert check_token(cluster) == str(token)


def test_a_token_that_others_may_read_or_that_is_empty_is_refused(tmp_path):
    cluster = ClusterFile.read(cloud_file(tmp_path))
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {token}"):
        check_token(cluster)
    token.chmod(0o600)
    token.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        check_token(cluster)


# Files and tools


def test_a_file_for_the_nodes_that_is_not_here_is_told_but_a_token_may_be_made(tmp_path):
    mounts = {"~/.gptoss-ray-token": str(tmp_path / "token"), "~/gptoss-ray/wheels": str(tmp_path / "dist")}
    cluster = ClusterFile.read(cloud_file(tmp_path, file_mounts=mounts))
    with pytest.raises(
        ConfigError, match=r"file_mounts.~/gptoss-ray/wheels is .*dist, which is not here; .*make wheel"
    ):
        check_mounts(cluster)
    (tmp_path / "dist").mkdir()
    assert check_mounts(cluster) == "2 for every node"


def test_commands_that_are_not_installed_are_told(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "rsync" else f"/bin/{name}")
    with pytest.raises(ConfigError, match="not installed here: rsync; install"):
        check_tools()
    monkeypatch.setattr(cluster_checks, "ray_command", lambda: Path("/nowhere/ray"))
    with pytest.raises(ConfigError, match="not installed here: ray, rsync"):
        check_tools()


# Keys


def test_a_public_address_without_a_key_is_refused(tmp_path):
    cluster = ClusterFile.read(cloud_file(tmp_path))
    with pytest.raises(ConfigError, match=r"http_options\.host is 0\.0\.0\.0, which other hosts can reach"):
        check_keys_on_nodes(cluster, serve_file(tmp_path, "0.0.0.0"))
    assert check_keys_on_nodes(cluster, serve_file(tmp_path)).startswith("none: only the nodes themselves")


def test_a_file_of_keys_must_come_to_the_nodes_and_have_keys(tmp_path):
    file = serve_file(tmp_path, "0.0.0.0", api_keys_file=KEYS)
    with pytest.raises(
        ConfigError, match=f"args.api_keys_file is {KEYS}, which no node would have; add it to"
    ):
        check_keys_on_nodes(ClusterFile.read(cloud_file(tmp_path)), file)
    keys = tmp_path / "keys.yaml"
    keys.write_text(f'alice: {{sha256: "{"0" * 64}"}}\n')
    cluster = ClusterFile.read(cloud_file(tmp_path, file_mounts={KEYS: str(keys)}))
    assert check_keys_on_nodes(cluster, file) == f"1 in {keys}"
    keys.write_text("alice: {sha: 1}")
    with pytest.raises(ConfigError, match="unknown key 'sha'"):
        check_keys_on_nodes(cluster, file)


def test_a_variable_with_keys_must_be_set_on_head_and_workers(tmp_path):
    file = serve_file(tmp_path, "0.0.0.0", api_keys_env="KEYS")
    starts = {"head_start_ray_commands": [f"export KEYS=k; {TOKEN_START} --head"]}
    with pytest.raises(
        ConfigError, match=r"args\.api_keys_env is KEYS, which the start commands of .* do not set"
    ):
        check_keys_on_nodes(ClusterFile.read(cloud_file(tmp_path, **starts)), file)
    starts["worker_start_ray_commands"] = [f"export KEYS=k; {TOKEN_START}"]
    assert (
        check_keys_on_nodes(ClusterFile.read(cloud_file(tmp_path, **starts)), file)
        == "from KEYS of the nodes"
    )


# Room


def test_ranks_that_no_node_type_holds_are_refused_and_told_by_file_and_field(tmp_path):
    path = cloud_file(tmp_path)
    file = serve_file(tmp_path, parallel={"num_ranks": 64})
    with pytest.raises(
        ConfigError, match=f"{path}: .*available_node_types.gpu.resources is 32 CPUs, but .* 64 CPUs"
    ):
        check_fit(ClusterFile.read(path), file)
    fitting = serve_file(tmp_path, parallel={"num_ranks": 4, "num_nodes": 2})
    assert "2 CPUs on each of 2 nodes" in check_fit(ClusterFile.read(path), fitting)


def test_what_is_not_known_beforehand_is_said(tmp_path):
    found = check_fit(ClusterFile.read(local_file(tmp_path)), serve_file(tmp_path))
    assert found.endswith("Not known before they start: worker")
