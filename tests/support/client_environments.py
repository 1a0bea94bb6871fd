"""Other people's clients, each installed from its package registry into a folder of its own.

What is installed, and in which version, stands in the client's folder: in requirements.txt for pip or in
package.json for npm. The name of its folder in build/clients ends in a hash of that, so that nothing is
installed twice, and anew where a version has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests/clients/installed"
"""The clients' folders. One is that of Node.js: what the machine has of it may be too old, or nothing."""

_CACHE = ROOT / "build/clients"
_REQUIREMENTS, _PACKAGE = "requirements.txt", "package.json"
_PIN = re.compile(r"(?P<package>[A-Za-z0-9._-]+)(\[.*\])?==(?P<version>\S+)")
_INSTALL_TIMEOUT_S = 1800


class ClientEnvironment(ABC):
    """Where a client is installed.

    Attributes:
        source: Its folder in the tests.
        home: Where it is installed.
    """

    pins: str
    """Name of the file that says what is installed."""

    def __init__(self, source: Path) -> None:
        self.source = source
        text = (source / self.pins).read_text(encoding="utf-8")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        digest = hashlib.sha256(f"{version}\n{text}".encode()).hexdigest()[:12]
        self.home = _CACHE / f"{source.name}-{digest}"

    @property
    @abstractmethod
    def programs(self) -> tuple[Path, ...]:
        """Folders of programs, for PATH."""

    @abstractmethod
    def script(self) -> tuple[str, str]:
        """Return the command that runs the script in the client's folder."""

    @abstractmethod
    def _install(self) -> None:
        """Install into `home`, which is not there."""

    def install(self) -> None:
        """Install, unless it is done."""
        mark = self.home / "complete"
        if not mark.exists():
            shutil.rmtree(self.home, ignore_errors=True)
            self._install()
            mark.touch()


class PythonEnvironment(ClientEnvironment):
    """A virtual environment."""

    pins = _REQUIREMENTS

    @property
    def programs(self) -> tuple[Path, ...]:
        return (self.home / "bin",)

    def script(self) -> tuple[str, str]:
        return str(self.home / "bin/python"), str(self.source / "client.py")

    def _install(self) -> None:
        _run(sys.executable, "-m", "venv", str(self.home))
        pip = str(self.home / "bin/python"), "-m", "pip", "--quiet", "--disable-pip-version-check"
        _run(*pip, "install", "--requirement", str(self.source / self.pins))


class NodeEnvironment(ClientEnvironment):
    """An npm project."""

    pins = _PACKAGE

    def __init__(self, source: Path) -> None:
        super().__init__(source)
        self._node = PythonEnvironment(CLIENTS / "node")

    @property
    def programs(self) -> tuple[Path, ...]:
        return self.home / "node_modules/.bin", *self._node.programs

    def script(self) -> tuple[str, str]:
        # Node.js looks for packages beside the file.
        return str(self._node.home / "bin/node"), str(shutil.copy(self.source / "client.mjs", self.home))

    def _install(self) -> None:
        self._node.install()
        self.home.mkdir(parents=True)
        shutil.copy(self.source / self.pins, self.home)
        _run(str(self._node.home / "bin/npm"), "install", "--no-audit", "--no-fund", cwd=self.home)


def environment_of(source: Path) -> ClientEnvironment:
    """Return the environment of a client's folder."""
    kinds = (PythonEnvironment, NodeEnvironment)
    (kind,) = (kind for kind in kinds if (source / kind.pins).exists())
    return kind(source)


def pinned_versions(source: Path) -> dict[str, str]:
    """Return the packages that a client's folder names, the client itself first, with their versions."""
    if (source / _PACKAGE).exists():
        return dict(json.loads((source / _PACKAGE).read_text(encoding="utf-8"))["dependencies"])
    lines = (source / _REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    return {pin["package"]: pin["version"] for pin in map(_PIN.fullmatch, lines) if pin}


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
