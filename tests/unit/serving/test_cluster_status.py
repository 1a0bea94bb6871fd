from __future__ import annotations

from typing import Any

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.serving.cluster_status import ClusterStatus, NodeStatus, cluster_status

NODES = [
    NodeStatus(address="10.0.0.3", is_head=False, resources={"CPU": 2}),
    NodeStatus(address="10.0.0.2", is_head=False, resources={"CPU": 2}),
    NodeStatus(address="10.0.0.9", is_head=True, resources={"CPU": 0}),
]
MODEL = ServedModelConfig.model_validate(
    {"name": "demo", "checkpoint": "demo", "parallel": {"num_ranks": 2, "num_nodes": 2}}
)
RANKS = {"demo#a#0": "ready", "demo#a#1": "ready", "demo-2#b#0": "loading 3%"}


def details(host: str | None = "0.0.0.0", **changes: Any) -> dict[str, Any]:
    """What Serve says of a healthy ingress and a model; `changes` are of the model's deployment."""
    model = {
        "name": "EngineReplica",
        "status": "HEALTHY",
        "message": "",
        "target_num_replicas": 1,
        "replicas": [{"state": "RUNNING", "node_ip": "10.0.0.2"}],
    }
    ingress = model | {"name": "Ingress", "replicas": [{"state": "RUNNING", "node_ip": "10.0.0.9"}]}
    application = {
        "status": "RUNNING",
        "message": "",
        "deployments": {"Ingress": ingress, "EngineReplica": model | changes},
    }
    http = {"port": 8000} | ({} if host is None else {"host": host})
    return {
        "applications": {"gptoss": application},
        "http_options": http,
        "grpc_options": {"port": 9000},
        "proxies": {
            "a": {"node_ip": "10.0.0.9", "status": "HEALTHY"},
            "b": {"node_ip": "10.0.0.2", "status": "STARTING"},
        },
    }


def status(found: dict[str, Any] | None, ranks: dict[str, str] = RANKS) -> ClusterStatus:
    return cluster_status(NODES, found, {"EngineReplica": MODEL}, ranks)


def test_all_is_well_where_every_replica_runs_and_every_rank_is_ready():
    found = status(details())
    assert found.problems == []
    assert [node.address for node in found.nodes] == ["10.0.0.9", "10.0.0.2", "10.0.0.3"], "the head first"
    demo, ingress = found.deployments
    assert (demo.name, demo.num_ready_ranks, demo.nodes) == ("demo", 2, ("10.0.0.2",))
    assert (ingress.name, ingress.num_ranks) == ("Ingress", 0)


def test_a_model_knows_its_own_ranks_from_those_of_a_longer_name():
    assert [rank.name for rank in status(details()).deployments[0].ranks] == ["demo#a#0", "demo#a#1"]


def test_addresses_are_of_proxies_that_are_well_or_of_the_one_host_that_was_asked_for():
    everywhere = {"HTTP": ("http://10.0.0.9:8000/v1",), "gRPC": ("10.0.0.9:9000",)}
    assert status(details()).addresses == everywhere
    assert status(details(host=None)).addresses == everywhere
    assert status(details(host="127.0.0.1")).addresses["HTTP"] == ("http://127.0.0.1:8000/v1",)


def test_a_server_with_a_certificate_is_reached_by_https():
    found = details()
    found["http_options"]["ssl_certfile"] = "/etc/server.pem"
    assert status(found).addresses["HTTP"] == ("https://10.0.0.9:8000/v1",)


def test_a_cluster_that_serves_nothing_is_a_problem():
    for found in (None, details() | {"applications": {}}):
        assert status(found).problems[0].startswith("nothing is deployed; `gptoss-ray up")


def test_a_replica_that_does_not_run_is_a_problem_with_the_last_line_of_its_message():
    message = "Traceback\n  File\ngptoss_ray.errors.CheckpointError: no such folder\n"
    found = status(details(status="UPDATING", replicas=[], message=message), {})
    assert found.problems == [
        "demo is UPDATING, 0 of 1 replicas run: gptoss_ray.errors.CheckpointError: no such folder"
    ]


def test_a_rank_that_is_not_ready_or_does_not_answer_is_a_problem():
    assert status(details(), {"demo#a#0": "ready", "demo#a#1": "loading 40%"}).problems == [
        "demo: 1 of 2 ranks are ready"
    ]
    assert status(details(), {"demo#a#0": "ready"}).problems == ["demo: 1 of 2 ranks are ready"]


def test_a_model_that_is_scaled_to_nothing_is_well():
    assert status(details(target_num_replicas=0, replicas=[]), {}).problems == []


def test_a_failed_application_and_a_missing_proxy_are_problems():
    found = details()
    found["applications"]["gptoss"] |= {"status": "DEPLOY_FAILED", "message": "cause"}
    found["proxies"] = {}
    assert status(found).has_failed
    assert status(found).problems == [
        "the application is DEPLOY_FAILED: cause",
        "no proxy is up: nobody can connect.",
    ]
    assert not status(details()).has_failed


def test_a_status_survives_its_json():
    found = status(details())
    assert ClusterStatus.model_validate_json(found.model_dump_json()) == found
