"""The arrows between packages go one way; heavy libraries stay in their rooms."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gptoss_ray"

FOUNDATION = {"config", "errors", "generation", "huge_memory", "json_logs", "tracing", "yaml_document"}
MAY_IMPORT = {
    "errors": set(),
    "generation": {"errors"},
    "huge_memory": set(),
    "json_logs": {"tracing"},
    "tracing": {"errors"},
    "yaml_document": {"errors"},
    "config": {"errors"},
    "protos": set(),
    "checkpoint": FOUNDATION,
    "kernels": FOUNDATION | {"checkpoint"},
    "kvcache": FOUNDATION,
    "parallel": FOUNDATION,
    "planner": FOUNDATION | {"checkpoint"},
    "harmony": {"errors"},
    "structured": FOUNDATION | {"harmony"},
    "model": FOUNDATION | {"checkpoint", "kernels", "kvcache", "parallel"},
    "engine": FOUNDATION | {"checkpoint", "kernels", "kvcache", "parallel", "model"},
    "ranks": FOUNDATION
    | {"checkpoint", "engine", "kernels", "kvcache", "model", "parallel", "planner", "structured"},
    "client": {"errors", "protos"},
    "http_client": {"errors"},
    "serving": FOUNDATION
    | {"checkpoint", "engine", "ranks", "harmony", "structured", "protos", "http_client"},
    "cluster": FOUNDATION | {"ranks", "serving"},
}
TOPS = {"cli", "commands", "bench", "demo_training"}
ONLY_IN = {
    "ray": {"ranks", "serving"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "opentelemetry": {"tracing"},
    "grpc": {"serving", "client", "protos", "bench", "commands"},
    "deepspeed": {"parallel"},
    "torch.distributed": {"parallel"},
    "transformers": {"bench"},
    "openai_harmony": set(),
    "openai": set(),
    "llguidance": {"structured"},
}
MAX_LINES = 500


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, inside functions and type-checking blocks too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "protos" not in path.parts)


def test_every_room_has_a_place_in_the_picture():
    rooms = {room(path) for path in SOURCES} - {"__init__", "__main__"}
    assert rooms <= set(MAY_IMPORT) | TOPS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_go_one_way(path):
    if room(path) in TOPS or room(path).startswith("__"):
        return
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("gptoss_ray.")}
    foreign = inside - {room(path)} - MAY_IMPORT[room(path)]
    assert not foreign, f"{room(path)} may not import {sorted(foreign)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path):
    for library, rooms in ONLY_IN.items():
        if room(path) in rooms:
            continue
        used = [name for name in imports(path) if name == library or name.startswith(library + ".")]
        assert not used, f"{library} is imported outside {sorted(rooms)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_a_reader_can_hold(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_a_network_or_file_feeds_is_unpickled(path):
    text = path.read_text(encoding="utf-8")
    assert not {"pickle", "cloudpickle", "dill", "marshal"} & {name.split(".")[0] for name in imports(path)}
    assert "torch.load(" not in text
    assert "trust_remote_code=True" not in text
