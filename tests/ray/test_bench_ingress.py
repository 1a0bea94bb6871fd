from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gptoss_ray.bench.hostile_bodies import HOSTILE_TEXTS
from gptoss_ray.cli import app
from gptoss_ray.serving.haproxy import find_haproxy


@pytest.mark.parametrize("mode", ["default", pytest.param("haproxy", marks=pytest.mark.soak)])
def test_serve_and_the_ingress_are_measured_on_loopback(mode, tmp_path, capfd):
    if mode == "haproxy" and find_haproxy() is None:
        pytest.skip("there is no HAProxy here")
    file = tmp_path / "ingress.json"
    options = f"bench ingress --modes {mode} --streams 2 --rate 50 --seconds 0.5 --json {file}"
    result = CliRunner().invoke(app, options.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "open to other hosts" not in capfd.readouterr().err
    document = json.loads(file.read_text())
    assert document["not_measured"] == {}
    both = [(mode, "HTTP"), (mode, "gRPC")]
    for measure in ("overhead", "maximum"):
        assert [(row["mode"], row["protocol"]) for row in document[measure]] == both
        assert all(row["streams"] == 2 and row["tokens_per_s"] > 0 for row in document[measure])
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in document["overhead"])
    quiet, *posted = document["hostile"]
    assert (quiet["text"], quiet["status"]) == ("nothing", "")
    assert len(posted) == 2 * len(HOSTILE_TEXTS)
    assert {row["status"] for row in posted} <= {"200", "400"}
