"""A device's stream that does nothing until somebody waits: what the host does too early is seen.

Work that was launched is kept, and done when a mark behind it is waited for. So a host that writes over
memory which the device has still to read, or reads what it has still to write, gets wrong tokens.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from gptoss_ray.engine.device_executor import DeviceExecutor
from gptoss_ray.engine.draw import draw_token
from gptoss_ray.generation import SamplingParams
from gptoss_ray.kernels.device_sampler import NO_TOKEN


def on_stream(stream, *, records_graphs=True, device_sampler=None):
    """Return what makes an `Engine` compute on the stream."""

    def make(transformer, kv_cache, sampler, masks, limits):
        draws = device_sampler or HostSampler()
        return DeviceExecutor(
            *(transformer, kv_cache, stream, draws, sampler, masks, limits), records_graphs=records_graphs
        )

    return make


class RecordedStream:
    """See `DeviceStream`. `done` names what the device did, in order; `num` counts what it was given."""

    def __init__(self):
        self._pending = []
        self.num_graphs = 0
        self.done = []
        self.num = Counter()

    def memory(self, num_bytes):
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def staging(self, num_bytes):
        # Nobody may count on what is in it.
        return torch.full((num_bytes,), 0xA5, dtype=torch.uint8)

    def run(self, work):
        self._append("run", work)

    def record(self, work):
        self.mark().wait()
        work()
        self.num_graphs += 1
        return _Graph(self, f"graph {self.num_graphs}", work)

    def mark(self):
        mark = _Mark(self)
        self._pending.append(mark)
        return mark

    @property
    def num_pending(self):
        return sum(not isinstance(each, _Mark) for each in self._pending)

    def _append(self, name, work):
        self.num[name.split()[0]] += 1
        self._pending.append((name, work))

    def _reach(self, mark):
        error = None
        while mark in self._pending:
            each = self._pending.pop(0)
            if isinstance(each, _Mark):
                each.error, error = error, None
                continue
            name, work = each
            self.done.append(name)
            try:
                with torch.inference_mode():
                    work()
            except Exception as raised:
                error = error or raised


class _Mark:
    def __init__(self, stream):
        self._stream = stream
        self.error = None

    def is_reached(self):
        """Who asks waits: the device goes on."""
        self._stream._reach(self)
        return True

    def wait(self):
        self._stream._reach(self)
        if self.error is not None:
            error, self.error = self.error, None
            raise error


class _Graph:
    def __init__(self, stream, name, work):
        self._stream, self._name, self._work = stream, name, work

    def replay(self):
        self._stream._append(self._name, self._work)


class HostSampler:
    """A `DeviceSampler` that draws as the host does, from the rows' parameters alone."""

    def __init__(self, suppressed_token_ids=()):
        self._suppressed = list(suppressed_token_ids)

    def draw(self, logits, inputs):
        columns = (inputs.temperature, inputs.top_k, inputs.top_p, inputs.min_p, inputs.uniform)
        drawn = [
            self._draw(row.numpy().copy(), *values)
            for row, *values in zip(logits, *(column.tolist() for column in columns), strict=True)
        ]
        return torch.tensor(drawn, dtype=torch.int64)

    def _draw(self, row, temperature, top_k, top_p, min_p, uniform):
        row[self._suppressed] = -np.inf
        best = int(row.argmax())
        if not np.isfinite(row[best]):
            return NO_TOKEN
        if temperature == 0.0:
            return best
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        return draw_token(row, params, uniform, np.empty_like(row))
