"""Values of the files in `cluster/` that stand for an operator's own, and were left as they are."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

_MARK = "replace"
# Documentation addresses (RFC 5737), which are nobody's.
_NOBODYS_NETWORKS = [
    ipaddress.ip_network(network) for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
]


@dataclass(frozen=True)
class Placeholder:
    """A value that is still to be replaced: where it stands, and what it is."""

    field: str
    value: str
    line: int

    def __str__(self) -> str:
        return f"{self.field} (line {self.line}) is {self.value}"


def find_placeholders(root: yaml.Node) -> Iterator[Placeholder]:
    """Yield the values of a YAML file's tree that say `replace`, or are addresses out of documentation.

    Commands are not looked into: one may well replace something.
    """
    yield from _walk(root, "")


def _walk(node: yaml.Node, field: str) -> Iterator[Placeholder]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not str(key.value).endswith("_commands"):
                yield from _walk(value, f"{field}.{key.value}".lstrip("."))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, f"{field}[{index}]")
    elif isinstance(node, yaml.ScalarNode) and _is_placeholder(str(node.value)):
        yield Placeholder(field, str(node.value), node.start_mark.line + 1)


def _is_placeholder(value: str) -> bool:
    if _MARK in value.lower():
        return True
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return any(address in network for network in _NOBODYS_NETWORKS)
