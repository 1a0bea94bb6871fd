"""A device's stream that does nothing until somebody waits: what the host does too early is seen.

Work that was launched is kept, and done when a mark behind it is waited for. So a host that writes over
memory which the device has still to read, or reads what it has still to write, gets wrong tokens.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import torch

from gptoss_ray.engine.device_executor import DeviceExecutor
from gptoss_ray.engine.draw import draw_token
from gptoss_ray.generation import SamplingParams
from gptoss_ray.kernels.device_sampler import NO_TOKEN

_STUCK_S = 60.0


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
        self._error = None
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
        while mark in self._pending:
            each = self._pending.pop(0)
            if isinstance(each, _Mark):
                each.error, self._error = self._error, None
            else:
                self._do(each)

    def _do(self, named_work):
        name, work = named_work
        self.done.append(name)
        try:
            with torch.inference_mode():
                work()
        except Exception as raised:
            self._error = self._error or raised


class ThreadedStream(RecordedStream):
    """The same with a thread that does the work by itself, as a group's devices do, which meet each other.

    While it `is_reluctant` it does a step only when another is behind it.
    """

    def __init__(self):
        super().__init__()
        self.is_reluctant = False
        self._is_working = False
        self._changed = threading.Condition()

    def mark(self):
        with self._changed:
            mark = super().mark()
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name="device", daemon=True).start()
        return mark

    def _append(self, name, work):
        with self._changed:
            super()._append(name, work)

    def _reach(self, mark):
        with self._changed:
            assert self._changed.wait_for(lambda: mark not in self._pending, _STUCK_S), "the device is stuck"

    def _work(self):
        while (first := self._next()) is not None:
            if not isinstance(first, _Mark):
                self._do(first)
            with self._changed:
                if isinstance(first, _Mark):
                    first.error, self._error = self._error, None
                self._pending.pop(0)
                self._changed.notify_all()

    def _next(self):
        """What is to be done now; None: the next mark has somebody begin again."""
        with self._changed:
            num_steps = sum(isinstance(each, _Mark) for each in self._pending)
            self._is_working = num_steps > self.is_reluctant
            return self._pending[0] if self._is_working else None


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
