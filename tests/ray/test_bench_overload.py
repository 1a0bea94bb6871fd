from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from gptoss_ray.cli import app


def test_a_server_over_a_script_is_overloaded_and_every_request_is_answered_or_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "overload.json"
    options = "--seats 2 --queued 4 --tokens 20 --step-ms 20 --factor 5 --seconds 3"
    result = CliRunner().invoke(
        app, f"bench overload {options} --json {file}".split(), catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    document = json.loads(file.read_text())
    peak, over = document["completed answers, at the peak and at 5 times its requests"]
    assert peak["answered"] > 0
    assert over["answered"] > 0
    assert over["refused"] > 0
    assert peak["failed"] == over["failed"] == 0
