"""Several hosts on one machine: each with its own network, processes, mounts and name. Linux, as root.

Everything belongs to namespaces that live as long as their first process does, and that as long as a pipe
of this process is open: whatever happens to a test, the kernel takes its hosts back. The hosts are joined
by a bridge in a namespace of its own, where no firewall rule of the machine applies to them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
RAY_FOLDER = Path("/tmp/ray")

_NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")
_UNSHARE = ("unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc")

_SET_UP = """
set -e
hostname "$1"
mount --bind "$2" /etc/hosts
mount -t tmpfs tmpfs "$3"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
shift 3
exec "$@"
"""

# The first process of a host inherits the orphans of all others. It ends at the end of its stdin.
_FIRST_PROCESS = """
import os, signal, sys

def reap(signal_number, frame):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

signal.signal(signal.SIGCHLD, reap)
print("up", flush=True)
sys.stdin.read()
"""

_PROBE = """
set -e
ip link add bridge type bridge
ip link add one type veth peer name other
mount -t tmpfs tmpfs /dev/shm
"""


def why_no_hosts() -> str | None:
    """Return what keeps this process from making hosts; None where it can."""
    if os.geteuid() != 0:
        return "namespaces of their own need root"
    missing = [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"hosts of their own need the commands {', '.join(missing)}"
    probe = subprocess.run([*_UNSHARE, "sh", "-c", _PROBE], check=False, capture_output=True, text=True)
    return None if probe.returncode == 0 else f"no namespaces here: {probe.stderr.strip()}"


@dataclass(frozen=True)
class Host:
    """A host that is up.

    Attributes:
        name: Which all hosts resolve.
        address: Its IPv4 address, reachable from the other hosts and from this process.
        pid: Its first process, as this process sees it.
    """

    name: str
    address: str
    pid: int

    def command(self, *command: str) -> list[str]:
        """Return the command line that runs `command` on the host, in the project's folder."""
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES, "env", f"--chdir={ROOT}", *command]

    def run(self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = 120.0) -> str:
        """Run a command on the host and return its output; AssertionError with all of it where it fails."""
        done = subprocess.run(
            self.command(*command),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.stdout}"
        return done.stdout

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Return the host's processes whose command line has this text in it, in order of their start."""
        here = _pid_namespace(self.pid)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if _pid_namespace(process.pid) == here and title in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())


@contextmanager
def hosts(num_hosts: int, folder: Path) -> Iterator[list[Host]]:
    """Bring hosts up until the block ends; they and this process reach one another over a bridge.

    Args:
        num_hosts: Called host0, host1 and so on.
        folder: Of the test, for a file.
    """
    network = f"10.214.{os.getpid() % 256}"
    addresses = {f"host{number}": f"{network}.{number + 1}" for number in range(num_hosts)}
    names = folder / "hosts"
    names.write_text(
        "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
    )
    with ExitStack() as stack:
        stack.enter_context(_mount_point(RAY_FOLDER))
        bridge = Host("bridge", "", stack.enter_context(_first_process("bridge", names)))
        bridge.run("ip", "link", "add", "bridge", "type", "bridge")
        bridge.run("ip", "link", "set", "bridge", "up")
        stack.enter_context(_link_from_here(bridge, f"{network}.254"))
        found = []
        for name, address in addresses.items():
            host = Host(name, address, stack.enter_context(_first_process(name, names)))
            there = ("netns", str(host.pid))
            _run("ip", "link", "add", "eth0", *there, "type", "veth", *_link_end(bridge, name))
            _join_bridge(bridge, name)
            host.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
            found.append(host)
        yield found


@contextmanager
def _first_process(name: str, names: Path) -> Iterator[int]:
    """Start a host without a network; yields the pid of its first process, and ends it with all others."""
    set_up = ("sh", "-c", _SET_UP, "sh", name, str(names), str(RAY_FOLDER))
    with subprocess.Popen(
        [*_UNSHARE, *set_up, sys.executable, "-c", _FIRST_PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "up\n", f"{name} did not come up"
            (first,) = psutil.Process(process.pid).children()
            yield first.pid
        finally:
            process.stdin.close()
            process.wait(30)


@contextmanager
def _link_from_here(bridge: Host, address: str) -> Iterator[None]:
    """Connect this process's own network to the bridge."""
    name = f"gp{os.getpid()}"
    _run("ip", "link", "add", name, "type", "veth", *_link_end(bridge, "outside"))
    try:
        _join_bridge(bridge, "outside")
        _run("ip", "address", "add", f"{address}/24", "dev", name)
        _run("ip", "link", "set", name, "up")
        yield
    finally:
        _run("ip", "link", "delete", name)


def _link_end(bridge: Host, name: str) -> tuple[str, ...]:
    return ("peer", "name", name, "netns", str(bridge.pid))


def _join_bridge(bridge: Host, name: str) -> None:
    bridge.run("ip", "link", "set", name, "master", "bridge", "up")


@contextmanager
def _mount_point(folder: Path) -> Iterator[None]:
    """Make sure that a folder is there to mount on; removes it if it was not, unless it is in use by now."""
    if folder.exists():
        yield
        return
    folder.mkdir()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _pid_namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
