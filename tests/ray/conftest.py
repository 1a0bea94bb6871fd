from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served_app import ServedApp, serve_app, write_config, write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[ServedApp]:
    """One server for all tests here: synthetic weights, an API key, ports of its own."""
    config = write_config(tmp_path_factory.mktemp("served") / "serve.yaml", tiny_checkpoint)
    with serve_app(config) as app:
        yield app
