"""The entry for HTTP and gRPC, free of Ray: what a client may ask and what it is answered.

How the Serve deployment is made of it (`serving/app.py`)::

    @serve.deployment
    @serve.ingress()                      # no app: Serve asks the instance for it (late binding)
    class IngressDeployment(Ingress):     # inherits the gRPC methods; Serve dispatches by RPC name
        def __init__(self, config: ServingConfig, ...) -> None:
            models = [ServedModel(name=..., token_source=RayTokenSource(handle, ...), ...) for ...]
            super().__init__(models, api_keys=config.resolve_api_keys(), limits=config.limits)

        def __serve_build_asgi_app__(self) -> FastAPI:
            return build_fastapi_app(self, echo_request_id=False)   # Serve echoes it already

    serve.start(grpc_options={"grpc_servicer_functions": list(GRPC_SERVICER_FUNCTIONS), ...})

What the deployment must not do: define `__call__` (Serve refuses it), shadow an RPC name, or wrap the
gRPC methods, whose signature `(request, grpc_context)` tells Serve to pass the context. Client
disconnects arrive as `CancelledError` and close the `TokenSource` generator. Serve's gRPC proxy answers
reflection and `ray.serve.RayServeAPIService` itself, before any code of this module and without a key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from prometheus_client.metrics_core import Metric

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.ranks.group_stats import GroupStats
from gptoss_ray.serving.answer import Answer
from gptoss_ray.serving.auth import ApiKeys
from gptoss_ray.serving.chat import start_chat
from gptoss_ray.serving.chat_assembler import ChatDelta
from gptoss_ray.serving.completion_assembler import CompletionDelta
from gptoss_ray.serving.completions import start_completion
from gptoss_ray.serving.grpc_service import GRPC_SERVICER_FUNCTIONS, GrpcMethods
from gptoss_ray.serving.http_app import build_fastapi_app
from gptoss_ray.serving.journal import JournaledTokenSource
from gptoss_ray.serving.metered_source import MeteredTokenSource
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ModelCatalog, ServedModel
from gptoss_ray.serving.openai_types import ChatCompletionRequest, CompletionRequest
from gptoss_ray.serving.reasoning_cache import ReasoningCache
from gptoss_ray.serving.request_id import abort_key
from gptoss_ray.serving.responses.preparation import Preparation
from gptoss_ray.serving.responses.service import ResponseService
from gptoss_ray.serving.responses.shared_store import LocalStore, SharedStore, bounded_store
from gptoss_ray.tracing import Tracer

__all__ = ["GRPC_SERVICER_FUNCTIONS", "Ingress", "build_fastapi_app"]


class Ingress(GrpcMethods):
    """Finds the model, validates and starts; both protocols come through `chat` and `complete`."""

    def __init__(
        self,
        models: Iterable[ServedModel],
        *,
        api_keys: Iterable[str] = (),
        api_keys_file: str | None = None,
        limits: LimitsConfig | None = None,
        page: bool = True,
        store: SharedStore | None = None,
        metrics: IngressMetrics | None = None,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Serve `models`, and the chat page; `clock` returns Unix time in seconds.

        Responses are kept in `store`, without one in this process. What is measured goes into `metrics`.
        Without a `tracer` no request is traced.
        """
        self.limits = limits or LimitsConfig()
        self.has_page = page
        self.metrics = metrics or IngressMetrics()
        self.tracer = tracer
        self.api_keys = ApiKeys(api_keys, file=api_keys_file)
        self.catalog = ModelCatalog(map(self._guarded, models))
        self._reasoning = ReasoningCache(
            self.limits.max_remembered_calls, self.limits.max_remembered_reasoning_bytes
        )
        self._clock = clock
        self.responses = ResponseService(
            Preparation(
                catalog=self.catalog,
                limits=self.limits,
                metrics=self.metrics,
                reasoning=self._reasoning,
                store=store or LocalStore(bounded_store(self.limits)),
                now=self.now,
            )
        )

    def _guarded(self, model: ServedModel) -> ServedModel:
        migrations = self.metrics.migrations.labels(model.name)
        source = JournaledTokenSource(model.token_source, self.limits, migrations.inc, tracer=self.tracer)
        return replace(model, token_source=MeteredTokenSource(source, self.api_keys))

    def now(self) -> int:
        """Unix time in seconds."""
        return int(self._clock())

    async def measured(self) -> Mapping[str, Sequence[Metric]]:
        """Return what each ingress replica has measured, by its id; "" where it is the only one."""
        return {"": self.metrics.families()}

    async def replicas(self) -> dict[str, Sequence[GroupStats]]:
        """Return what the replicas of each model tell of themselves."""
        models = list(self.catalog)
        stats = await asyncio.gather(*(model.token_source.stats() for model in models))
        return {model.name: groups for model, groups in zip(models, stats, strict=True)}

    async def chat(
        self, request: ChatCompletionRequest, *, tenant: str, request_id: str = ""
    ) -> Answer[ChatDelta]:
        """Start a chat's answer; raise InvalidRequestError or ModelNotFoundError."""
        model = self.catalog.find(request.model)
        return await start_chat(
            request,
            model,
            self.limits,
            metrics=self.metrics,
            reasoning=self._reasoning,
            tenant=tenant,
            created=self.now(),
            abort_key=abort_key(tenant, request_id),
        )

    async def complete(
        self, request: CompletionRequest, *, tenant: str, request_id: str = ""
    ) -> Answer[CompletionDelta]:
        """Start a completion's answer; raise InvalidRequestError or ModelNotFoundError."""
        model = self.catalog.find(request.model)
        return await start_completion(
            request,
            model,
            self.limits,
            metrics=self.metrics,
            tenant=tenant,
            created=self.now(),
            abort_key=abort_key(tenant, request_id),
        )

    async def abort(self, request_id: str, *, tenant: str) -> int:
        """End a tenant's requests of an id, whichever ingress replica they came by.

        Returns how many sequences that were: only what has reached an engine is found.

        Raises:
            UnavailableError: A replica could not be asked.
        """
        if not request_id:
            raise InvalidRequestError("request_id is empty; name a request.", param="request_id")
        key = abort_key(tenant, request_id)
        return sum(await asyncio.gather(*(model.token_source.abort(key) for model in self.catalog)))
