"""What may be wrong with a configuration file, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass

_GOOD = "models:\n  - name: m\n    checkpoint: demo\n"


@dataclass(frozen=True)
class YamlCase:
    """The bytes of a file, and a pattern of what is said, behind the name of the file."""

    name: str
    content: bytes
    said: str


def _yaml(name: str, text: str, said: str) -> YamlCase:
    return YamlCase(name, text.encode(), said)


_BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

YAML_CASES = [
    YamlCase("no UTF-8", b"\xff\xfe\xfd", "cannot be read"),
    YamlCase("zero bytes", b"a: b\0c", "not valid YAML"),
    YamlCase("two megabytes", b"a: " + b"b" * (2 << 20), "more than 1048576 bytes"),
    _yaml("nothing", "", "expected a mapping"),
    _yaml("a list", "- a", "expected a mapping"),
    _yaml("an open list", "a: [", "line 1: not valid YAML"),
    _yaml("two documents", "a: b\n---\nc: d\n", "not valid YAML"),
    _yaml("an object of Python's", "a: !!python/object/apply:os.system ['id']\n", "not valid YAML"),
    _yaml("a name of Python's", "a: !!python/name:os.system\n", "not valid YAML"),
    _yaml("a tag of its own", "a: !evil b\n", "not valid YAML"),
    _yaml("aliases for billions of values", _BOMB, r"line 2: \*a: aliases are not taken"),
    _yaml("a list that is in itself", "a: &a [*a]\n", r"line 1: \*a: aliases are not taken"),
    _yaml("10,000 lists deep", "a: " + "[" * 10_000, "nested more than 64 deep"),
    _yaml("10,000 mappings deep", "a: " + "{b: " * 10_000, "nested more than 64 deep"),
    _yaml("a key twice", "models: []\nmodels: []\n", "line 2: key 'models' stands twice"),
    _yaml("a list for a key", "? [a, b]\n: c\n", "not valid YAML"),
    _yaml("a number of 5,000 digits", f"a: {'9' * 5000}\n", "a value is not valid YAML"),
    _yaml("a day that is none", "a: 2025-99-99\n", "a value is not valid YAML"),
    _yaml("an unknown key", _GOOD + "modles: 1\n", "line 4: unknown key 'modles'; did you mean 'models'"),
    _yaml("no models", "limits: {}\n", "models: Field required"),
    _yaml("models that are a text", "models: all\n", "line 1: models: .*tuple"),
    _yaml(
        "a number too large",
        _GOOD + "    engine: {max_num_sequences: 1000000000}\n",
        "line 4: .*less than or equal",
    ),
    _yaml("a number that is none", _GOOD + "    parallel: {heartbeat_s: .nan}\n", "line 4: .*heartbeat_s"),
    _yaml("a name with a line break", 'models:\n  - name: "a\\nb"\n    checkpoint: demo\n', "line 2: .*name"),
    _yaml("an empty key", _GOOD + "api_keys: ['']\n", "line 4: api_keys: an API key is empty"),
]
