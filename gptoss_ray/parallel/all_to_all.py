"""Tokens to their experts' ranks and back through all-to-all collectives: the dispatcher of a group.

Two ways, chosen anew for each step from what all ranks agreed on, never from a rank's own tokens:
`PaddedExchange` while the step is small (decoding), `ExactExchange` above (prompts). The results are the
same bits: a row's expert output depends on that row alone (law 1), and both bring it to the same slot.

On a CPU the host waits for every collective. On a card the padded way leaves its two to the card's stream and
reads nothing back, so that a graph can hold a whole step; who runs the step waits for it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.collectives import AllToAll
from gptoss_ray.parallel.exact_exchange import ExactExchange
from gptoss_ray.parallel.expert_routes import ExpertRoutes
from gptoss_ray.parallel.padded_buffers import PaddedBuffers
from gptoss_ray.parallel.padded_exchange import PaddedExchange
from gptoss_ray.parallel.streamed_all_to_all import StreamedAllToAll
from gptoss_ray.parallel.timed_all_to_all import ExpertTraffic, TimedAllToAll
from gptoss_ray.parallel.token_dispatcher import DispatchHandle, GroupedRows
from gptoss_ray.parallel.token_rows import TokenRowFormat


class CollectivesLink(Protocol):
    """This rank's place in a group whose collectives change with the epoch."""

    @property
    def rank(self) -> int:
        """Of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""

    @property
    def collectives(self) -> AllToAll:
        """Those of the present epoch.

        Raises:
            GroupBrokenError: The rank is in no group.
        """

    @property
    def is_streamed(self) -> bool:
        """Whether there is a device that does all-to-alls in the order of its own work."""

    @property
    def streamed(self) -> StreamedAllToAll:
        """Those of the present epoch, where `is_streamed`.

        Raises:
            GroupBrokenError: The rank is in no group.
        """


def padded_bytes(
    *, num_ranks: int, max_num_tokens: int, experts_per_token: int, hidden_size: int, dtype: torch.dtype
) -> int:
    """Return the bytes of results that a rank sends in one padded exchange, the larger of its two."""
    return num_ranks * max_num_tokens * experts_per_token * hidden_size * dtype.itemsize


class _Exchange(Protocol):
    """One way for tokens to travel."""

    def dispatch(
        self, collectives: AllToAll, x: Tensor, expert_ids: Tensor, routes: ExpertRoutes
    ) -> tuple[GroupedRows, DispatchHandle]: ...

    def combine(self, collectives: AllToAll, expert_out: Tensor, handle: DispatchHandle) -> Tensor: ...


class TokenExchange:
    """What the layers of one model share: the link, the way of the present step, and its buffers.

    Args:
        link: To the other ranks.
        config: `dispatch` and `max_padded_bytes`; equal on all ranks.
        num_experts: E, of a layer.
        experts_per_token: k.
        hidden_size: d.
        dtype: Of the tokens' activations.
        device: Of the tokens.
        largest_step: Tokens of the largest step. Buffers for all padded steps up to it are made at the first
            and stay where they are, as graphs want it.
        rank: Of this process in the epoch that the exchange is for; None: in the link's.
        world_size: Ranks of that epoch; None: of the link's.
        traffic: Counts what travels; None: from zero.

    Attributes:
        rank: See above.
        world_size: See above.
        traffic: See above.
        is_token: bool [T], which rows of the present step are tokens; None: all.
    """

    def __init__(
        self,
        link: CollectivesLink,
        config: ParallelConfig,
        *,
        num_experts: int,
        experts_per_token: int,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        largest_step: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        traffic: ExpertTraffic | None = None,
    ) -> None:
        self.link = link
        self.traffic = traffic or ExpertTraffic.on(device)
        self.rank = link.rank if rank is None else rank
        self.world_size = link.world_size if world_size is None else world_size
        self.num_experts = num_experts
        self.device = device
        self.max_num_tokens = -1  # no step has begun: not even a dispatch of no tokens is allowed
        self.is_token: Tensor | None = None
        self._config = config
        self._largest_step = largest_step
        self._rows = TokenRowFormat(hidden_size, experts_per_token, dtype)
        self._exact = ExactExchange(self._rows, world_size=self.world_size, device=device)
        self._buffers: PaddedBuffers | None = None
        self.way: _Exchange = self._exact

    def of_epoch(self, rank: int, world_size: int) -> TokenExchange:
        """Return an exchange over the same link for an epoch that is yet to be joined."""
        return TokenExchange(
            self.link,
            self._config,
            num_experts=self.num_experts,
            experts_per_token=self._rows.experts_per_token,
            hidden_size=self._rows.hidden_size,
            dtype=self._rows.dtype,
            device=self.device,
            largest_step=self._largest_step,
            rank=rank,
            world_size=world_size,
            traffic=self.traffic,
        )

    def begin_step(self, max_num_tokens: int, is_token: Tensor | None = None) -> None:
        """Choose the way of a step in which no rank has more than `max_num_tokens` tokens."""
        if max_num_tokens == self.max_num_tokens and is_token is self.is_token:
            return
        self.max_num_tokens, self.is_token = max_num_tokens, is_token
        self.way = self._padded(max_num_tokens) if self.pads(max_num_tokens) else self._exact

    def pads(self, max_num_tokens: int) -> bool:
        """Decide from what is equal on all ranks, so that all go the same way."""
        if self._config.dispatch != "auto":
            return self._config.dispatch == "padded"
        return max_num_tokens * self._bytes_per_token <= self._config.max_padded_bytes

    def collectives(self) -> AllToAll:
        """Return what the way of the step travels by, timed; GroupBrokenError outside of a group."""
        is_streamed = self.link.is_streamed and self.way is not self._exact
        return TimedAllToAll(self.link.streamed if is_streamed else self.link.collectives, self.traffic)

    def wait(self, is_over: Callable[[], bool]) -> None:
        """See `StepExchange`."""
        self.link.streamed.wait(is_over)

    @property
    def _bytes_per_token(self) -> int:
        return padded_bytes(
            num_ranks=self.world_size,
            max_num_tokens=1,
            experts_per_token=self._rows.experts_per_token,
            hidden_size=self._rows.hidden_size,
            dtype=self._rows.dtype,
        )

    def _padded(self, max_num_tokens: int) -> PaddedExchange:
        if self._buffers is None or self._buffers.max_num_tokens < max_num_tokens:
            self._buffers = PaddedBuffers.of(
                self._rows,
                world_size=self.world_size,
                max_num_tokens=max(max_num_tokens, self._largest_padded_step()),
                device=self.device,
            )
        return PaddedExchange(
            self._rows,
            self._buffers.of_step(max_num_tokens),
            num_experts=self.num_experts,
            is_token=self.is_token,
            reads_counts=not self.link.is_streamed,
        )

    def _largest_padded_step(self) -> int:
        """Return the most tokens of a rank in a step that is padded."""
        if self.pads(self._largest_step):
            return self._largest_step
        return self._config.max_padded_bytes // self._bytes_per_token


class AllToAllTokenDispatcher:
    """One layer's tokens to the ranks of their experts and back.

    Routes never change; another placement of the experts takes other dispatchers on the same exchange.

    Args:
        exchange: Shared with the other layers.
        destinations: destinations[home][expert] is the rank that serves the expert to home's tokens.
        local_experts: Ids of the experts on this rank, in the order of its `ExpertShard`.
        expert_load: Of the layer's dispatcher before this one, which counts on in it.

    Attributes:
        exchange: As given.
        local_experts: As given.
        expert_load: int64 [E], how often each expert was chosen by this rank's tokens.
    """

    def __init__(
        self,
        exchange: TokenExchange,
        destinations: Sequence[Sequence[int]],
        local_experts: Sequence[int],
        expert_load: Tensor | None = None,
    ) -> None:
        if expert_load is None:
            expert_load = torch.zeros(exchange.num_experts, dtype=torch.int64, device=exchange.device)
        self.expert_load = expert_load
        self._one = torch.ones(1, dtype=torch.int64, device=exchange.device)
        self.exchange = exchange
        self.local_experts = tuple(local_experts)
        self._routes = ExpertRoutes.build(
            destinations, local_experts, rank=exchange.rank, device=exchange.device
        )

    def begin_step(self, max_num_tokens: int, is_token: Tensor | None = None) -> None:
        """See `TokenExchange.begin_step`; once is enough for all layers, and again does no harm."""
        self.exchange.begin_step(max_num_tokens, is_token)

    def dispatch(self, x: Tensor, expert_ids: Tensor) -> tuple[GroupedRows, DispatchHandle]:
        """Send x [T, d] to the ranks of its experts; T is at most the step's `max_num_tokens`.

        Raises:
            GroupBrokenError: A rank is lost or late.
        """
        exchange = self.exchange
        assert len(x) <= exchange.max_num_tokens, "more tokens than the ranks agreed on for this step"
        self.expert_load.scatter_add_(0, expert_ids.flatten(), self._times_chosen(expert_ids))
        grouped, handle = exchange.way.dispatch(exchange.collectives(), x, expert_ids, self._routes)
        counts = grouped.num_rows_per_expert
        exchange.traffic.num_rows += counts.sum() if isinstance(counts, Tensor) else sum(counts)
        return grouped, handle

    def combine(self, expert_out: Tensor, handle: DispatchHandle) -> Tensor:
        """Bring the local experts' outputs [N, d] home; returns what its tokens' experts made [T, k, d].

        Raises:
            GroupBrokenError: A rank is lost or late.
        """
        return self.exchange.way.combine(self.exchange.collectives(), expert_out, handle)

    def _times_chosen(self, expert_ids: Tensor) -> Tensor:
        """Return int64 [T · k]: how often each choice counts, once where its row is a token."""
        is_token = self.exchange.is_token
        if is_token is None:
            return self._one.expand(expert_ids.numel())
        return is_token.to(torch.int64)[:, None].expand_as(expert_ids).flatten()
