"""What a deployment in progress says of itself: loading, failed (and why), running."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from ray.util.placement_group import placement_group_table

from gptoss_ray.ranks.load_progress import LoadProgress
from gptoss_ray.ranks.ray_ranks import RANK_NAMESPACE

_PROGRESS_TIMEOUT_S = 1.0
_OUR_ERROR = re.compile(r"gptoss_ray\.errors\.\w+: (.+)")


@dataclass(frozen=True)
class DeployState:
    """An application at one moment.

    Attributes:
        is_running: Every deployment has the replicas it wants.
        failure: One line where a replica could not start.
        is_placed: No ranks wait for room on a node.
        progress: How far each rank is, by its actor's name.
    """

    is_running: bool
    failure: str | None
    is_placed: bool
    progress: dict[str, LoadProgress]


def read_deploy_state(application: str) -> DeployState:
    """Read an application's state; a replica's first failed start counts, before Serve tries again."""
    overview = serve.status().applications.get(application)
    if overview is None:
        return DeployState(False, None, True, {})
    return DeployState(
        is_running=overview.status == ApplicationStatus.RUNNING,
        failure=_failure(overview),
        is_placed=all(group["state"] != "PENDING" for group in placement_group_table().values()),
        progress=read_progress(),
    )


def _failure(overview: ApplicationStatusOverview) -> str | None:
    messages = [overview.message, *(deployment.message for deployment in overview.deployments.values())]
    for message in messages:
        ours = _OUR_ERROR.findall(message)
        if ours:
            return str(ours[-1])
    if overview.status == ApplicationStatus.DEPLOY_FAILED:
        return " ".join(text for text in messages if text).strip().splitlines()[-1]
    return None


def read_progress() -> dict[str, LoadProgress]:
    """Return how far each rank of the cluster is, by its actor's name, unless it does not answer yet."""
    asked = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == RANK_NAMESPACE:
            # A rank that ends just now is no longer found.
            with contextlib.suppress(ValueError):
                rank = ray.get_actor(actor["name"], namespace=RANK_NAMESPACE)
                asked[rank.progress.remote()] = actor["name"]
    if not asked:
        return {}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PROGRESS_TIMEOUT_S)
    progress = {}
    for answer in answered:
        with contextlib.suppress(RayError):
            progress[asked[answer]] = ray.get(answer)
    return progress
