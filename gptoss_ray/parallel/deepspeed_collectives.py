"""Collectives over deepspeed.comm: gloo between CPU ranks, NCCL between cards, on any number of hosts.

Ranks agree over gloo, with cards, too: NCCL does one thing at a time, and would begin the agreement on the
next step when the present one is over.

torch.distributed and deepspeed.comm keep one default group per process, so a process holds at most one
`DeepspeedCollectives` at a time; closing it makes room for the next epoch's.

NCCL has not been run on several cards yet. Two choices make its failures local. A group is aborted, never
destroyed, because destroying waits for ranks that may be gone. And nobody uses a result before its collective
is known to be whole: kernels of an aborted group end too, and leave garbage behind. The host waits for every
collective, but for those that it leaves to a card's stream (`streamed`): for these it waits once a step.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, NoReturn

import torch
import torch.distributed
from torch import Tensor

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.rendezvous import open_store, use_interface_towards
from gptoss_ray.parallel.streamed_all_to_all import StreamedAllToAll

_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
_CLOSED_CHECK = timedelta(seconds=0.1)
"""How often a collective that waits looks whether another thread closed the group."""

_GLOO_TIMEOUT = timedelta(hours=1)
"""Gloo's own deadline, fixed when a group is formed; ours comes first, and may change with every step."""

_RELEASE_S = 0.5
"""How long `close` waits for gloo's own threads, which a stalled rank can hold up."""


class DeepspeedCollectives:
    """One rank's side. A lost rank is noticed at once (its connections close), a stalled one by the deadline.

    Args:
        membership: Who is in the group, and where its store is.
        rank: Of this process, from 0.
        device: Where the exchanged tensors lie; with "cuda", this process' current card.
        timeout_s: Seconds after which a rank that does not come is lost.
        reducing_ranks: The ranks that call `all_reduce_max`; all of them where None.

    Raises:
        GroupBrokenError: The ranks did not meet in time, or this process is in another group.
    """

    def __init__(
        self,
        membership: GroupMembership,
        rank: int,
        *,
        device: Literal["cpu", "cuda"],
        timeout_s: float,
        reducing_ranks: Sequence[int] | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = membership.world_size
        self._name = f"group {membership.group_id}, epoch {membership.epoch}"
        self._device = torch.device(device)
        self.timeout_s = timeout_s
        self._forming_timeout = timedelta(seconds=timeout_s)
        self._changing = threading.Lock()
        self._is_open = False
        self._comm = _load_deepspeed_comm(device)
        self._reducing_group: Any = None
        if torch.distributed.is_initialized():
            raise GroupBrokenError(f"{self._name}: this process is in another group; close that one first")
        try:
            self._form(membership, reducing_ranks)
        except BaseException as error:
            self._disband()
            if not isinstance(error, RuntimeError):
                raise
            raise GroupBrokenError(
                f"{self._name}: its {self.world_size} ranks did not connect within {timeout_s:g} s"
            ) from error
        self._is_open = True

    @property
    def streamed(self) -> StreamedAllToAll:
        """All-to-alls for a card's stream."""
        return _Streamed(self)

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `Collectives`; any dtype that the backend knows (bf16, uint8, int64 ...), `out` contiguous."""
        assert len(send) == sum(send_counts)
        received = send.new_empty(sum(recv_counts), *send.shape[1:]) if out is None else out
        self._run(
            lambda: self._comm.all_to_all_single(
                received, send.contiguous(), list(recv_counts), list(send_counts), async_op=True
            ),
            self._wait_on_host if self._device.type == "cpu" else self._wait_for_card,
        )
        return received

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """See `Collectives`."""
        reduced = torch.tensor(list(values), dtype=torch.int64)
        self._run(
            lambda: self._comm.all_reduce(
                reduced, op=self._comm.ReduceOp.MAX, group=self._reducing_group, async_op=True
            ),
            self._wait_on_host,
        )
        largest: list[int] = reduced.tolist()
        return largest

    def append_all_to_all(
        self, send: Tensor, send_counts: Sequence[int], recv_counts: Sequence[int], out: Tensor
    ) -> None:
        """Exchange rows behind all else on the card's current stream, and do not wait.

        Raises:
            GroupBrokenError: The group was closed, or NCCL found it broken before.
        """
        try:
            self._start(
                lambda: self._comm.all_to_all_single(
                    out, send.contiguous(), list(recv_counts), list(send_counts)
                )
            )
        except RuntimeError as error:
            self._break(error)

    def wait_for_stream(self, is_over: Callable[[], bool]) -> None:
        """See `StreamedAllToAll.wait`.

        What was appended ends when it is whole, or when `close` aborts it. So it was whole if the group is
        still open once the stream is through.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            while not is_over():
                if not self._is_open or time.monotonic() > deadline:
                    raise RuntimeError("the card is still at it")
                time.sleep(0)  # other threads
            if not self._is_open:
                raise RuntimeError("the card was stopped")
        except RuntimeError as error:
            self._break(error)

    def close(self) -> None:
        """See `Collectives`."""
        with self._changing:
            if self._is_open:
                self._is_open = False
                self._disband()

    def _form(self, membership: GroupMembership, reducing_ranks: Sequence[int] | None) -> None:
        use_interface_towards(membership)
        if self._device.type == "cuda":
            # By default torch kills the process of a rank whose peer is lost.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        torch.distributed.init_process_group(
            _BACKENDS[self._device.type],
            store=open_store(membership, self.rank, self._forming_timeout.total_seconds()),
            rank=self.rank,
            world_size=self.world_size,
            timeout=self._forming_timeout,
            # A known card lets NCCL connect here rather than in the first collective.
            device_id=torch.cuda.current_device() if self._device.type == "cuda" else None,
        )
        # deepspeed adopts torch's default group. Asked to form it by itself, it would open a store that
        # listens on every address of the machine.
        self._comm.init_distributed(_BACKENDS[self._device.type], auto_mpi_discovery=False, verbose=False)
        over_gloo = [torch.distributed.group.WORLD] if self._device.type == "cpu" else []
        if reducing_ranks is not None or self._device.type == "cuda":
            self._reducing_group = torch.distributed.new_group(
                list(reducing_ranks or range(self.world_size)), timeout=self._forming_timeout, backend="gloo"
            )
            over_gloo.append(self._reducing_group)
        for group in over_gloo:
            if isinstance(group, torch.distributed.ProcessGroup):  # else this rank is not in it
                torch.distributed.distributed_c10d._set_pg_timeout(_GLOO_TIMEOUT, group)

    def _disband(self) -> None:
        # Held here, the groups outlive torch's tables, which must be clean when this returns.
        groups = [torch.distributed.group.WORLD, self._reducing_group]
        self._reducing_group = None
        if torch.distributed.is_initialized():
            if self._device.type == "cuda":
                torch.distributed.distributed_c10d._abort_process_group()
            else:
                torch.distributed.destroy_process_group()
        self._comm.comm.cdb = None  # else a later init_distributed returns the dead group
        # The last reference closes gloo's connections, but first joins its threads, which may still wait.
        release = threading.Thread(target=groups.clear, name="release-group", daemon=True)
        release.start()
        release.join(_RELEASE_S)

    def _run(self, start: Callable[[], Any], wait: Callable[[Any], None]) -> None:
        try:
            wait(self._start(start))
        except RuntimeError as error:
            self._break(error)

    def _break(self, error: RuntimeError) -> NoReturn:
        reason = "a rank is lost or late" if self._is_open else "it was closed"
        self.close()
        raise GroupBrokenError(f"{self._name}: {reason}") from error

    def _start(self, start: Callable[[], Any]) -> Any:
        with self._changing:
            if not self._is_open:
                raise GroupBrokenError(f"{self._name}: it is closed")
            return start()

    def _wait_on_host(self, work: Any) -> None:
        """Wait for gloo, which cannot be aborted."""
        deadline = time.monotonic() + self.timeout_s
        try:
            while True:
                is_over = work.is_completed()  # asked before: an error after it is not this wait's timeout
                try:
                    work.wait(_CLOSED_CHECK)
                    return
                except RuntimeError:
                    if is_over or not self._is_open or time.monotonic() > deadline:
                        raise
        finally:
            # The error's traceback keeps this frame; the work in it would keep the connections open.
            del work

    def _wait_for_card(self, work: Any) -> None:
        """Wait until the card is done: NCCL itself would only make the stream wait."""
        deadline = time.monotonic() + self.timeout_s
        while not work.is_completed():
            if not self._is_open or time.monotonic() > deadline:
                raise RuntimeError("the card is still at it")
        work.wait()  # raises the error of a collective that failed


class _Streamed:
    """See `StreamedAllToAll`. Never run on a GPU."""

    def __init__(self, collectives: DeepspeedCollectives) -> None:
        self._collectives = collectives

    def all_to_all(
        self,
        send: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        out: Tensor | None = None,
    ) -> Tensor:
        """See `AllToAll`."""
        received = send.new_empty(sum(recv_counts), *send.shape[1:]) if out is None else out
        self._collectives.append_all_to_all(send, send_counts, recv_counts, received)
        return received

    def wait(self, is_over: Callable[[], bool]) -> None:
        """See `StreamedAllToAll`."""
        self._collectives.wait_for_stream(is_over)


def _load_deepspeed_comm(device: str) -> Any:
    """Import deepspeed.comm, which takes seconds, without its search for devices and compilers."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed.comm  # type: ignore[import-untyped]  # noqa: PLC0415
    import deepspeed.ops  # type: ignore[import-untyped]  # noqa: PLC0415

    # Probed on first use by running compilers; the shared-memory op would then be compiled for half a minute.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed.comm
