"""Steps on a device: launched without a wait, drawn there, decoding steps replayed from graphs.

The host writes a step's inputs to staging memory and appends three things to the device's stream: a copy of
the inputs, the step (a graph where it only decodes), a copy of the drawn tokens to the host. It waits for
nothing but the mark behind that last copy, once a step, and by then has launched the next one.

In a group the all-to-alls of a step are part of it, in graphs too, as long as it is padded (`TokenExchange`).
A rank whose own rows are fewer than those agreed on, or none, replays their graph with padding.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gptoss_ray.engine.device_step import DeviceStep, draw_runs
from gptoss_ray.engine.device_stream import DeviceStream, Graph, Mark
from gptoss_ray.engine.graph_shapes import block_counts, row_counts, rows_of_exchange, smallest
from gptoss_ray.engine.mask_prefetch import MaskPrefetch
from gptoss_ray.engine.sampler import Sampler
from gptoss_ray.engine.step_buffers import StepBuffers, StepShape
from gptoss_ray.engine.step_executor import LaunchedStep, StepLimits
from gptoss_ray.engine.step_packing import (
    is_decoding,
    pack,
    pad,
    shape_of,
)
from gptoss_ray.engine.step_plan import MAX_SCORED_TOKENS, StepPlan
from gptoss_ray.kernels.device_sampler import DeviceSampler
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.transformer import Transformer

logger = logging.getLogger(__name__)

_NUM_STAGES = 2
"""Staging memories, used in turn: of the step that computes, and of the one that is launched behind it."""


@dataclass
class _Stage:
    """Memory of the host for one step, and the mark behind the last step that used it."""

    inputs: Tensor
    drawn: Tensor
    mark: Mark | None = None


class DeviceExecutor:
    """See `StepExecutor`.

    Args:
        transformer: The network, on the device.
        kv_cache: On the device.
        stream: Of the device.
        device_sampler: Draws where a request's parameters allow it.
        host_sampler: Draws the rest.
        masks: Works grammars out meanwhile.
        limits: Of all steps.
        records_graphs: Whether decoding steps are replayed from graphs; else launched kernel by kernel.
    """

    def __init__(
        self,
        transformer: Transformer,
        kv_cache: KVCache,
        stream: DeviceStream,
        device_sampler: DeviceSampler,
        host_sampler: Sampler,
        masks: MaskPrefetch,
        limits: StepLimits,
        *,
        records_graphs: bool = True,
    ) -> None:
        self._transformer = transformer
        self.kv_cache = kv_cache
        self.stream = stream
        self.device_sampler = device_sampler
        self.sampler = host_sampler
        self.masks = masks
        self._records_graphs = records_graphs
        self._row_counts = row_counts(min(limits.max_num_sequences, limits.max_num_tokens))
        self._block_counts = block_counts(limits.max_context, kv_cache.block_size)
        self._graphs: dict[StepShape, Graph] = {}
        self._has_recorded = False
        num_draws = limits.max_num_sequences + limits.max_drafted_tokens
        num_bytes = largest_shape(limits, kv_cache.block_size).num_bytes
        self._inputs = stream.memory(num_bytes)
        self._drawn, self._kept = (stream.memory(num_draws * 8).view(torch.int64) for _ in range(2))
        vocab_size = transformer.config.vocab_size
        num_logits = (num_draws + MAX_SCORED_TOKENS) * vocab_size
        self._logits = stream.memory(4 * num_logits).view(torch.float32).view(-1, vocab_size)
        self._stages = [
            _Stage(stream.staging(num_bytes), stream.staging(num_draws * 8).view(torch.int64))
            for _ in range(_NUM_STAGES)
        ]

    @property
    def num_graphs(self) -> int:
        """Recorded until now."""
        return len(self._graphs)

    @property
    def transformer(self) -> Transformer:
        """See `StepExecutor`; graphs hold the addresses of its weights."""
        return self._transformer

    @transformer.setter
    def transformer(self, transformer: Transformer) -> None:
        self._transformer = transformer
        self._graphs.clear()
        self._has_recorded = False

    def record_all(self) -> None:
        """Record every graph now rather than in the first steps; the largest first: all share its memory.

        In a group collective: all ranks record the same ones in the same order.
        """
        self._has_recorded = True
        for num_blocks in reversed(self._block_counts):
            for num_rows in reversed(self._recorded_row_counts):
                self._graph(StepShape.of_decoding(num_rows, num_blocks), self._next_stage())
        logger.info("step_graphs_recorded num_graphs=%d", len(self._graphs))

    def launch(
        self, plan: StepPlan, max_num_tokens: int, *, behind: LaunchedStep | None = None
    ) -> DeviceStep:
        """See `StepExecutor`."""
        assert behind is None or isinstance(behind, DeviceStep)
        assert plan.num_rows <= max_num_tokens, "more tokens than were agreed on for this step"
        exchange = self._transformer.exchange
        if exchange is not None and not self._has_recorded:
            self.record_all()  # the ranks' first step with these experts, and all of them are in it
        stage, runs, needed = self._next_stage(), draw_runs(plan), shape_of(plan)
        num_draws = sum(run.num_rows for run in runs)
        num_rows = needed.num_sequences
        if exchange is not None:
            num_rows = rows_of_exchange(self._row_counts, max_num_tokens)
        shape = self._graph_shape(num_rows, needed.num_blocks) if is_decoding(needed, num_draws) else None
        graph = None if shape is None else self._graph(shape, stage)
        shape = shape or needed
        buffers = StepBuffers.over(stage.inputs, shape)
        pack(plan, buffers, self.kv_cache.block_size, {} if behind is None else behind.sources)
        if graph is not None:
            pad(buffers, len(plan.chunks), self.kv_cache.block_size, self.kv_cache.spare_block)
        self._send(stage, shape)
        if graph is None:
            self.stream.run(partial(self._compute, self._transformer, shape, num_draws, num_rows))
        else:
            graph.replay()
        on_host = [row for run in runs if run.num_on_host for row in run.host_rows]
        on_host += range(num_draws, needed.num_logits)
        step = DeviceStep(
            plan=plan,
            sampler=self.sampler,
            runs=runs,
            drawn=stage.drawn[:num_draws],
            host_rows=on_host,
            host_logits=self._host_logits(len(on_host)),
            sources={run.chunk.sequence: run.first for run in runs},
            exchange=exchange,
        )
        self.stream.run(partial(self._fetch, step))
        step.mark = stage.mark = self.stream.mark()
        step.begin_masks(self.masks)
        return step

    def can_launch_behind(self, max_num_tokens: int) -> bool:
        """See `StepExecutor`; an exchange that is not padded waits for the device in every layer."""
        exchange = self._transformer.exchange
        return exchange is None or exchange.pads(max_num_tokens)

    def close(self) -> None:
        """See `StepExecutor`; waits for what the device still does."""
        self.stream.mark().wait()
        self._graphs.clear()
        self.masks.close()

    def _host_logits(self, num_rows: int) -> Tensor:
        """Return memory of the host for so many rows of logits."""
        memory = self.stream.staging(num_rows * self._logits.shape[1] * self._logits.itemsize)
        return memory.view(torch.float32).view(num_rows, self._logits.shape[1])

    def _next_stage(self) -> _Stage:
        """Return the memory that was used longest ago, once the device has read it."""
        stage = self._stages.pop(0)
        self._stages.append(stage)
        if stage.mark is not None:
            mark, stage.mark = stage.mark, None
            mark.wait()
        return stage

    @property
    def _recorded_row_counts(self) -> tuple[int, ...]:
        """Rows for which there are graphs; in a group those whose all-to-alls a graph can hold."""
        exchange = self._transformer.exchange
        if not self._records_graphs:
            return ()
        return tuple(count for count in self._row_counts if exchange is None or exchange.pads(count))

    def _graph_shape(self, num_rows: int, num_blocks: int) -> StepShape | None:
        """Return the padded shape whose graph computes a decoding step; None: it is computed as it is.

        Args:
            num_rows: Of this rank, or as agreed on in its group.
            num_blocks: Of the longest sequence here.
        """
        padded_rows = smallest(self._recorded_row_counts, num_rows)
        if not num_rows or padded_rows is None:
            return None
        padded_blocks = smallest(self._block_counts, num_blocks)
        assert padded_blocks is not None, "a longer sequence than the engine takes"
        return StepShape.of_decoding(padded_rows, padded_blocks)

    def _graph(self, shape: StepShape, stage: _Stage) -> Graph:
        """Return the graph of a shape; recorded over padding alone, it changes nothing that anyone reads."""
        graph = self._graphs.get(shape)
        if graph is None:
            cache = self.kv_cache
            pad(StepBuffers.over(stage.inputs, shape), 0, cache.block_size, cache.spare_block)
            self._send(stage, shape)
            # What the step before has drawn is wanted by the one that waits for this graph.
            self.stream.run(partial(_copy, self._kept, self._drawn))
            step = partial(self._compute, self._transformer, shape, shape.num_logits, shape.num_tokens)
            graph = self.stream.record(step)
            self.stream.run(partial(_copy, self._drawn, self._kept))
            self._graphs[shape] = graph
        return graph

    def _send(self, stage: _Stage, shape: StepShape) -> None:
        """Append the one copy of a step's inputs."""
        target, source = self._inputs[: shape.num_bytes], stage.inputs[: shape.num_bytes]
        self.stream.run(lambda: _copy(target, source))

    def _compute(self, transformer: Transformer, shape: StepShape, num_draws: int, num_rows: int) -> None:
        """Network and draws, from the inputs on the device to `_logits` and `_drawn`.

        Nothing waits, but for the exchanges of a group's step that is not padded. `num_rows`: no rank of the
        group has more.
        """
        buffers = StepBuffers.over(self._inputs, shape)
        # A row in which nothing could be drawn goes on with any token, for nobody.
        before = self._drawn[buffers.sources.clamp(min=0)].clamp(min=0)
        token_ids = torch.where(buffers.sources < 0, buffers.token_ids, before)
        batch = buffers.batch(token_ids)
        if transformer.exchange is not None:
            # Padding writes to the spare block, and is not to be sent to other ranks.
            is_token = buffers.slot_mapping_full < self.kv_cache.spare_block * self.kv_cache.block_size
            batch = replace(batch, max_num_tokens=num_rows, is_token=is_token)
        logits = transformer.forward(batch, self.kv_cache)
        self._logits[: shape.num_logits].copy_(logits)
        if num_draws:
            drawn = self.device_sampler.draw(logits[:num_draws], buffers.draws(num_draws))
            self._drawn[:num_draws].copy_(drawn)

    def _fetch(self, step: DeviceStep) -> None:
        """Copy to the host what it reads of a step."""
        _copy(step.drawn, self._drawn[: len(step.drawn)])
        for row, target in zip(step.host_rows, step.host_logits, strict=True):
            _copy(target, self._logits[row])


def largest_shape(limits: StepLimits, block_size: int) -> StepShape:
    """Return a shape whose inputs take as much memory as those of any step."""
    num_blocks = -(-limits.max_context // block_size)
    num_logits = limits.max_num_sequences + limits.max_drafted_tokens + MAX_SCORED_TOKENS
    num_tokens = max(limits.max_num_tokens, limits.max_num_sequences)
    return StepShape(num_tokens, limits.max_num_sequences, num_blocks, num_logits)


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)
