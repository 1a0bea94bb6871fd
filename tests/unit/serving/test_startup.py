from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import yaml

from gptoss_ray.ranks.load_progress import LoadProgress
from gptoss_ray.serving.haproxy import haproxy_hosts
from tests.support.served_app import ROOT

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving.serve_file import ServeFile
    from gptoss_ray.serving.startup import _cluster_environment, _http_options, _loading_text

GRPC_HOST = "GPTOSS_RAY_GRPC_HOST"


@pytest.fixture
def open_file(tmp_path: Path) -> ServeFile:
    """A configuration that is open to other hosts."""
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    config["http_options"]["host"] = "0.0.0.0"
    config["controller_options"]["runtime_env"]["env_vars"][GRPC_HOST] = "10.1.2.3"
    path = tmp_path / "open.yaml"
    path.write_text(yaml.safe_dump(config))
    return ServeFile.read(path)


def test_each_rank_of_each_model_is_shown():
    text = _loading_text(
        {
            "b#owner#0": LoadProgress("importing"),
            "a#owner#1": LoadProgress("loaded", 1.0),
            "a#owner#0": LoadProgress("loading", 0.43),
        }
    )
    assert text == "a: rank 0 loading 43%, rank 1 loaded; b: rank 0 importing"


def test_of_many_ranks_those_are_shown_that_the_others_wait_for():
    progress = {f"a#owner#{rank}": LoadProgress("loading", rank / 16) for rank in range(16)}
    progress["a#owner#10"] = LoadProgress("importing")
    assert _loading_text(progress) == (
        "a: rank 0 loading 0%, rank 1 loading 6%, rank 2 loading 12%, rank 10 importing"
    )


def test_before_any_rank_answers_there_is_nothing_to_show():
    assert _loading_text({}) == ""


def test_the_proxies_of_serve_listen_where_the_file_says(open_file, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert _http_options(open_file)["host"] == "0.0.0.0"
    assert _cluster_environment(open_file)[GRPC_HOST] == "10.1.2.3"


def test_only_haproxy_listens_where_the_file_says_and_what_is_behind_it_on_loopback(open_file, monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    assert _http_options(open_file)["host"] == "127.0.0.1"
    assert _http_options(open_file)["port"] == 8000
    environment = _cluster_environment(open_file)
    assert environment[GRPC_HOST] == "127.0.0.1"
    assert environment.items() >= haproxy_hosts("0.0.0.0", "10.1.2.3").items()
