"""RequestTraces: the spans of a rank's traced requests, prefill and decode."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from gptoss_ray.errors import ConfigError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.tracing import Attribute, Span, Tracer, error_code, process_tracer

logger = logging.getLogger(__name__)


@dataclass
class _Traced:
    request: GenerationRequest
    span: Span
    is_decoding: bool = False


class RequestTraces:
    """Belongs to the event loop of its rank.

    Args:
        model: Name of the served model.
        rank: Number of the rank.
        tracer: Makes the spans; None: that of the process, once a traced request comes.
    """

    def __init__(self, model: str, rank: int, tracer: Tracer | None = None) -> None:
        self._attributes: dict[str, Attribute] = {"gptoss.model": model, "gptoss.rank": rank}
        self._tracer = tracer
        self._live: dict[str, _Traced] = {}
        self._is_off = False

    def __bool__(self) -> bool:
        """Return whether any live request is traced."""
        return bool(self._live)

    async def begin(self, request: GenerationRequest) -> None:
        """Begin a request's prefill, if it is traced and this node can trace."""
        tracer = await self._find_tracer() if request.traceparent else None
        if tracer is None:
            return
        span = tracer.start(
            "prefill",
            request.traceparent,
            {
                **self._attributes,
                "gptoss.prompt_tokens": len(request.prompt_token_ids),
                "gptoss.emitted_tokens": len(request.emitted_token_ids),
                "gptoss.choice": request.params.choice_index,
            },
        )
        self._live[request.request_id] = _Traced(request, span)

    def take(self, output: TokenOutput) -> None:
        """End the prefill with a request's first tokens, and what is under way with its last."""
        traced = self._live.get(output.request_id)
        if traced is None:
            return
        if output.token_ids and not traced.is_decoding and output.finish_reason is None:
            self._decode(traced, output)
        elif output.finish_reason is not None:
            self._end(traced, output)

    def drop(self, request_id: str, error: Exception) -> None:
        """End the spans of a request that the engine did not take."""
        traced = self._live.pop(request_id, None)
        if traced is not None:
            traced.span.end(error=error_code(error))

    def _decode(self, traced: _Traced, output: TokenOutput) -> None:
        assert self._tracer is not None
        traced.span.end({"gptoss.cached_tokens": output.num_cached_tokens})
        traced.is_decoding = True
        choice = {"gptoss.choice": traced.request.params.choice_index}
        traced.span = self._tracer.start("decode", traced.request.traceparent, self._attributes | choice)

    def _end(self, traced: _Traced, output: TokenOutput) -> None:
        assert output.finish_reason is not None
        attributes: dict[str, Attribute] = {
            "gptoss.finish_reason": output.finish_reason.value,
            "gptoss.output_tokens": output.position + len(output.token_ids),
        }
        traced.span.end(attributes, error="" if output.error is None else error_code(output.error))
        del self._live[output.request_id]

    async def _find_tracer(self) -> Tracer | None:
        """Return the tracer; None, and that is logged once, where this node has none."""
        if self._tracer is None and not self._is_off:
            try:
                self._tracer = await asyncio.to_thread(process_tracer)
            except ConfigError as error:
                self._is_off = True
                logger.warning("tracing_off reason=%s", error)
        return self._tracer
