"""The ingress itself refuses to serve strangers, however Serve was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.served_app import ROOT, write_config

DEPLOY = """
import sys
from rich.console import Console
from gptoss_ray.errors import UnavailableError
from gptoss_ray.serving.interrupt import Interruption
from gptoss_ray.serving.local_session import LocalSession
session = LocalSession()
from gptoss_ray.serving.local_ray import stop_ray
from gptoss_ray.serving.serve_file import ServeFile
from gptoss_ray.serving.startup import deploy
try:
    # As `serve deploy` does: nothing is checked before.
    deploy(Console(stderr=True), session, Interruption(), ServeFile.read(sys.argv[1]))
except UnavailableError as error:
    print("refused:", error)
finally:
    stop_ray(session)
    session.remove()
"""


def test_the_ingress_does_not_start_on_an_address_of_other_hosts_without_keys(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = write_config(tmp_path / "serve.yaml", tiny_checkpoint)
    config = yaml.safe_load(path.read_text())
    del config["applications"][0]["args"]["api_keys"]
    # Loopback in the notation of old, which nobody is asked to understand.
    config["http_options"]["host"] = "127.1"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=280,
    )
    assert "refused:" in done.stdout
    assert "allow_unauthenticated" in done.stdout
