"""schemathesis by its command line: what `/openapi.json` allows and forbids, sent to a running server."""

from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from tests.support.harmony_markup import final

HOOKS = {"SCHEMATHESIS_HOOKS": str(Path(__file__).parent / "hooks.py")}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture
def fuzz(client, ruled):
    """Return a run: the calls that were made."""
    ruled.say(("", final("Yes.")))
    report = client.work / "report.xml"

    def run(mode, *checks, **variables):
        client.run(
            *("schemathesis", "run", f"{ruled.url}/openapi.json", "--phases", "fuzzing", "--mode", mode),
            *("--header", f"Authorization: Bearer {ruled.api_key}", "--checks", ",".join(checks)),
            *("--max-examples", "10", "--seed", "1", "--generation-database", "none"),
            *("--report", "junit", "--report-junit-path", str(report), "--no-color"),
            server=ruled,
            extra=variables,
        )
        return {case.get("name") for case in ElementTree.parse(report).getroot().iter("testcase")}

    return run


def test_no_request_that_the_document_allows_finds_a_fault(fuzz, ruled):
    made = fuzz("positive", *CHECKS, **HOOKS)
    key = {"Authorization": f"Bearer {ruled.api_key}"}
    document = httpx.get(f"{ruled.url}/openapi.json", headers=key).raise_for_status().json()
    calls = {f"{method.upper()} {path}" for path, each in document["paths"].items() for method in each}
    # It leaves out the document itself.
    assert made == calls - {"GET /openapi.json"}


def test_every_request_that_the_document_forbids_is_refused_as_described(fuzz):
    assert "POST /v1/chat/completions" in fuzz("negative", *CHECKS, "negative_data_rejection")
