"""Requests that schemathesis makes of `/openapi.json`: no fault of the server, and answers as described."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.ingresses import MODEL, http_server, make_ingress
from tests.support.one_call import call_once
from tests.support.scripted_source import ScriptedSource

CALLS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/{response_id}"),
    ("DELETE", "/v1/responses/{response_id}"),
    ("POST", "/v1/responses/{response_id}/cancel"),
    ("GET", "/v1/responses/{response_id}/input_items"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("DELETE", "/v1/requests/{request_id}"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/live"),
    ("GET", "/ready"),
    ("GET", "/health"),
    ("GET", "/ping"),
    ("POST", "/ping"),
    ("GET", "/metrics"),
    ("GET", "/dashboard/state"),
    ("GET", "/version"),
]
# Most random choices of so many fields contradict each other: all that are generated may be refused.
PLAIN = {
    "/v1/chat/completions": {"model": MODEL, "messages": [{"role": "user", "content": "Hello."}]},
    "/v1/completions": {"model": MODEL, "prompt": "Hello."},
    "/v1/responses": {"model": MODEL, "input": "Hello."},
    "/tokenize": {"model": MODEL, "prompt": "Hello."},
    "/detokenize": {"model": MODEL, "tokens": [1, 2, 3]},
}
EXAMPLES = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def schema() -> Iterator:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    with http_server(make_ingress(ScriptedSource(call_once))) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_call_of_the_document_is_made(schema):
    # schemathesis leaves out the document itself.
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {(operation.method.upper(), operation.path) for operation in operations} == set(CALLS)


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_what_the_document_allows_is_answered_or_refused_as_described(schema, method, path):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    statuses = set()

    def validate(case):
        described = (checks.status_code_conformance, checks.response_schema_conformance)
        response = case.call_and_validate(
            checks=[not_a_server_error, checks.content_type_conformance, *described]
        )
        statuses.add(response.status_code)

    @EXAMPLES
    @given(schema[path][method].as_strategy())
    def check(case):
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = MODEL
        validate(case)

    check()
    if path in PLAIN:
        validate(schema[path][method].Case(body=PLAIN[path], media_type="application/json"))
    # Nothing bears a random name; only to end nothing is an answer.
    assert (404 if "{" in path and path != "/v1/requests/{request_id}" else 200) in statuses


@pytest.mark.parametrize("path", [path for method, path in CALLS if method == "POST" and path in PLAIN])
def test_what_the_document_forbids_is_refused(schema, path):
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    @EXAMPLES
    @given(schema[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case):
        described = (checks.negative_data_rejection, checks.response_schema_conformance)
        case.call_and_validate(checks=[not_a_server_error, *described])

    check()
