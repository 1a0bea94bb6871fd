"""Reads a running cluster's status: from Ray its nodes and ranks, from Serve the rest."""

from __future__ import annotations

import json
from typing import Any

import ray
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from gptoss_ray.config import ServedModelConfig, ServingConfig
from gptoss_ray.serving.app import replica_name
from gptoss_ray.serving.cluster_status import ClusterStatus, NodeStatus, cluster_status
from gptoss_ray.serving.deploy_watch import read_progress

_HEAD_RESOURCE = "node:__internal_head__"
_SHOWN_RESOURCES = ("CPU", "GPU")


def read_cluster_status() -> ClusterStatus:
    """Read the status of the cluster that this process is connected to."""
    details = _serve_details()
    models = {} if details is None else _models(details)
    stages = {name: str(progress) for name, progress in read_progress().items()}
    return cluster_status(_nodes(), details, models, stages)


def _nodes() -> list[NodeStatus]:
    return [
        NodeStatus(
            address=node["NodeManagerAddress"],
            is_head=_HEAD_RESOURCE in node["Resources"],
            resources={name: node["Resources"].get(name, 0.0) for name in _SHOWN_RESOURCES},
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def _serve_details() -> dict[str, Any] | None:
    """Return Serve's own account as plain JSON; None where it does not run."""
    try:
        client = _get_global_client(raise_if_no_controller_running=True)
    except RayServeException:
        return None
    assert client is not None, "else it would have raised"
    details: dict[str, Any] = json.loads(json.dumps(client.get_serve_details(), default=str))
    return details


def _models(details: dict[str, Any]) -> dict[str, ServedModelConfig]:
    """Return the models by the names of their deployments."""
    models: dict[str, ServedModelConfig] = {}
    for application in details["applications"].values():
        config = ServingConfig.model_validate(application["deployed_app_config"]["args"])
        models |= {replica_name(config, model): model for model in config.models}
    return models
