from __future__ import annotations

from typing import Any

import pytest

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.typescript import comment_lines, type_of_parameters


def _properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas}


KITCHEN_SINK = _properties(
    city={"type": "string", "description": "The city"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
    days={"type": "integer", "default": 3, "nullable": True},
    tags={"type": "array", "items": {"type": "string"}, "title": "Tags", "examples": ["a", "b"]},
    where=_properties(x={"type": "number"}) | {"required": ["x"]},
    which={"oneOf": [{"type": "string", "default": "a"}, {"type": "number", "description": "or so"}]},
) | {"required": ["city"], "description": "All of it"}

# What we write otherwise than openai-harmony: reason, schema, its text, ours.
DIFFERENCES: list[tuple[str, dict[str, Any], str, str]] = [
    ("a function without arguments takes none", _properties(), "(_: {\n})", "()"),
    (
        "every pydantic Optional is an anyOf",
        _properties(a={"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}),
        "(_: {\na?: any, // default: null\n})",
        "(_: {\na?: number | null, // default: null\n})",
    ),
    (
        "every nested pydantic model is a $ref",
        _properties(a={"$ref": "#/$defs/P"}) | {"$defs": {"P": _properties(x={"type": "number"})}},
        "(_: {\na?: any,\n})",
        "(_: {\na?: {\n    x?: number,\n    },\n})",
    ),
    (
        "allOf with one reference is pydantic's older form of it",
        _properties(a={"allOf": [{"$ref": "#/$defs/P"}]}) | {"$defs": {"P": {"enum": ["x", "y"]}}},
        "(_: {\na?: any,\n})",
        '(_: {\na?: "x" | "y",\n})',
    ),
    (
        "all of several types",
        _properties(a={"allOf": [_properties(x={"type": "number"}), {"enum": [1, 2]}]}),
        "(_: {\na?: any,\n})",
        "(_: {\na?: {\n    x?: number,\n    } & (1 | 2),\n})",
    ),
    (
        "a constant is its own type",
        _properties(a={"const": "x", "type": "string"}),
        "(_: {\na?: string,\n})",
        '(_: {\na?: "x",\n})',
    ),
    (
        "an enum of numbers lost its values",
        _properties(a={"type": "integer", "enum": [1, 2]}),
        "(_: {\na?: number,\n})",
        "(_: {\na?: 1 | 2,\n})",
    ),
    (
        "a map lost its values",
        _properties(a={"type": "object", "additionalProperties": {"type": "integer"}}),
        "(_: {\na?: {\n    },\n})",
        "(_: {\na?: Record<string, number>,\n})",
    ),
    (
        "an array of a union read as a union with an array",
        _properties(a={"type": "array", "items": {"type": "string", "enum": ["x", "y"]}}),
        '(_: {\na?: "x" | "y"[],\n})',
        '(_: {\na?: ("x" | "y")[],\n})',
    ),
    (
        "a list of types lost what their items are",
        _properties(a={"type": ["array", "null"], "items": {"type": "string"}}),
        "(_: {\na?: array | null,\n})",
        "(_: {\na?: string[] | null,\n})",
    ),
    (
        "the second line of a description ran out of its comment",
        _properties(a={"type": "string", "description": "one\ntwo\r\nthree\n"}),
        "(_: {\n// one\ntwo\r\nthree\n\na?: string,\n})",
        "(_: {\n// one\n// two\n// three\na?: string,\n})",
    ),
    (
        "quotes inside a value ended it",
        _properties(a={"type": "string", "enum": ['x"y'], "default": 'x"y'}),
        '(_: {\na?: "x"y", // default: x"y\n})',
        '(_: {\na?: "x\\"y", // default: x\\"y\n})',
    ),
    (
        "a property's name that is no identifier",
        _properties(**{"a b\n": {"type": "string"}}),
        "(_: {\na b\n?: string,\n})",
        '(_: {\n"a b\\n"?: string,\n})',
    ),
    (
        "examples that are no strings were dropped",
        _properties(a={"type": "integer", "examples": [1, 2]}),
        "(_: {\n// Examples:\na?: number,\n})",
        "(_: {\n// Examples:\n// - 1\n// - 2\na?: number,\n})",
    ),
    (
        "the description of a oneOf came last and hid its first variant's",
        _properties(
            a={"oneOf": [{"type": "string", "description": "v"}], "description": "d", "examples": ["e"]}
        ),
        '(_: {\n// Examples:\n// - "e"\n// d\na?:\n | string\n,\n})',
        '(_: {\n// d\n// Examples:\n// - "e"\na?:\n | string // v\n,\n})',
    ),
    (
        "properties without a type are an object",
        {"properties": {"a": {"type": "string"}}},
        "(_: any)",
        "(_: {\na?: string,\n})",
    ),
]


def _ours(schema: dict[str, Any] | None) -> str:
    text = type_of_parameters(schema, param="p")
    return f"(_: {text})" if text else "()"


def _theirs(schema: dict[str, Any] | None, encoding: HarmonyEncoding, oracle: Any) -> str:
    from openai_harmony import Conversation, DeveloperContent, Message, Role, ToolDescription

    tool = ToolDescription.new("f", "", parameters=schema)
    content = DeveloperContent.new().with_function_tools([tool])
    message = Message.from_role_and_content(Role.DEVELOPER, content)
    text = encoding.decode_bytes(oracle.render_conversation(Conversation.from_messages([message]))).decode()
    return text.split("type f = ")[1].split(" => any;\n\n} // namespace")[0]


@pytest.mark.parametrize("schema", [None, KITCHEN_SINK, {"type": "string"}])
def test_types_are_those_of_openai_harmony(
    schema: dict[str, Any] | None, encoding: HarmonyEncoding, oracle: Any
) -> None:
    assert _ours(schema) == _theirs(schema, encoding, oracle)


@pytest.mark.parametrize(("reason", "schema", "theirs", "ours"), DIFFERENCES, ids=[d[0] for d in DIFFERENCES])
def test_types_differ_from_openai_harmony_where_it_loses_meaning(
    reason: str, schema: dict[str, Any], theirs: str, ours: str, encoding: HarmonyEncoding, oracle: Any
) -> None:
    assert _theirs(schema, encoding, oracle) == theirs
    assert _ours(schema) == ours


def test_a_recursive_type_ends_at_its_second_level() -> None:
    schema = _properties(tree={"$ref": "#/$defs/Node"}) | {
        "$defs": {"Node": _properties(next={"$ref": "#/$defs/Node"})}
    }
    assert _ours(schema) == "(_: {\ntree?: {\n    next?: any,\n    },\n})"


@pytest.mark.parametrize(
    "reference", ["#", "#/$defs/A", "#/nowhere", "#anchor", "other.json", "#/properties/a", "#/$defs/list"]
)
def test_any_reference_ends(reference: str) -> None:
    schema = _properties(a={"$ref": reference}) | {
        "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}, "list": [1]}
    }
    assert _ours(schema).startswith("(_: {\na?: ")


def test_a_reference_keeps_the_description_beside_it() -> None:
    schema = _properties(a={"$ref": "#/$defs/a~1b", "description": "mine"}) | {
        "$defs": {"a/b": {"type": "string", "description": "its"}}
    }
    assert _ours(schema) == "(_: {\n// mine\na?: string,\n})"


def test_a_schema_whose_references_multiply_is_refused_at_once() -> None:
    definitions = {
        f"D{i}": _properties(a={"$ref": f"#/$defs/D{i + 1}"}, b={"$ref": f"#/$defs/D{i + 1}"})
        for i in range(28)
    }
    with pytest.raises(InvalidRequestError, match="too large") as caught:
        type_of_parameters({"$ref": "#/$defs/D0", "$defs": definitions}, param="tools[0].function.parameters")
    assert caught.value.param == "tools[0].function.parameters"


def test_a_schema_of_many_levels_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidRequestError, match="32 levels"):
        type_of_parameters(schema, param="p")


@pytest.mark.parametrize("junk", [None, True, 3, "x", [], [1], {"type": 3}, {"type": []}, {"enum": 3}])
@pytest.mark.parametrize(
    "keyword", ["properties", "items", "oneOf", "anyOf", "allOf", "required", "$ref", "type"]
)
def test_a_keyword_of_the_wrong_kind_is_no_error(keyword: str, junk: Any) -> None:
    for schema in ({keyword: junk}, {"type": "array", keyword: junk}, {"type": "object", keyword: junk}):
        assert isinstance(_ours(_properties(a=schema)), str)
        assert isinstance(_ours(schema), str)


def test_every_line_of_a_comment_is_one() -> None:
    assert comment_lines("a\nb\r\nc\rd\u2028e\u2029f\n", "  ") == [f"  // {c}" for c in "abcdef"]
    assert comment_lines("") == []
