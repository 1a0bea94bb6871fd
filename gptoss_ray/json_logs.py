"""Logs as JSON, opt-in: one object a line on standard error, made of the same calls as the plain lines.

Every call in this package has the form `logger.info("event_name key=%s other=%d", ...)`: the name becomes
`event`, and each value a field of its own, a number where it is one. Beside them stand time, level, logger,
process, and in the ingress the client's request id and the trace of a traced request.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone

from gptoss_ray.tracing import current_traceparent

LOGGER = "gptoss_ray"

_WORD = re.compile(r"(\w+)=(%[#0\- +]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa]|[^%\s]+)")
_EVENT = re.compile(r"(?:event=)?(\w+)")

_client_request_id: ContextVar[str] = ContextVar("client_request_id", default="")


def set_client_request_id(id_: str) -> None:
    """Have what the rest of this task logs bear the request id that the client knows."""
    _client_request_id.set(id_)


def log_as_json() -> None:
    """Have this process write what the package logs, from INFO on, as JSON; once is enough."""
    logger = logging.getLogger(LOGGER)
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        time = datetime.fromtimestamp(record.created, timezone.utc)
        fields = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            **_ambient(),
            **(_parsed(record) or {"event": "message", "message": record.getMessage()}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def _ambient() -> dict[str, str]:
    fields = {}
    if id_ := _client_request_id.get():
        fields["client_request_id"] = id_
    if traceparent := current_traceparent():
        fields["trace_id"] = traceparent.split("-")[1]
    return fields


def _parsed(record: logging.LogRecord) -> dict[str, object] | None:
    """Return event and fields of a message of the form above; None where it has another."""
    args = record.args if isinstance(record.args, tuple) else ()
    first, *words = str(record.msg).split(" ")
    event = _EVENT.fullmatch(first)
    matches = [_WORD.fullmatch(word) for word in words]
    if event is None or not all(matches) or isinstance(record.args, Mapping):
        return None
    pairs = [match.groups() for match in matches if match is not None]
    if sum(value.startswith("%") for _, value in pairs) != len(args):
        return None
    values = iter(args)
    fields: dict[str, object] = {"event": event[1]}
    for name, value in pairs:
        fields[name] = _value(value, next(values)) if value.startswith("%") else value
    return fields


def _value(spec: str, value: object) -> object:
    """Return a value as JSON has it: numbers as numbers, all else as the plain line would have it."""
    if isinstance(value, bool | int) and spec[-1] in "ds":
        return value
    if isinstance(value, float) and spec[-1] in "eEfFgG":
        return float(spec % value)
    return spec % (value,)
