"""Prometheus itself evaluates every query of the dashboard over the series that are exported."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.samples import Sample

from tests.support.grafana import exported_samples, queries

pytestmark = pytest.mark.promtool


def promtool() -> str:
    found = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.fail("promtool is not installed: `apt-get install prometheus`, or set PROMTOOL to its path.")
    return found


def notation(sample: Sample) -> str:
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}}"


async def test_every_query_finds_something(tmp_path: Path):
    series = [{"series": notation(sample), "values": "1+1x20"} for sample in await exported_samples()]
    checks = [
        {
            "expr": f"count({query.expression}) > bool 0",
            "eval_time": "15m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for query in queries()
    ]
    tests = {"evaluation_interval": "1m", "tests": [{"interval": "1m", "input_series": series}]}
    tests["tests"][0]["promql_expr_test"] = checks
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump(tests), encoding="utf-8")
    run = subprocess.run([promtool(), "test", "rules", file], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
