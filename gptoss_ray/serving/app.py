"""The Serve application: one Ingress, and an EngineReplica deployment for each model behind it."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from prometheus_client.metrics_core import Metric
from pydantic import ValidationError
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig, ServingConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.json_logs import log_as_json
from gptoss_ray.ranks.engine_rank import LoadEngine
from gptoss_ray.ranks.rank_placement import GroupPlacement
from gptoss_ray.serving.autoscaling import autoscaling_config
from gptoss_ray.serving.bind_address import bind_replica_to_node_address
from gptoss_ray.serving.exposure import check_exposure, deployed_hosts
from gptoss_ray.serving.ingress import Ingress, build_fastapi_app
from gptoss_ray.serving.ingress_peers import IngressPeers, Measured
from gptoss_ray.serving.metrics import IngressMetrics
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.replica import EngineReplica
from gptoss_ray.serving.response_store_actor import ActorStore, shared_store
from gptoss_ray.serving.router import router_config
from gptoss_ray.serving.stream_pacing import pace_replica_streams
from gptoss_ray.serving.token_stream import RoutedTokenSource, TokenStreams
from gptoss_ray.tracing import Tracer, process_tracer

INGRESS = "Ingress"
ENGINE_REPLICA = "EngineReplica"

MAX_INGRESS_REQUESTS = 2048
"""Requests one ingress replica holds at once; they cost it a few KiB each."""

MAX_REFUSALS_AT_ONCE = 256
"""Requests beyond its queue that a replica holds while it refuses them; as many wait in each ingress."""

MAX_START_ATTEMPTS = 3
"""A replica that fails to start so often fails the deployment, instead of being tried for ever."""


@serve.ingress()
class IngressDeployment(Ingress):
    """The ingress as Serve runs it: it knows the models by their handles."""

    def __init__(self, config: ServingConfig, handles: dict[str, DeploymentHandle[Any]]) -> None:
        if config.json_logs:
            log_as_json()
        bind_replica_to_node_address()
        check_exposure(deployed_hosts(), config)
        pace_replica_streams()
        streams = TokenStreams(config.limits.max_unread_tokens)
        metrics = IngressMetrics()
        tracer = process_tracer() if config.tracing else None
        models = [
            _served_model(model, handles[model.name], streams, metrics, tracer) for model in config.models
        ]
        self._peers = IngressPeers()
        self._store = shared_store(serve.get_replica_context().app_name, config.limits)
        super().__init__(
            models,
            api_keys=config.resolve_api_keys(),
            api_keys_file=config.api_keys_file,
            limits=config.limits,
            page=config.page,
            store=self._store,
            metrics=metrics,
            tracer=tracer,
        )
        # What is loaded now stays: to walk through it, modules and vocabulary, each time that garbage is
        # collected would hold up every stream for 75 ms.
        gc.collect()
        gc.freeze()

    async def check_health(self) -> None:
        """Keep the store of responses alive; Serve asks every few seconds, and is told of no lost store."""
        if isinstance(self._store, ActorStore):
            await self._store.touch()

    def own_measured(self) -> Measured:
        """Return what this replica has measured; the others ask for it."""
        return Measured(serve.get_replica_context().replica_id.unique_id, self.metrics.families())

    async def measured(self) -> Mapping[str, Sequence[Metric]]:
        """See `Ingress.measured`."""
        return await self._peers.measured(self.own_measured())

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP side; Serve asks for it once the instance is made."""
        return build_fastapi_app(self, echo_request_id=False)


def build(args: dict[str, Any]) -> Application:
    """Compose the application from the `args` of a Serve config file.

    Raises:
        ConfigError: The arguments are not those of `ServingConfig`.
    """
    try:
        config = ServingConfig.model_validate(args)
    except ValidationError as error:
        raise ConfigError(f"the application's args are wrong: {error}") from error
    return application(config)


def application(config: ServingConfig, load: LoadEngine | None = None) -> Application:
    """Compose the application of a configuration; `load` takes the place of each model's checkpoint."""
    handles = {model.name: _engine_replica(config, model, load) for model in config.models}
    return _deployment(
        IngressDeployment,
        name=INGRESS,
        max_ongoing_requests=MAX_INGRESS_REQUESTS,
        max_constructor_retry_count=MAX_START_ATTEMPTS,
        ray_actor_options={"num_cpus": 0},
    ).bind(config, handles)


def deployment_names(config: ServingConfig) -> list[str]:
    """Return the names by which a config file may override options of the deployments."""
    return [INGRESS, *(replica_name(config, model) for model in config.models)]


def replica_name(config: ServingConfig, model: ServedModelConfig) -> str:
    """Return the name of a model's EngineReplica deployment."""
    if len(config.models) == 1:
        return ENGINE_REPLICA
    return f"{ENGINE_REPLICA}-{re.sub(r'[^A-Za-z0-9.-]', '-', model.name)}"


def _engine_replica(config: ServingConfig, model: ServedModelConfig, load: LoadEngine | None) -> Application:
    placement = GroupPlacement.of(model)
    num_requests_per_rank = model.engine.max_num_sequences + model.engine.max_queued_requests
    return _deployment(
        EngineReplica,
        name=replica_name(config, model),
        # The replica itself refuses what it has no place for, and for that must get to see it.
        max_ongoing_requests=model.parallel.num_ranks * num_requests_per_rank + MAX_REFUSALS_AT_ONCE,
        max_queued_requests=MAX_REFUSALS_AT_ONCE,
        max_constructor_retry_count=MAX_START_ATTEMPTS,
        autoscaling_config=autoscaling_config(model),
        request_router_config=router_config(model),
        # The replica itself only waits; its bundle, the first, is for the ranks of its node.
        ray_actor_options={"num_cpus": 0},
        placement_group_bundles=placement.bundles,
        placement_group_strategy=placement.strategy,
    ).bind(model, load, config.json_logs)


def _deployment(cls: type, **options: Any) -> Deployment:
    """Make a deployment whose class Ray finds by import, because no decorator hides it."""
    deployment: Any = serve.deployment(cls, **options)
    assert isinstance(deployment, Deployment)
    return deployment


def _served_model(
    model: ServedModelConfig,
    handle: DeploymentHandle[Any],
    streams: TokenStreams,
    metrics: IngressMetrics,
    tracer: Tracer | None,
) -> ServedModel:
    # The ingress may stand on a node without ranks, whose disk has no room for weights.
    folder = resolve_folder(model.checkpoint, with_weights=False)
    shape = ModelConfig.from_folder(folder)
    return ServedModel(
        name=model.name,
        encoding=HarmonyEncoding.load(folder),
        max_context=model.engine.max_context or shape.max_context,
        vocab_size=shape.vocab_size,
        token_source=RoutedTokenSource(handle, streams, model, metrics.phases(model.name), tracer),
        aliases=model.aliases,
        created=int(time.time()),
    )
