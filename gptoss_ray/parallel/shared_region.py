"""Memory that the ranks of one host share: rank 0 makes it and hands it to the others.

The memory is an anonymous file (memfd), handed over a unix socket with an abstract address. Neither has a
name on a disk, and the kernel takes both back with the last process that holds them: a killed group leaves
nothing behind, a new one finds nothing stale, and a small /dev/shm (64 MB in a container) does not matter.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import struct
import threading
import time

from gptoss_ray.errors import GroupBrokenError

_RETRY_S = 0.005
_LONGEST_WAIT_S = 0.05
_HELLO = struct.Struct("=q")
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Patience:
    """How long to wait for the other ranks.

    Args:
        timeout_s: From now on.
        is_unwanted: Set by another thread to end the wait.
    """

    def __init__(self, timeout_s: float, is_unwanted: threading.Event | None = None) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._is_unwanted = is_unwanted

    def left_s(self) -> float:
        """Return the seconds left, at least a millisecond (0 would mean not to wait at all)."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def next_s(self) -> float:
        """Return how long to wait until the next look; TimeoutError where it was long enough."""
        if self._is_unwanted is not None and self._is_unwanted.is_set():
            raise TimeoutError("it was called off")
        if time.monotonic() > self._deadline:
            raise TimeoutError("no sign of rank 0")
        return min(self.left_s(), _LONGEST_WAIT_S)


def share_memory(name: str, rank: int, world_size: int, num_bytes: int, patience: Patience) -> mmap.mmap:
    """Map `num_bytes` zeroed bytes together with the other ranks of this host that give the same name.

    Raises:
        GroupBrokenError: A rank does not come in time, or the name is in use.
    """
    address = address_of(name)
    try:
        if rank == 0:
            memory_fd = _give(address, set(range(1, world_size)), num_bytes, patience)
        else:
            memory_fd = _take(address, rank, patience)
    except OSError as error:
        raise GroupBrokenError(f"rank {rank} could not form group {name!r} on its host: {error}") from error
    try:
        if (found := os.fstat(memory_fd).st_size) != num_bytes:
            raise GroupBrokenError(
                f"rank 0 of group {name!r} shares {found} bytes where rank {rank} expects {num_bytes}; "
                "start all ranks with the same configuration"
            )
        return mmap.mmap(memory_fd, num_bytes)
    finally:
        os.close(memory_fd)


def address_of(name: str) -> bytes:
    """Return the abstract socket address at which rank 0 gives the memory; no name is too long for it."""
    return b"\0gptoss_ray-" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest().encode()


def _give(address: bytes, missing: set[int], num_bytes: int, patience: Patience) -> int:
    """Make the memory and hand it to the missing ranks; returns its descriptor."""
    memory_fd = os.memfd_create("gptoss_ray")
    try:
        os.ftruncate(memory_fd, num_bytes)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(len(missing))
            while missing:
                missing.discard(_serve_one(listener, memory_fd, patience))
    except BaseException as error:
        os.close(memory_fd)
        if isinstance(error, TimeoutError):
            raise TimeoutError(f"no sign of ranks {sorted(missing)}") from None
        raise
    return memory_fd


def _serve_one(listener: socket.socket, memory_fd: int, patience: Patience) -> int | None:
    """Hand the memory to whoever comes next; returns its rank, None for a stranger or nobody."""
    listener.settimeout(patience.next_s())
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        return None
    with connection:
        if not _is_same_user(connection):
            return None
        connection.settimeout(patience.left_s())
        hello = connection.recv(_HELLO.size)
        if len(hello) < _HELLO.size:
            return None
        socket.send_fds(connection, [b"\0"], [memory_fd])
        return int(_HELLO.unpack(hello)[0])


def _take(address: bytes, rank: int, patience: Patience) -> int:
    """Ask rank 0 for the memory; returns its descriptor."""
    with _connect(address, patience) as connection:
        if not _is_same_user(connection):
            raise PermissionError("another user holds the address of rank 0")
        connection.sendall(_HELLO.pack(rank))
        descriptors = _receive(connection, patience)
    if not descriptors:
        raise ConnectionResetError("rank 0 left")
    return descriptors[0]


def _connect(address: bytes, patience: Patience) -> socket.socket:
    """Connect to rank 0, which may not listen yet."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(patience.left_s())
            connection.connect(address)
            return connection
        except (ConnectionRefusedError, BlockingIOError):  # nobody listens; too many ask at once
            connection.close()
        patience.next_s()
        time.sleep(_RETRY_S)


def _receive(connection: socket.socket, patience: Patience) -> list[int]:
    """Wait for the descriptor; none where rank 0 leaves."""
    while True:
        connection.settimeout(patience.next_s())
        try:
            return socket.recv_fds(connection, 1, 1)[1]
        except TimeoutError:
            continue


def _is_same_user(connection: socket.socket) -> bool:
    """Tell whether the other end belongs to this process's user (abstract addresses have no file mode)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())
