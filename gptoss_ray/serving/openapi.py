"""`/openapi.json`: made from the same table of routes that the app is made of."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

from fastapi import Response
from pydantic import TypeAdapter

from gptoss_ray.serving.auth import PUBLIC_PATHS
from gptoss_ray.serving.openai_answers import ErrorObject

_PATH_NAME = re.compile(r"{(\w+)")
_REF = "#/components/schemas/{model}"


class Query(NamedTuple):
    """A parameter behind the path, which may be left out, and its JSON type."""

    name: str
    kind: str


@dataclass(frozen=True)
class Route:
    """One path of the HTTP side.

    Attributes:
        methods: All that the path has.
        path: Such as "/v1/models/{name:path}".
        handler: Its docstring is the summary.
        answer: Type of the JSON of a 200; None: plain text.
        body: Type of the request's JSON.
        event: Type of the JSON of each event, where an answer may be streamed.
        queries: Parameters behind the path.
    """

    methods: tuple[str, ...]
    path: str
    handler: Callable[..., Awaitable[Response]]
    answer: Any = None
    body: Any = None
    event: Any = None
    queries: tuple[Query, ...] = ()


def openapi_document(routes: Sequence[Route], *, needs_key: bool) -> dict[str, Any]:
    """Describe the routes in OpenAPI 3.1."""
    inputs = [(route.body, "validation", TypeAdapter(route.body)) for route in routes if route.body]
    answers = [kind for route in routes for kind in (route.answer, route.event) if kind is not None]
    outputs = [(kind, "serialization", TypeAdapter(kind)) for kind in (*answers, ErrorObject)]
    schemas, definitions = TypeAdapter.json_schemas([*inputs, *outputs], ref_template=_REF)  # type: ignore[list-item]
    paths: dict[str, Any] = {}
    for route in routes:
        path = paths.setdefault(route.path.replace(":path}", "}"), {})
        for method in route.methods:
            path[method.lower()] = _operation(route, schemas, needs_key=needs_key)
    components: dict[str, Any] = {"schemas": definitions["$defs"]}
    if needs_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "gptoss_ray", "version": version("gptoss-ray")},
        "paths": paths,
        "components": components,
    }


def _operation(route: Route, schemas: dict[Any, Any], *, needs_key: bool) -> dict[str, Any]:
    content: dict[str, Any] = (
        {"text/plain": {"schema": {"type": "string"}}}
        if route.answer is None
        else _json(schemas[route.answer, "serialization"])
    )
    if route.event is not None:
        # Each `data:` line but the last, `[DONE]`, is this JSON.
        content["text/event-stream"] = {
            "schema": {"type": "string", "contentMediaType": "text/event-stream"},
            "itemSchema": schemas[route.event, "serialization"],
        }
    error = {"description": "What is wrong.", "content": _json(schemas[ErrorObject, "serialization"])}
    operation: dict[str, Any] = {
        "summary": (route.handler.__doc__ or "").partition("\n")[0],
        "responses": {"200": {"description": "Done.", "content": content}, "4XX": error, "5XX": error},
    }
    if route.body is not None:
        body = _json(schemas[route.body, "validation"])
        operation["requestBody"] = {"required": True, "content": body}
    parameters = [_parameter(name, "string", "path") for name in _PATH_NAME.findall(route.path)]
    parameters += [_parameter(name, kind, "query") for name, kind in route.queries]
    if parameters:
        operation["parameters"] = parameters
    if needs_key and route.path not in PUBLIC_PATHS:
        operation["security"] = [{"key": []}]
    return operation


def _parameter(name: str, kind: str, place: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": {"type": kind}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
