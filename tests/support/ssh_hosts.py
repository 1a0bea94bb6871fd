"""Hosts in namespaces that one can log in to: each has sshd, a home of its own, and the operator's key."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.hosts import Host, hosts, why_no_hosts

SSHD = "/usr/sbin/sshd"
_LISTENS_WITHIN_S = 30.0

# StrictModes would ask who owns the folders above a test's own.
_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
"""

# sshd wants a folder in /run. /etc is a copy, with another home of root: a file mounted over the machine's
# own /etc/passwd would vanish with the next user that anybody adds to the machine.
_SET_UP = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/sshd
cp -a /etc "$1"
sed -i "s,^root:.*,root:x:0:0:root:$2:/bin/bash," "$1/passwd"
mount --bind "$1" /etc
"""


def why_no_ssh_hosts() -> str | None:
    """Return what keeps this process from making such hosts; None where it can."""
    missing = [name for name in (SSHD, "ssh", "ssh-keygen", "rsync") if shutil.which(name) is None]
    if missing:
        return (
            f"the commands {', '.join(missing)} are missing (Debian: openssh-server, openssh-client, rsync)"
        )
    return why_no_hosts()


@dataclass(frozen=True)
class SshHost:
    """A host with a home.

    Attributes:
        host: It.
        home: Root's home there, which this process can read.
        key: Of whoever may log in.
    """

    host: Host
    home: Path
    key: Path

    def run(self, *command: str, env: Mapping[str, str], timeout_s: float = 120.0) -> str:
        """Run a command as `Host.run` does, at home in this host's home."""
        return self.host.run(*command, env={**env, "HOME": str(self.home)}, timeout_s=timeout_s)


@contextmanager
def ssh_hosts(num_hosts: int, folder: Path) -> Iterator[list[SshHost]]:
    """Bring hosts up, of which each may log in to all by the key that lies in `folder`."""
    for name in ("key", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    with ExitStack() as stack:
        made = [
            SshHost(host, _home(host, folder), folder / "key")
            for host in stack.enter_context(hosts(num_hosts, folder))
        ]
        for host in made:
            stack.enter_context(_sshd(host, folder))
        _wait_until_listening(made)
        yield made


def _home(host: Host, folder: Path) -> Path:
    """Make root's home on a host."""
    home = folder / f"home-{host.name}"
    home.mkdir(mode=0o700)
    host.run("sh", "-c", _SET_UP, "sh", str(folder / f"etc-{host.name}"), str(home))
    return home


@contextmanager
def _sshd(host: SshHost, folder: Path) -> Iterator[None]:
    config = folder / f"sshd-{host.host.name}.conf"
    config.write_text(_CONFIG.format(folder=folder), encoding="utf-8")
    # It starts itself anew for each login, and must be called by its whole path for that.
    command = host.host.command(SSHD, "-D", "-f", str(config), "-E", str(config.with_suffix(".log")))
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_until_listening(made: Sequence[SshHost]) -> None:
    deadline = time.monotonic() + _LISTENS_WITHIN_S
    for host in made:
        while True:
            try:
                socket.create_connection((host.host.address, 22), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, f"sshd of {host.host.name} does not listen"
                time.sleep(0.1)
