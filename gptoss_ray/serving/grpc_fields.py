"""From the name that a field has in the HTTP API, which the one validator knows, to its path in a message."""

from __future__ import annotations

import re
from typing import Any

from gptoss_ray.protos.gptoss.v1.common_pb2 import SamplingParams

_SAMPLING = frozenset(SamplingParams.DESCRIPTOR.fields_by_name)

# Pattern -> what it is called in messages; the first that matches from the start is taken.
_RENAMED = tuple(
    (re.compile(pattern), path)
    for pattern, path in (
        (r"logprobs$", "sampling.top_logprobs"),
        (r"(tools\[\d+\])\.function\.parameters.*", r"\1.parameters_json"),
        (r"(tools\[\d+\])\.function\.", r"\1."),
        (r"(messages\[\d+\]\.tool_calls\[\d+\])\.function\.arguments", r"\1.arguments_json"),
        (r"(messages\[\d+\]\.tool_calls\[\d+\])\.function\.", r"\1."),
        (
            r"response_format\.json_schema\.(schema|schema_json)\b.*",
            "response_format.json_schema.schema_json",
        ),
        (r"structured_outputs\.json\b.*", "response_format.unshown_schema_json"),
        (r"structured_outputs\.choice\b.*", "response_format.choices.texts"),
        (r"structured_outputs\.grammar\b.*", "response_format.lark"),
        (r"structured_outputs\.", "response_format."),
        (r"prompt(\[\d+\])", r"prompts.prompts\1"),
        (r"tokens$", "token_ids"),
        (r"max_output_tokens$", "sampling.max_tokens"),
        (r"text\.format\b.*schema.*", "response_format.json_schema.schema_json"),
        (r"text\.format\b.*", "response_format"),
        (r"reasoning\.effort$", "reasoning_effort"),
        (r"response_id$", "id"),
        (r"tool_choice\.allowed_tools.*", "allowed_tools"),
    )
)
_WRAPPED = ("chat", "generation", "response")
_OF_STREAM = ("resumption", "resumable")


def field_path(message: Any, param: str) -> str:
    """Return the path, in a message of this descriptor, of the field that HTTP calls `param`."""
    for pattern, path in _RENAMED:
        if pattern.match(param):
            param = pattern.sub(path, param, count=1)
            break
    name = re.split(r"[.\[]", param, maxsplit=1)[0]
    inner = next((wrapper for wrapper in _WRAPPED if wrapper in message.fields_by_name), None)
    if inner is not None and name not in _OF_STREAM:
        return f"{inner}.{field_path(message.fields_by_name[inner].message_type, param)}"
    if name not in message.fields_by_name and name in _SAMPLING and "sampling" in message.fields_by_name:
        return f"sampling.{param}"
    return param
