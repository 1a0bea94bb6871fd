"""schemathesis by its command line: what `/openapi.json` allows, sent to a running server."""

from pathlib import Path
from xml.etree import ElementTree

import httpx

from tests.support.harmony_markup import final

HOOKS = Path(__file__).parent / "hooks.py"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


def test_no_request_that_is_drawn_from_the_document_finds_a_fault(client, ruled):
    ruled.say(("", final("Yes.")))
    report = client.work / "report.xml"
    client.run(
        *("schemathesis", "run", f"{ruled.url}/openapi.json", "--phases", "fuzzing", "--mode", "all"),
        *("--header", f"Authorization: Bearer {ruled.api_key}", "--checks", ",".join(CHECKS)),
        *("--max-examples", "10", "--seed", "1", "--generation-database", "none"),
        *("--report", "junit", "--report-junit-path", str(report), "--no-color"),
        server=ruled,
        extra={"SCHEMATHESIS_HOOKS": str(HOOKS)},
    )
    cases = ElementTree.parse(report).getroot().iter("testcase")
    document = httpx.get(f"{ruled.url}/openapi.json").json()
    operations = {f"{method.upper()} {path}" for path, each in document["paths"].items() for method in each}
    assert {case.get("name") for case in cases} == operations
