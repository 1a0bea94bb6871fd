from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution

from gptoss_ray.kernels.native import build
from gptoss_ray.kernels.native.build import BuildError, build_id, failure_file, find_compiler

ROOT = Path(__file__).resolve().parents[4]

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no compiler here")


@pytest.fixture
def setup_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py, which does nothing when it is merely imported."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "number.h").write_text("#define NUMBER 1\n")
    (folder / "api.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) const char* gr_build_id() {\n'
        "  return GR_BUILD_ID;\n}\n"
    )
    (folder / "other.cpp").write_text('#include "number.h"\nint number() { return NUMBER; }\n')
    return folder


def compiled(objects: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in objects.glob("*.o")}


def test_without_a_compiler_an_installation_warns_in_one_line_and_goes_on(
    setup_module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("CXX", "/nonexistent")
    command = setup_module.BuildNative(Distribution())
    command.build_lib = str(tmp_path)
    command.run()
    (line,) = capfd.readouterr().err.splitlines()
    assert "WARNING" in line and "/nonexistent" in line and "install g++" in line and "make native" in line
    library = tmp_path / "gptoss_ray/kernels/native/_native.so"
    assert not library.exists()
    assert "/nonexistent" in failure_file(library).read_text()


def test_the_library_is_named_after_no_python_version(setup_module: ModuleType):
    command = setup_module.BuildNative(Distribution())
    assert command.get_ext_filename("gptoss_ray.kernels.native._native").endswith("/native/_native.so")


def test_every_source_is_in_the_package():
    packaged = (ROOT / "pyproject.toml").read_text()
    assert '"kernels/native/src/*"' in packaged


def test_the_build_id_changes_with_every_file(sources: Path):
    seen = {build_id(sources)}
    for path in sorted(sources.iterdir()):
        path.write_text(path.read_text() + "// changed\n")
        seen.add(build_id(sources))
    (sources / "new.inl").write_text("")
    seen.add(build_id(sources))
    assert len(seen) == 5


@needs_compiler
def test_only_files_that_changed_are_compiled_again(sources: Path, tmp_path: Path):
    library, objects = tmp_path / "library.so", tmp_path / "objects"
    build.build(library, sources=sources, objects=objects)
    first, built_at = compiled(objects), library.stat().st_mtime_ns
    build.build(library, sources=sources, objects=objects)
    assert compiled(objects) == first and library.stat().st_mtime_ns == built_at

    (sources / "other.cpp").write_text("int number() { return 2; }\n")
    build.build(library, sources=sources, objects=objects)
    # api.cpp carries the hash of all.
    assert {name for name, time in compiled(objects).items() if time != first[name]} == {"api", "other"}
    (sources / "third.cpp").write_text("int third() { return 3; }\n")
    second = compiled(objects)
    build.build(library, sources=sources, objects=objects)
    assert compiled(objects)["other"] == second["other"]
    assert build_id(sources).encode() in library.read_bytes()


@needs_compiler
def test_a_failed_build_names_the_error_and_leaves_no_library(sources: Path, tmp_path: Path):
    library, objects = tmp_path / "library.so", tmp_path / "objects"
    build.build(library, sources=sources, objects=objects)
    (sources / "other.cpp").write_text("int number() { return missing; }\n")
    with pytest.raises(BuildError, match=r"could not compile other\.cpp: .*missing"):
        build.build(library, sources=sources, objects=objects)
    assert not library.exists()
    assert "other.cpp" in failure_file(library).read_text()

    (sources / "other.cpp").write_text("int number() { return 1; }\n")
    build.build(library, sources=sources, objects=objects)
    assert library.exists() and not failure_file(library).exists()


@needs_compiler
def test_a_library_that_is_up_to_date_needs_no_compiler(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library = tmp_path / "library.so"
    build.build(library, sources=sources, objects=tmp_path / "objects")
    monkeypatch.setenv("CXX", "/nonexistent")
    build.build(library, sources=sources, objects=tmp_path / "objects")
    assert library.exists()
