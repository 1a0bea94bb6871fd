"""A YAML file whose mistakes are reported with file, line and the nearest known name."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gptoss_ray.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 64

Model = TypeVar("Model", bound=BaseModel)
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlDocument:
    """A parsed file: plain `data`, and the node tree that knows the lines."""

    path: Path
    data: dict[str, Any]
    root: yaml.MappingNode

    @classmethod
    def read(cls, path: str | Path) -> YamlDocument:
        """Parse a file.

        Raises:
            ConfigError: The file is missing, is not YAML, has a duplicate key, or is not a mapping.
        """
        path = Path(path)
        text = _read_text(path)
        try:
            _check_events(path, text)
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}{_mark_line(error)}: not valid YAML: {_problem(error)}.") from error
        except ValueError as error:  # from a scalar: a date that is none, an integer of thousands of digits
            raise ConfigError(f"{path}: a value is not valid YAML: {error}.") from error
        if not isinstance(root, yaml.MappingNode) or not isinstance(data, dict):
            raise ConfigError(f"{path}: expected a mapping of keys at the top of the file.")
        document = cls(path, data, root)
        document._refuse_duplicate_keys(root)
        return document

    def validate(self, model: type[Model], at: KeyPath = ()) -> Model:
        """Check the value at a key path against a pydantic model and return the model.

        Raises:
            ConfigError: The first mistake: an unknown key (with its line and the nearest name), a
                missing key or a bad value.
        """
        node = self.node(at)
        for key, key_node, known in _unknown_keys(node, model):
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            remedy = (
                f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(sorted(known))}."
            )
            raise self.error(key_node, f"unknown key {key!r}; {remedy}")
        return self.validate_known(model, at)

    def validate_known(self, model: type[Model], at: KeyPath = ()) -> Model:
        """Check only the keys that a pydantic model has, of a file that somebody else reads whole.

        Raises:
            ConfigError: The first missing key or bad value, with its line.
        """
        value: Any = self.data
        for key in at:
            value = value[key]
        try:
            return model.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = _field_path(first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
            raise self.error(self.node(at + tuple(first["loc"])), f"{where}: {message}{got}.") from error

    def error(self, node: yaml.Node, message: str) -> ConfigError:
        """Make a ConfigError that names the file and the node's line."""
        return ConfigError(f"{self.path}, line {node.start_mark.line + 1}: {message}")

    def node(self, at: KeyPath) -> yaml.Node:
        """Return the node at a key path, or the deepest one on the way that exists."""
        node: yaml.Node = self.root
        for key in at:
            child = _child(node, key)
            if child is None:
                break
            node = child
        return node

    def _refuse_duplicate_keys(self, node: yaml.Node) -> None:
        seen: set[str] = set()
        for key_node, child in _pairs(node):
            if key_node.value in seen:
                raise self.error(key_node, f"key {key_node.value!r} stands twice; remove one.")
            seen.add(key_node.value)
            self._refuse_duplicate_keys(child)
        if isinstance(node, yaml.SequenceNode):
            for child in node.value:
                self._refuse_duplicate_keys(child)


def _read_text(path: Path) -> str:
    """Return the text of a regular file; a pipe would have us wait, a device never end."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file; give the path of a YAML file.")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path}: more than {MAX_BYTES} bytes; give the path of a YAML file.")
        return data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML file.") from error


def _check_events(path: Path, text: str) -> None:
    """Refuse what could grow or nest without end once it is loaded.

    Raises:
        ConfigError: An alias (a few lines of them can stand for billions of values), or too deep a nesting.
        YAMLError: The text is no YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                f"{path}{_mark_line(event)}: *{event.anchor}: aliases are not taken; repeat it."
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path}{_mark_line(event)}: nested more than {MAX_DEPTH} deep; flatten it.")


def _pairs(node: yaml.Node) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        return []
    return [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]


def _child(node: yaml.Node, key: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        child: yaml.Node = node.value[key]
        return child
    return next((value for name, value in _pairs(node) if name.value == key), None)


def _unknown_keys(node: yaml.Node, model: type[BaseModel]) -> Iterator[tuple[str, yaml.Node, list[str]]]:
    """Yield (key, its node, known keys) for each mapping key that the model tree does not have."""
    fields = {(field.alias or name): field for name, field in model.model_fields.items()}
    for key_node, value_node in _pairs(node):
        field = fields.get(key_node.value)
        if field is None:
            yield key_node.value, key_node, list(fields)
            continue
        inner = _inner_model(field.annotation)
        if inner is None:
            continue
        children = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        for child in children:
            yield from _unknown_keys(child, inner)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """Return the one pydantic model in an annotation such as `list[M]` or `M | None`.

    A choice between models, or of a model and a free mapping, is left to pydantic: None.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    origin = typing.get_origin(annotation)
    if origin not in (list, tuple, typing.Union, types.UnionType, typing.Annotated):
        return None
    parts = typing.get_args(annotation)
    if any(part is dict or typing.get_origin(part) is dict for part in parts):
        return None
    models = [inner for part in parts if (inner := _inner_model(part)) is not None]
    return models[0] if len(models) == 1 else None


def _field_path(location: tuple[str | int, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.lstrip(".") or "value"


def _mark_line(at: yaml.YAMLError | yaml.Event) -> str:
    mark = getattr(at, "problem_mark", None) or getattr(at, "start_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or error)
