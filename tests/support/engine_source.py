"""A token source over an engine in this process: random weights behind the real serving code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, TokenOutput
from tests.support.scripted_source import ScriptedSource


class EngineSource(ScriptedSource):
    """Steps the engine as long as one of its requests is being read, in place of a script."""

    def __init__(self, engine: Engine) -> None:
        super().__init__([])
        self._engine = engine
        self._waiting: dict[str, list[TokenOutput]] = {}

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        self.requests.append(request)
        self._engine.submit(request)
        waiting = self._waiting[request.request_id] = []
        try:
            while True:
                while waiting:
                    output = waiting.pop(0)
                    yield output
                    if output.finish_reason is not None:
                        return
                await asyncio.sleep(0)
                for output in self._engine.step():
                    self._waiting[output.request_id].append(output)
        finally:
            self._engine.abort(request.request_id)
            del self._waiting[request.request_id]
