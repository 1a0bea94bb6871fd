"""Keeps what a step loop delivers, and tells when a request has ended."""

from __future__ import annotations

import threading

from gptoss_ray.generation import TokenOutput
from gptoss_ray.ranks.step_loop import Batches


class OutputRecorder:
    """What `StepLoop` calls as its `deliver`."""

    def __init__(self) -> None:
        self.messages: list[Batches] = []
        self._changed = threading.Condition()

    def __call__(self, batches: Batches) -> None:
        with self._changed:
            self.messages.append(batches)
            self._changed.notify_all()

    def outputs(self, request_id: str) -> list[TokenOutput]:
        return [
            output
            for batches in self.messages
            for outputs in batches.values()
            for output in outputs
            if output.request_id == request_id
        ]

    def wait_ended(self, request_id: str) -> TokenOutput:
        def ended() -> bool:
            outputs = self.outputs(request_id)
            return bool(outputs) and outputs[-1].finish_reason is not None

        with self._changed:
            assert self._changed.wait_for(ended, 5), f"{request_id} did not end"
        return self.outputs(request_id)[-1]
