"""What a cluster serves at one moment: nodes, models, replicas, ranks, addresses, and what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from gptoss_ray.config import ServedModelConfig

_READY = "ready"
_SERVING = "RUNNING"
_HEALTHY = "HEALTHY"
_ALL_INTERFACES = (None, "0.0.0.0", "::")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class NodeStatus(_Frozen):
    """A node; `resources` are amounts by Ray's names, of CPU and GPU."""

    address: str
    is_head: bool
    resources: dict[str, float]


class RankStatus(_Frozen):
    """A rank of a model; `stage` is how far it is with its start (`ready` in the end)."""

    name: str
    stage: str

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self.stage == _READY


class DeploymentStatus(_Frozen):
    """A model's replicas, or those of the ingress, which has no ranks.

    Attributes:
        name: Of the model; of the deployment where it is the ingress.
        status: Serve's word.
        num_running: Replicas that run.
        num_wanted: Replicas that there should be.
        num_ranks: That a replica has.
        nodes: Addresses of the replicas' nodes.
        ranks: That answer.
        message: Why a replica does not start.
    """

    name: str
    status: str
    num_running: int
    num_wanted: int
    num_ranks: int
    nodes: tuple[str, ...]
    ranks: tuple[RankStatus, ...]
    message: str

    @property
    def num_ready_ranks(self) -> int:
        """Ranks that take requests."""
        return sum(rank.is_ready for rank in self.ranks)


class ClusterStatus(_Frozen):
    """A cluster at one moment.

    Attributes:
        nodes: Those that live.
        application: Serve's word for the application; None where none is deployed.
        message: What Serve says of it.
        deployments: The ingress and each model.
        addresses: Where clients connect, by protocol.
    """

    nodes: tuple[NodeStatus, ...]
    application: str | None = None
    message: str = ""
    deployments: tuple[DeploymentStatus, ...] = ()
    addresses: dict[str, tuple[str, ...]] = {}

    @property
    def problems(self) -> list[str]:
        """What is wrong, a sentence each; none where all is well."""
        return list(self._problems())

    @property
    def has_failed(self) -> bool:
        """Whether Serve has given up on the application, so that no waiting helps."""
        return self.application == "DEPLOY_FAILED"

    def _problems(self) -> Iterator[str]:
        if self.application is None:
            yield "nothing is deployed; `gptoss-ray up CLUSTER CONFIG`, or `serve deploy CONFIG` on its head."
            return
        if self.application != _SERVING:
            yield f"the application is {self.application}{f': {self.message}' if self.message else ''}"
        for deployment in self.deployments:
            yield from _problems_of(deployment)
        if not self.addresses:
            yield "no proxy is up: nobody can connect."


def _problems_of(deployment: DeploymentStatus) -> Iterator[str]:
    if deployment.status != _HEALTHY or deployment.num_running < deployment.num_wanted:
        why = f": {deployment.message}" if deployment.message else ""
        yield (
            f"{deployment.name} is {deployment.status}, {deployment.num_running} of {deployment.num_wanted} "
            f"replicas run{why}"
        )
    num_ranks = deployment.num_running * deployment.num_ranks
    if deployment.num_ready_ranks < num_ranks:
        yield f"{deployment.name}: {deployment.num_ready_ranks} of {num_ranks} ranks are ready"


def cluster_status(
    nodes: Collection[NodeStatus],
    details: Mapping[str, Any] | None,
    models: Mapping[str, ServedModelConfig],
    rank_stages: Mapping[str, str],
) -> ClusterStatus:
    """Put a status together. Pure.

    Args:
        nodes: Of the cluster.
        details: Serve's own account (`ServeInstanceDetails`, as JSON); None where Serve does not run.
        models: What is served, by the name of the deployment.
        rank_stages: How far each rank is, by its actor's name, which begins with the model's.
    """
    here = sorted(nodes, key=lambda node: (not node.is_head, node.address))
    applications = {} if details is None else details["applications"]
    ours = next(iter(applications.values()), None)
    if details is None or ours is None:
        return ClusterStatus(nodes=tuple(here))
    return ClusterStatus(
        nodes=tuple(here),
        application=ours["status"],
        message=_line(ours["message"]),
        deployments=tuple(
            _deployment(deployment, models.get(name), rank_stages)
            for name, deployment in sorted(ours["deployments"].items())
        ),
        addresses=_addresses(details),
    )


def _deployment(
    deployment: Mapping[str, Any], model: ServedModelConfig | None, rank_stages: Mapping[str, str]
) -> DeploymentStatus:
    running = [replica for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
    name = deployment["name"] if model is None else model.name
    stages = {
        rank: stage for rank, stage in rank_stages.items() if model and rank.startswith(f"{model.name}#")
    }
    return DeploymentStatus(
        name=name,
        status=deployment["status"],
        num_running=len(running),
        num_wanted=deployment["target_num_replicas"],
        num_ranks=0 if model is None else model.parallel.num_ranks,
        nodes=tuple(sorted({replica["node_ip"] for replica in running})),
        ranks=tuple(RankStatus(name=rank, stage=stage) for rank, stage in sorted(stages.items())),
        message=_line(deployment["message"]),
    )


def _addresses(details: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return where clients connect: on nodes whose proxy is well, or on the one host that the file names.

    Serve does not know the host of gRPC (`GPTOSS_RAY_GRPC_HOST`), which is taken to be that of HTTP.
    """
    proxies = [proxy["node_ip"] for proxy in details["proxies"].values() if proxy["status"] == _HEALTHY]
    if not proxies:
        return {}
    http = details["http_options"]
    scheme = "https" if http.get("ssl_certfile") else "http"
    host = http.get("host")
    hosts = sorted(proxies) if host in _ALL_INTERFACES else [host]
    return {
        "HTTP": tuple(f"{scheme}://{host}:{http['port']}/v1" for host in hosts),
        "gRPC": tuple(f"{host}:{details['grpc_options']['port']}" for host in hosts),
    }


def _line(message: str) -> str:
    """Return the last line of Serve's message, which is often a traceback and ends with the error."""
    lines = message.strip().splitlines()
    return lines[-1].strip() if lines else ""
