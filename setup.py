"""Adds the native kernels to the build; all else about the package stands in pyproject.toml.

The library has no Python in it: it is loaded through ctypes, and one build serves every Python.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("gptoss_ray/kernels/native")


def load_build() -> ModuleType:
    """Load the module that compiles; the package itself cannot be imported while it is installed."""
    path = Path(__file__).resolve().parent / NATIVE / "build.py"
    spec = importlib.util.spec_from_file_location("gptoss_ray_native_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildNative(build_ext):
    """Builds the library, or says in one line why there is none and lets the installation go on."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's path in the package, which names no Python version."""
        return f"{fullname.replace('.', '/')}.so"

    def run(self) -> None:
        """Build into the source folder (editable installations) or into the wheel."""
        folder = Path(__file__).resolve().parent if self.inplace else Path(self.build_lib).resolve()
        native = load_build()
        try:
            native.build(folder / NATIVE / native.LIBRARY.name)
        except native.BuildError as error:
            print(native.warning(error), file=sys.stderr, flush=True)


class PlatformWheel(bdist_wheel):
    """A wheel for a platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its binary interface, and the platform."""
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    source_files = [str(NATIVE / "src" / path.name) for path in load_build().source_files()]
    library = Extension(
        "gptoss_ray.kernels.native._native",
        sources=[path for path in source_files if path.endswith(".cpp")],
        depends=[path for path in source_files if not path.endswith(".cpp")],
        optional=True,
    )
    setup(ext_modules=[library], cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel})
