from __future__ import annotations

from pathlib import Path

import pytest

from gptoss_ray.kernels.native import library as library_module
from gptoss_ray.kernels.native.build import BuildError, build, failure_file, find_compiler
from gptoss_ray.kernels.native.library import LIBRARY_VARIABLE, NativeLibrary, find_library, load_library

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no compiler here")
EXPORT = 'extern "C" __attribute__((visibility("default")))'


def write_sources(folder: Path, *, best_isa: int = 1, names: set[str] | None = None) -> Path:
    """Sources of a library whose functions do nothing."""
    names = set(library_module._SIGNATURES) if names is None else names
    lines = [
        f"{EXPORT} int {name}() {{ return 0; }}" for name in sorted(names - {"gr_build_id", "gr_best_isa"})
    ]
    lines.append(f"{EXPORT} const char* gr_build_id() {{ return GR_BUILD_ID; }}")
    lines.append(f"{EXPORT} int gr_best_isa() {{ return {best_isa}; }}")
    folder.mkdir(exist_ok=True)
    (folder / "api.cpp").write_text("\n".join(lines))
    return folder


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "src")


@pytest.fixture
def built(sources: Path, tmp_path: Path) -> Path:
    return build_of(sources, tmp_path)


def build_of(sources: Path, tmp_path: Path) -> Path:
    path = tmp_path / "library.so"
    build(path, sources=sources, objects=tmp_path / "objects")
    return path


def assert_is_a_sentence(reason: object) -> str:
    assert isinstance(reason, str) and reason.startswith(("the native kernels", "/")) and "\n" not in reason
    return reason


@needs_compiler
def test_a_library_of_these_sources_is_loaded(built: Path, sources: Path):
    found = load_library(built, sources)
    assert isinstance(found, NativeLibrary)
    assert found.instruction_sets == ("portable", "avx2") and found.instruction_set == "avx2"
    assert len(found.build_id) == 64


def test_a_library_that_was_never_built_says_how_to_build_it(tmp_path: Path):
    reason = assert_is_a_sentence(load_library(tmp_path / "library.so"))
    assert "not built" in reason and "make native" in reason


def test_a_library_that_could_not_be_built_says_why(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CXX", "/nonexistent")
    path = tmp_path / "library.so"
    with pytest.raises(BuildError):
        build_of(sources, tmp_path)
    assert failure_file(path).exists()
    reason = assert_is_a_sentence(load_library(path, sources))
    assert "/nonexistent" in reason and "install g++" in reason and "make native" in reason


@needs_compiler
def test_a_library_of_other_sources_is_stale(built: Path, sources: Path):
    with (sources / "api.cpp").open("a") as file:
        file.write("\n// changed\n")
    reason = assert_is_a_sentence(load_library(built, sources))
    assert "other sources" in reason and "make native" in reason


def test_a_file_that_is_no_library_is_refused(tmp_path: Path):
    path = tmp_path / "library.so"
    path.write_text("no library")
    assert "cannot be loaded" in assert_is_a_sentence(load_library(path))


@needs_compiler
def test_a_library_without_all_functions_is_refused(tmp_path: Path):
    sources = write_sources(tmp_path / "src", names={"gr_create"})
    reason = assert_is_a_sentence(load_library(build_of(sources, tmp_path), sources))
    assert "gr_" in reason and "make native" in reason


@needs_compiler
def test_an_unknown_processor_is_refused(tmp_path: Path):
    sources = write_sources(tmp_path / "src", best_isa=9)
    assert "processor" in assert_is_a_sentence(load_library(build_of(sources, tmp_path), sources))


def test_the_environment_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "elsewhere.so"))
    # Unwrapped: the answer for this process is remembered.
    assert "elsewhere.so" in assert_is_a_sentence(find_library.__wrapped__())


def test_the_library_of_this_checkout_runs_everywhere_it_says(library: NativeLibrary):
    for number, name in enumerate(library.instruction_sets):
        context = library.functions.gr_create(1, number, None)
        assert context, f"{name}: {library.last_error()}"
        library.functions.gr_destroy(context)
