"""JSON schema as the TypeScript in which gpt-oss was taught its tools.

Layout is openai-harmony's, odd line breaks included, because the model learnt it. It is mended where that
renderer loses meaning: `anyOf`, `allOf`, `$ref`, `const`, enums of numbers and maps are written out instead
of `any`; unions inside arrays have brackets; every line of a comment starts with `//`; names and strings
that need it are quoted and escaped, so that no description or name can end its comment or line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gptoss_ray.errors import InvalidRequestError

MAX_DEPTH = 32
MAX_NUM_NODES = 10_000
_INDENT = "    "
_LINE_BREAK = re.compile(r"\r\n|\r|\n|\u2028|\u2029")
_KEYWORDS_OF_CONTENT = ("properties", "additionalProperties", "oneOf", "anyOf", "allOf", "enum", "const")
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


def type_of_parameters(schema: dict[str, Any] | None, *, param: str) -> str:
    """Return the TypeScript type of a function's only argument; "" where it takes none.

    Raises:
        InvalidRequestError: The schema, with its references followed, has over 10,000 nodes or 32 levels;
            `param` names its field.
    """
    if schema is None:
        return ""
    renderer = _SchemaRenderer(schema, param)
    root = renderer.resolve(schema)
    says_something = any(root.get(keyword) for keyword in _KEYWORDS_OF_CONTENT)
    return renderer.type_of(schema, "") if says_something or root.get("type", "object") != "object" else ""


def comment_lines(text: str, indent: str = "") -> list[str]:
    """Return `// line` for each line of the text."""
    lines = _LINE_BREAK.split(text)
    if not lines[-1]:
        lines.pop()
    return [f"{indent}// {line}" for line in lines]


class _SchemaRenderer:
    """Walks one schema, counting nodes, with the references that are being followed on a stack."""

    def __init__(self, root: dict[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._num_nodes = 0
        self._depth = 0
        self._open_references: list[str] = []

    def type_of(self, schema: Any, indent: str) -> str:
        """Return the type of a schema whose continuation lines start with `indent`."""
        if not isinstance(schema, dict):
            return "any"
        self._num_nodes += 1
        if self._num_nodes > MAX_NUM_NODES or self._depth > MAX_DEPTH:
            raise InvalidRequestError(
                f"{self._param} is too large a schema with its references followed; "
                f"keep it under {MAX_NUM_NODES} nodes and {MAX_DEPTH} levels.",
                param=self._param,
            )
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in self._open_references:
                return "any"  # a recursive type: the model is told its outer level
            self._open_references.append(reference)
        self._depth += 1
        text = self._type_of_resolved(self.resolve(schema), indent)
        self._depth -= 1
        if isinstance(reference, str):
            self._open_references.pop()
        return text

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the schema with its `$ref`, if any, replaced by what it points to; own keywords win."""
        seen: set[str] = set()
        while isinstance(reference := schema.get("$ref"), str):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            target = None if reference in seen else self._look_up(reference)
            seen.add(reference)
            schema = {**target, **rest} if isinstance(target, dict) else rest
        return schema

    def _look_up(self, reference: str) -> Any:
        """Return what a pointer inside this document (RFC 6901) names, None if nothing."""
        if reference != "#" and not reference.startswith("#/"):
            return None
        node: Any = self._root
        for part in reference[1:].split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def _type_of_resolved(self, schema: dict[str, Any], indent: str) -> str:
        if _variants(schema, "oneOf"):
            lines = [f"\n{indent} | {text}" for text in self._commented_variants(schema, indent)]
            return "".join(lines)
        if "properties" not in schema:  # beside properties these only say which go together
            if variants := _variants(schema, "anyOf"):
                return _union(self.type_of(variant, indent) for variant in variants)
            if variants := _variants(schema, "allOf"):
                return self._intersection(variants, indent)
        if values := [schema["const"]] if "const" in schema else _variants(schema, "enum"):
            return _union(map(_literal, values))
        kind = schema.get("type", "object" if "properties" in schema else "any")
        kinds = kind if isinstance(kind, list) and kind else [kind]
        return _union(self._type_of_kind(one, schema, indent) for one in kinds)

    def _intersection(self, schemas: list[Any], indent: str) -> str:
        """Join types with `&`, each once."""
        if len(schemas) == 1:
            return self.type_of(schemas[0], indent)
        return " & ".join(dict.fromkeys(self._in_brackets(schema, indent) for schema in schemas))

    def _in_brackets(self, schema: Any, indent: str) -> str:
        """Return the type, in brackets if it is a union, for use inside another type."""
        text = self.type_of(schema, indent)
        return f"({text})" if isinstance(schema, dict) and _is_union(self.resolve(schema)) else text

    def _type_of_kind(self, kind: Any, schema: dict[str, Any], indent: str) -> str:
        """Return the type of a schema whose `type` is `kind`."""
        if kind == "object":
            return self._object(schema, indent)
        if kind == "array":
            return self._array(schema, indent)
        if kind in ("string", "boolean", "null", "number"):
            return str(kind)
        return "number" if kind == "integer" else "any"

    def _array(self, schema: dict[str, Any], indent: str) -> str:
        return f"{self._in_brackets(schema['items'], indent)}[]" if "items" in schema else "Array<any>"

    def _object(self, schema: dict[str, Any], indent: str) -> str:
        properties = schema.get("properties")
        values = schema.get("additionalProperties")
        if values and not properties:
            return f"Record<string, {self.type_of(values, indent)}>"
        lines = [*comment_lines(_text(schema, "description"), indent), "{"]
        names = schema.get("required")
        required = names if isinstance(names, list) else []
        for name, value in (properties if isinstance(properties, dict) else {}).items():
            lines += self._property(name, value, name in required, indent)
        return "\n".join([*lines, f"{indent}}}"])

    def _property(self, name: str, schema: Any, is_required: bool, indent: str) -> list[str]:
        """Return the lines of one property: comments, then `name?: type, // default`."""
        resolved = self.resolve(schema) if isinstance(schema, dict) else {}
        lines = _comments(resolved, indent)
        key = name if _IDENTIFIER.fullmatch(name) else _literal(name)
        key = f"{indent}{key}{'' if is_required else '?'}:"
        default = _default(resolved)
        if _variants(resolved, "oneOf"):
            if default:
                lines.append(f"{indent}// {default}")
            variants = self._commented_variants(resolved, indent)
            return [*lines, key, *(f"{indent} | {text}" for text in variants), f"{indent},"]
        text = _nullable(resolved, self.type_of(schema, indent + _INDENT))
        return [*lines, f"{key} {text},{f' // {default}' if default else ''}"]

    def _commented_variants(self, schema: dict[str, Any], indent: str) -> Iterator[str]:
        """Yield each variant of a `oneOf` with its description and default behind it."""
        for variant in _variants(schema, "oneOf"):
            resolved = self.resolve(variant) if isinstance(variant, dict) else {}
            text = _nullable(resolved, self.type_of(variant, f"{indent}   "))
            words = [_one_line(_text(resolved, "description")), _default(resolved)]
            comment = " ".join(filter(None, words))
            yield f"{text} // {comment}" if comment else text


def _comments(schema: dict[str, Any], indent: str) -> list[str]:
    """Return the lines above a property: title, description, examples."""
    lines = []
    if title := _text(schema, "title"):
        lines += [*comment_lines(title, indent), f"{indent}//"]
    lines += comment_lines(_text(schema, "description"), indent)
    examples = schema.get("examples")
    if isinstance(examples, list) and examples:
        lines += [f"{indent}// Examples:", *(f"{indent}// - {_literal(example)}" for example in examples)]
    return lines


def _default(schema: dict[str, Any]) -> str:
    """Return `default: value`, or "" where there is none; a default among an enum's values has no quotes."""
    if "default" not in schema:
        return ""
    text = _literal(schema["default"])
    is_bare = isinstance(schema["default"], str) and bool(schema.get("enum"))
    return f"default: {text[1:-1] if is_bare else text}"


def _nullable(schema: dict[str, Any], text: str) -> str:
    """Add null to the type of a schema with OpenAPI's `nullable`."""
    return f"{text} | null" if schema.get("nullable") is True and "null" not in text else text


def _variants(schema: dict[str, Any], keyword: str) -> list[Any]:
    variants = schema.get(keyword)
    return variants if isinstance(variants, list) else []


def _text(schema: dict[str, Any], keyword: str) -> str:
    text = schema.get(keyword)
    return text if isinstance(text, str) else ""


def _one_line(text: str) -> str:
    return _LINE_BREAK.sub(" ", text)


def _literal(value: Any) -> str:
    """Write a JSON value as compact JSON on one line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _union(types: Iterable[str]) -> str:
    """Join types with `|`, each once."""
    return " | ".join(dict.fromkeys(types))


def _is_union(schema: dict[str, Any]) -> bool:
    """Whether a schema with its reference followed becomes a union at its outer level."""
    return any(len(_variants(schema, keyword)) > 1 for keyword in ("oneOf", "anyOf", "enum", "type"))
