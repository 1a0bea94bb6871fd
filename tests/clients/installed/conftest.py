"""Two servers for all clients, and the client of each folder, installed when its first test runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client_environments import ClientEnvironment, environment_of
from tests.support.client_servers import RuledServer, Server, demo_server, ruled_server
from tests.support.installed_client import InstalledClient

_TIMEOUT_S = 1800
"""Of a test; the first of a client installs it."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with demo_server(tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.fixture(scope="session")
def session_rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuledServer]:
    with ruled_server(tmp_path_factory.mktemp("rules")) as server:
        yield server


@pytest.fixture
def ruled(session_rules: RuledServer) -> Iterator[RuledServer]:
    """A server that says what the test tells it to."""
    yield session_rules
    session_rules.say()


@pytest.fixture(scope="module")
def environment(request: pytest.FixtureRequest) -> ClientEnvironment:
    environment = environment_of(Path(request.path).parent)
    environment.install()
    return environment


@pytest.fixture
def client(environment: ClientEnvironment, tmp_path: Path) -> InstalledClient:
    """The client of the folder that the test is in."""
    return InstalledClient(environment, tmp_path)
