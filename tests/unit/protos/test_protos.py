"""The rules that protos/buf.yaml asks for, as far as descriptors show them, and stubs that are up to date."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).parents[3]
PROTOS = ROOT / "protos"
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
PACKAGE = "gptoss.v1"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> list[descriptor_pb2.FileDescriptorProto]:
    path = tmp_path_factory.mktemp("protos") / "set"
    options = [
        f"-I{PROTOS}",
        f"-I{files('grpc_tools') / '_proto'}",
        "--include_source_info",
        f"--descriptor_set_out={path}",
    ]
    assert protoc.main(["protoc", *options, *SOURCES]) == 0
    return list(descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file)


@cache
def generate_module() -> Any:
    spec = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name of everything in a file and its path in the source info."""
    for i, message in enumerate(file.message_type):
        yield message.name, (4, i)
        assert all(nested.options.map_entry for nested in message.nested_type), "messages stand side by side"
        for j, field in enumerate(message.field):
            yield f"{message.name}.{field.name}", (4, i, 2, j)
        for j, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):
                yield f"{message.name}.{oneof.name}", (4, i, 8, j)
    for i, enum in enumerate(file.enum_type):
        yield enum.name, (5, i)
        for j, value in enumerate(enum.value):
            yield value.name, (5, i, 2, j)
    for i, service in enumerate(file.service):
        yield service.name, (6, i)
        for j, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, i, 2, j)


def test_everything_has_a_comment(described):
    for file in described:
        commented = {
            tuple(location.path)
            for location in file.source_code_info.location
            if location.leading_comments.strip()
        }
        assert [name for name, path in elements(file) if path not in commented] == []


def test_files_and_packages_go_together(described):
    for file in described:
        assert file.package == PACKAGE
        assert Path(file.name).parent == Path(*PACKAGE.split("."))
        assert re.fullmatch(r"[a-z_]+\.proto", Path(file.name).name)


def test_names_are_written_as_their_kind_is(described):
    for file in described:
        for message in file.message_type:
            assert re.fullmatch(r"([A-Z][a-z]+)+", message.name)
            for field in message.field:
                assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", field.name), field.name


def test_enums_start_unspecified_and_their_values_bear_their_name(described):
    for file in described:
        for enum in file.enum_type:
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
            assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}_UNSPECIFIED", 0)
            assert all(value.name.startswith(f"{prefix}_") for value in enum.value)


def test_each_rpc_has_messages_of_its_own_that_bear_its_name(described):
    seen = set()
    for file in described:
        for service in file.service:
            assert service.name.endswith("Service")
            for method in service.method:
                names = (method.input_type, method.output_type)
                assert names == (f".{PACKAGE}.{method.name}Request", f".{PACKAGE}.{method.name}Response")
                seen.update(names)
    assert len(seen) == 2 * sum(len(service.method) for file in described for service in file.service)


def test_rpc_names_are_unique_over_all_services_because_serve_knows_nothing_else(described):
    names = [method.name for file in described for service in file.service for method in service.method]
    assert len(set(names)) == len(names)
    assert not set(names) & {"Check", "List", "Watch"}, "those are grpc.health.v1's"


def test_the_stubs_in_the_package_are_those_of_the_protos(tmp_path):
    assert generate_module().generate(tmp_path) == 0
    made = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*_pb2*.py*")}
    package = ROOT / "gptoss_ray/protos"
    kept = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*_pb2*.py*")}
    assert kept.keys() == made.keys()
    assert [name for name in kept if kept[name] != made[name]] == [], "run `make proto`"
