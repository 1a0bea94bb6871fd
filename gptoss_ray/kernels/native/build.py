"""Compiles the native kernels into one library; `python -m gptoss_ray.kernels.native.build`.

Needs the standard library alone: setup.py loads this file by its path, where nothing is installed yet.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "src"
LIBRARY = FOLDER / "_native.so"
_CHECKOUT = FOLDER.parents[2]

# Nothing that reorders sums or fuses operations: the bits of results must not depend on the compiler.
_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -Wall -Wextra -pthread"
# What a file may use of the processor. Which of them runs is decided by the machine it runs on.
_X86_FLAGS = {
    "isa_avx512.cpp": (
        "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mavx512vbmi "
        "-mfma -mf16c -mavx2 -mbmi2"
    ),
    "isa_avx2.cpp": "-mavx2 -mfma -mf16c -mbmi2",
}
_SANITIZE_FLAGS = (
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
)


class BuildError(Exception):
    """There is no library: `str(error)` says why in one sentence, `log` is what the compiler printed."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.log = log


def build(
    library: Path = LIBRARY,
    *,
    sources: Path = SOURCES,
    objects: Path | None = None,
    sanitize: bool = False,
) -> None:
    """Build `library` unless it is of these sources; of the objects only those that changed.

    Args:
        library: Written in one go, also while processes use it.
        sources: Folder of the C++ files.
        objects: Folder that keeps the objects; None: the build folder of the checkout, if this is one.
        sanitize: With the address and the undefined-behaviour sanitizer.

    Raises:
        BuildError: No compiler, or it failed. Beside the library's place lies a file that says so.
    """
    if is_current(library, sources):
        return
    current = build_id(sources)
    library.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _objects_folder(objects, "sanitize" if sanitize else "native") as folder:
            compiler = _Compiler(sources, folder, sanitize)
            _link(compiler, compiler.compile_all(current), library)
    except BuildError as error:
        # One of other sources would not be used anyway.
        library.unlink(missing_ok=True)
        failure_file(library).write_text(f"{error}\n", encoding="utf-8")
        raise
    failure_file(library).unlink(missing_ok=True)


def is_current(library: Path = LIBRARY, sources: Path = SOURCES) -> bool:
    """Tell whether a library is there and was built from these sources."""
    return library.is_file() and build_id(sources).encode() in library.read_bytes()


def build_id(sources: Path = SOURCES) -> str:
    """Return a hash of what decides the results: the sources and the compiler's flags."""
    digest = hashlib.sha256(repr((_FLAGS, sorted(_X86_FLAGS.items()))).encode())
    for path in source_files(sources):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def source_files(sources: Path = SOURCES) -> list[Path]:
    """Return all files that are compiled or included, in order of their names."""
    return sorted(path for path in sources.glob("*") if path.suffix in {".cpp", ".h", ".inl"})


def failure_file(library: Path = LIBRARY) -> Path:
    """Return the file beside a library that says why it could not be built."""
    return library.with_suffix(".failed")


def find_compiler() -> list[str] | None:
    """Return the command of the C++ compiler: CXX, or the first that is installed; None: there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named] if named else [["g++"], ["c++"], ["clang++"]]
    return next((command for command in candidates if shutil.which(command[0])), None)


def remedy() -> str:
    """Return the command that builds the library of this very package."""
    if (_CHECKOUT / "Makefile").is_file():
        return "`make native`"
    return f"`{sys.executable} -m gptoss_ray.kernels.native.build`"


class _Compiler:
    """Compiles the files of one folder, several at once, and keeps the objects for the next time."""

    def __init__(self, sources: Path, objects: Path, sanitize: bool) -> None:
        command = find_compiler()
        if command is None:
            named = os.environ.get("CXX")
            what = f"CXX is {named}, which is not there" if named else "no C++ compiler is installed"
            raise BuildError(f"{what}; install g++ 10 or newer")
        self.command = command
        self.flags = [*_FLAGS.split(), *(_SANITIZE_FLAGS.split() if sanitize else [])]
        self._sources = sources
        self._objects = objects
        self._version = self.run(["--version"], "say its version")

    def compile_all(self, current: str) -> list[Path]:
        """Return the objects of all files for this machine; `current` is the build id that they carry."""
        files = [path for path in self._sources.glob("*.cpp") if _is_for_this_machine(path.name)]
        # The variants take by far the longest, so they start first.
        files.sort(key=lambda path: (not path.name.startswith("isa_"), path.name))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda path: self._compile(path, current), files))

    def _compile(self, path: Path, current: str) -> Path:
        flags = [*self.flags, *_X86_FLAGS.get(path.name, "").split()]
        # Given to one file alone, for it changes with every other.
        if path.name == "api.cpp":
            flags.append(f'-DGR_BUILD_ID="{current}"')
        target, key_file = self._objects / f"{path.stem}.o", self._objects / f"{path.stem}.key"
        key = self._key(path, flags)
        if not (target.is_file() and key_file.is_file() and key_file.read_text(encoding="utf-8") == key):
            key_file.unlink(missing_ok=True)
            warnings = self.run([*flags, "-c", str(path), "-o", str(target)], f"compile {path.name}")
            sys.stderr.write(warnings)
            key_file.write_text(key, encoding="utf-8")
        return target

    def _key(self, path: Path, flags: list[str]) -> str:
        """Return a hash of all that an object depends on; every file may include every header."""
        digest = hashlib.sha256(repr((self.command, self._version, flags)).encode())
        for each in source_files(self._sources):
            if each == path or each.suffix != ".cpp":
                digest.update(each.name.encode() + each.read_bytes())
        return digest.hexdigest()

    def run(self, arguments: list[str], what: str) -> str:
        """Run the compiler and return what it printed; BuildError where it fails to do `what`."""
        done = subprocess.run(
            [*self.command, *arguments],
            check=False,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            errors = [line for line in done.stdout.splitlines() if "error" in line]
            first = errors[0].strip() if errors else f"exit code {done.returncode}"
            raise BuildError(f"{self.command[0]} could not {what}: {first}", done.stdout)
        return done.stdout


def _link(compiler: _Compiler, objects: list[Path], library: Path) -> None:
    unfinished = library.with_name(f"{library.name}.{os.getpid()}")
    try:
        names = [str(path) for path in objects]
        compiler.run([*compiler.flags, "-shared", *names, "-o", str(unfinished)], "link the library")
        unfinished.replace(library)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_for_this_machine(name: str) -> bool:
    return name not in _X86_FLAGS or platform.machine().lower() in {"x86_64", "amd64"}


@contextmanager
def _objects_folder(chosen: Path | None, name: str) -> Iterator[Path]:
    """Yield where objects are kept, or are for this build only."""
    if chosen is None and (_CHECKOUT / "setup.py").is_file():
        chosen = _CHECKOUT / "build" / name
    if chosen is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen


def main() -> int:
    """Build, and say so; exit code 1 where that fails."""
    parser = argparse.ArgumentParser(description="Compile the native kernels.")
    parser.add_argument("--out", type=Path, default=LIBRARY, help="the library; default: where it is used")
    parser.add_argument("--sanitize", action="store_true", help="with gcc's sanitizers")
    parser.add_argument("--or-warn", action="store_true", help="where it fails, warn in one line")
    options = parser.parse_args()
    if is_current(options.out):
        print(f"{options.out} is up to date")
        return 0
    print("Compiling the native kernels (what changed; all of it takes a minute or two) ...", flush=True)
    start = time.monotonic()
    try:
        build(options.out, sanitize=options.sanitize)
    except BuildError as error:
        print(warning(error) if options.or_warn else f"{error.log}{error}", file=sys.stderr)
        return 0 if options.or_warn else 1
    print(f"{options.out} is built ({time.monotonic() - start:.0f} s)")
    return 0


def warning(error: BuildError) -> str:
    """Return the line that is printed where an installation goes on without the library."""
    return (
        f"WARNING: gptoss-ray runs without its native kernels, many times slower, because they could not be "
        f"built: {error}. Then run {remedy()}."
    )


if __name__ == "__main__":
    sys.exit(main())
