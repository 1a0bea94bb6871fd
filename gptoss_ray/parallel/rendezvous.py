"""Where the ranks of an epoch find one another: a small TCP store that rank 0 hosts.

The store carries addresses only; activations never pass it. torch's own server listens on every address
of its machine, without a password. Here it listens on the one address that the membership names.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.membership import GroupMembership

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable that names the network interface of gloo's connections."""


def free_store_port(host: str) -> int:
    """Return a TCP port that is free on `host`, an address of this machine.

    Raises:
        GroupBrokenError: `host` is no address of this machine.
    """
    with _listen(host, 0) as server:
        port: int = server.getsockname()[1]
        return port


def open_store(membership: GroupMembership, rank: int, timeout_s: float) -> Store:
    """Host the store on rank 0, connect to it on the others.

    Keys are separate for every group and epoch, so that a rank of another one meets nobody.

    Raises:
        GroupBrokenError: The port is taken, or rank 0 did not open it within `timeout_s` seconds.
    """
    host, port = membership.store_host, membership.store_port
    # The store owns the descriptor from here on and closes it.
    listener = _listen(host, port).detach() if rank == 0 else None
    try:
        store = TCPStore(
            host,
            port,
            is_master=rank == 0,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener,
        )
    except RuntimeError as error:
        raise GroupBrokenError(
            f"rank {rank} found no store of group {membership.group_id} at {host}:{port} "
            f"within {timeout_s:g} s; is rank 0 alive, and does a firewall block the port?"
        ) from error
    return PrefixStore(f"{membership.group_id}/{membership.epoch}", store)


def use_interface_towards(membership: GroupMembership) -> None:
    """Let gloo connect through the interface that reaches the store, unless the operator named one.

    By default gloo takes the address that this machine's host name resolves to. That is often a loopback
    address, which ranks of other hosts cannot reach.

    Raises:
        GroupBrokenError: No interface leads to the store.
    """
    if not os.environ.get(GLOO_INTERFACE):
        os.environ[GLOO_INTERFACE] = _interface_towards(membership.store_host, membership.store_port)


def _interface_towards(host: str, port: int) -> str:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing; the kernel picks a route and so a source address
            source = probe.getsockname()[0]
    except OSError as error:
        raise GroupBrokenError(f"no route to the group's store at {host}:{port}: {error}") from error
    for name, addresses in psutil.net_if_addrs().items():
        if any(candidate.address.partition("%")[0] == source for candidate in addresses):
            return name
    raise GroupBrokenError(f"no interface has the address {source}, which reaches {host}:{port}")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen()
        except OSError:
            server.close()
            raise
    except OSError as error:
        raise GroupBrokenError(f"cannot listen on {host}:{port} for the group's ranks: {error}") from error
    return server
