from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path

import pytest

from gptoss_ray import json_logs
from gptoss_ray.json_logs import JsonFormatter, log_as_json, set_client_request_id
from gptoss_ray.tracing import set_current_traceparent
from tests.support.traces import TRACE_ID, TRACEPARENT

PACKAGE = Path(json_logs.__file__).parent


def line(message: str, *args: object, **options: object) -> dict[str, object]:
    record = logging.LogRecord("gptoss_ray.a", logging.INFO, "f", 1, message, args, None)
    for name, value in options.items():
        setattr(record, name, value)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_names_and_values_of_a_line_are_fields_of_their_types():
    found = line(
        "event=http_request request_id=%s path=%r status=%d duration_s=%.3f action=keep",
        "mine",
        "/v1/models",
        200,
        0.12345,
    )
    assert found.pop("time").endswith("+00:00")
    assert isinstance(found.pop("process"), int)
    assert found == {
        "level": "INFO",
        "logger": "gptoss_ray.a",
        "event": "http_request",
        "request_id": "mine",
        "path": "'/v1/models'",
        "status": 200,
        "duration_s": 0.123,
        "action": "keep",
    }


def test_a_value_with_line_feeds_stays_one_field_of_one_line():
    found = line("swap_dropped version=%d reason=%s", 3, 'a\nb event=other {"c": 1}')
    assert (found["event"], found["version"], found["reason"]) == (
        "swap_dropped",
        3,
        'a\nb event=other {"c": 1}',
    )


@pytest.mark.parametrize("message", ["memory_plan %s", "Something else happened: %s", "%s", "a b=%s c"])
def test_a_line_of_another_form_is_a_message(message):
    found = line(message, "x")
    assert (found["event"], found["message"]) == ("message", message % "x")


def test_an_exception_stands_in_its_line():
    try:
        raise ValueError("why")
    except ValueError as error:
        found = line("step_failed", exc_info=(type(error), error, error.__traceback__))
    assert found["event"] == "step_failed"
    assert found["exception"].endswith("ValueError: why")


async def test_the_clients_request_and_the_trace_are_those_of_the_task():
    async def request() -> dict[str, object]:
        set_client_request_id("mine")
        set_current_traceparent(TRACEPARENT)
        return line("request_begins")

    found = await asyncio.create_task(request())
    assert (found["client_request_id"], found["trace_id"]) == ("mine", TRACE_ID)
    assert not {"client_request_id", "trace_id"} & line("other").keys()


def test_what_the_package_logs_goes_to_standard_error_once(capsys, monkeypatch):
    logger = logging.getLogger("gptoss_ray")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, {"handlers": []}.get(name, getattr(logger, name)))
    log_as_json()
    log_as_json()
    logging.getLogger("gptoss_ray.ranks.engine_rank").info("rank_ready model=%s rank=%d", "m", 1)
    logging.getLogger("gptoss_ray.ranks.engine_rank").debug("not this")
    (written,) = capsys.readouterr().err.splitlines()
    assert json.loads(written)["event"] == "rank_ready"
    logger.setLevel(logging.NOTSET)


def test_nearly_all_lines_of_the_package_have_the_form():
    calls = re.compile(
        r"logger\.(?:debug|info|warning|error|exception)\(\s*((?:\"[^\"]*\"\s*)+)", re.MULTILINE
    )
    others = set()
    for path in PACKAGE.rglob("*.py"):
        for found in calls.finditer(path.read_text(encoding="utf-8")):
            message = "".join(re.findall(r'"([^"]*)"', found[1]))
            args = tuple("x" if spec in "rs" else 1 for spec in re.findall(r"%[.\d]*([a-z])", message))
            if line(message, *args)["event"] == "message":
                others.add(message)
    assert others <= {"memory_plan %s"}
