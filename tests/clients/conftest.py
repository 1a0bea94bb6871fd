"""A server on loopback, and an environment in which no client speaks to anyone else."""

from collections.abc import Iterator

import pytest

from tests.support.ingresses import http_server, make_ingress
from tests.support.one_call import call_once
from tests.support.scripted_source import ScriptedSource

API_KEY = "key"


@pytest.fixture(autouse=True, scope="session")
def no_telemetry() -> Iterator[None]:
    """Turn off what clients send, or fetch, by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGSMITH_TRACING", "false")
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
        yield


@pytest.fixture
def source() -> ScriptedSource:
    """What the server plays; it keeps all requests."""
    return ScriptedSource(call_once)


@pytest.fixture
def url(source: ScriptedSource) -> Iterator[str]:
    """Base URL of a server, as clients take it; `key` is its key."""
    with http_server(make_ingress(source, api_keys=[API_KEY])) as url:
        yield f"{url}/v1"
