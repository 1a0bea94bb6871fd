"""The files of `cluster/` as their readers take them: no unknown key, and what belongs together agrees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from gptoss_ray.cluster.cluster_checks import check_placeholders, check_token
from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.cluster.cluster_fit import find_misfit
from gptoss_ray.cluster.node_type import NodeType
from gptoss_ray.errors import ConfigError
from tests.support.cluster_shapes import KINDS, NODES, PROVIDERS, Schema, azure_node
from tests.support.served_app import ROOT

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from gptoss_ray.serving.preflight import first_placements
    from gptoss_ray.serving.serve_file import ServeFile

CLUSTERS = sorted((ROOT / "cluster").glob("*.yaml"))
KUBERAY = sorted((ROOT / "cluster/kuberay").glob("*.yaml"))
SERVICES = [path for path in KUBERAY if path.name.startswith("gpt-oss-")]
CRD_VARIABLE = "KUBERAY_CRD"
VERSION = metadata.version("gptoss-ray")

by_name = pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
by_service = pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


# `ray up`


@by_name
def test_a_cluster_file_has_no_key_that_its_cloud_does_not_know(path):
    content = read(path)
    provider = content["provider"]["type"]
    jsonschema.validate(content["provider"], PROVIDERS[provider])
    for node_type in content.get("available_node_types", {}).values():
        jsonschema.validate(node_type["node_config"], _node_schema(provider))


def _node_schema(provider: str) -> Schema:
    if provider != "azure":
        return NODES[provider]
    path = Path(ray.__file__).parent / "autoscaler/_private/_azure/azure-vm-template.json"
    template = json.loads(path.read_text(encoding="utf-8"))
    return azure_node(template["parameters"])


def test_a_misspelt_key_of_a_node_is_found():
    node = read(ROOT / "cluster/aws.yaml")["available_node_types"]["cpu"]["node_config"]
    node["BlockDeviceMappings"][0]["Ebs"]["VolumSize"] = 1
    with pytest.raises(jsonschema.ValidationError, match="VolumSize"):
        jsonschema.validate(node, NODES["aws"])


@by_name
def test_a_cluster_file_passes_our_own_checks_once_placeholders_are_replaced(path, tmp_path):
    text = path.read_text(encoding="utf-8").replace("192.0.2.", "10.9.8.").replace("replace-by-your-", "our-")
    replaced = tmp_path / path.name
    replaced.write_text(text, encoding="utf-8")
    cluster = ClusterFile.read(replaced)
    assert check_placeholders(cluster) == "all replaced"
    assert check_token(cluster)


@pytest.mark.parametrize("name", ["azure", "gcp", "onprem"])
def test_a_cluster_file_as_it_ships_tells_what_to_replace(name):
    with pytest.raises(ConfigError, match=r"provider\.(subscription_id|project_id|head_ip) \(line \d+\)"):
        check_placeholders(ClusterFile.read(ROOT / f"cluster/{name}.yaml"))


@by_name
def test_the_head_takes_no_ranks(path):
    assert ClusterFile.read(path).head.amounts == {"CPU": 0, "GPU": 0}


@pytest.mark.parametrize("name", ["aws", "azure", "gcp"])
@pytest.mark.parametrize(
    "config", ["gpt-oss-20b", "gpt-oss-20b-2ranks", "gpt-oss-120b-8gpu", "gpt-oss-120b-2nodes"]
)
def test_every_configuration_fits_every_cloud(name, config):
    cluster = ClusterFile.read(ROOT / f"cluster/{name}.yaml")
    placements = first_placements(ServeFile.read(ROOT / f"configs/{config}.yaml"))
    assert find_misfit(placements, cluster.head, cluster.workers, cluster.max_workers) is None


@pytest.mark.parametrize("name", ["aws", "azure", "gcp"])
def test_a_disk_holds_the_weights_of_its_node_type_and_nothing_is_paid_for_that_nobody_asks_for(name):
    types = read(ROOT / f"cluster/{name}.yaml")["available_node_types"]
    least_gb = {"head": 60, "cpu": 13 + 13 + 40, "gpu": 13 + 60, "gpu8": 65 + 100}
    assert set(types) == set(least_gb)
    for type_name, node_type in types.items():
        (size,) = re.findall(r'(?:VolumeSize|diskSizeGb|osDiskSize)": (\d+)', json.dumps(node_type))
        assert int(size) >= least_gb[type_name], type_name
        assert type_name == "head" or node_type["min_workers"] == (type_name == "cpu")


def test_the_four_files_set_nodes_up_and_start_ray_in_the_same_way():
    contents = [read(path) for path in CLUSTERS]
    for field in ("setup_commands", "worker_setup_commands", "worker_start_ray_commands", "file_mounts"):
        assert all(content[field] == contents[0][field] for content in contents), field
    starts = {
        content["head_start_ray_commands"][-1].replace(" --num-cpus=0 --num-gpus=0", "")
        for content in contents
    }
    assert len(starts) == 1


@by_name
def test_a_node_is_set_up_with_this_version_at_pinned_versions_and_every_shell_finds_ray(path):
    setup = "\n".join(read(path)["setup_commands"])
    assert "--constraint ~/gptoss-ray/constraints.txt" in setup
    assert f"~/gptoss-ray/dist/gptoss_ray-{VERSION}-*.whl" in setup
    assert "export PATH=~/gptoss-ray-env/bin:$PATH RAY_AUTH_MODE=token" in setup
    assert "~/.bashrc" in setup


@by_name
def test_a_lost_node_is_noticed_within_seconds_and_only_known_ports_are_used(path):
    content = read(path)
    head, worker = content["head_start_ray_commands"][-1], content["worker_start_ray_commands"][-1]
    number = {name: int(value) for name, value in re.findall(r"RAY_health_check_(\w+?)=(\d+)", head)}
    noticed_s = (number["period_ms"] + number["timeout_ms"]) * number["failure_threshold"] / 1000
    assert 15 <= noticed_s <= 21, "a busy node has time to answer"
    for option in ("--node-manager-port", "--object-manager-port", "--min-worker-port", "--max-worker-port"):
        assert option in head
        assert option in worker
    assert "--dashboard-host=127.0.0.1" in head


# KubeRay


def objects(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def of_kind(path: Path, kind: str) -> dict[str, Any]:
    (found,) = [found for found in objects(path) if found["kind"] == kind]
    return found


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_a_manifest_has_all_that_its_kind_demands_and_no_unknown_key(path):
    for found in objects(path):
        jsonschema.validate(found, KINDS[found["kind"]])


def test_a_misspelt_key_deep_in_a_manifest_is_found():
    service = of_kind(SERVICES[0], "RayService")
    container = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][
        0
    ]
    container["startupProb"] = container.pop("startupProbe")
    with pytest.raises(jsonschema.ValidationError, match="startupProb"):
        jsonschema.validate(service, KINDS["RayService"])


@pytest.mark.skipif(
    CRD_VARIABLE not in os.environ, reason=f"{CRD_VARIABLE} names no file of KubeRay's own CRD"
)
@by_service
def test_a_service_passes_kuberays_own_schema(path):
    versions = read(Path(os.environ[CRD_VARIABLE]))["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(of_kind(path, "RayService"), _closed(schema))


def _closed(schema: Any) -> Any:
    """Return a schema that refuses unknown keys, as Kubernetes does with `fieldValidation=Strict`."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {name: _closed(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    return closed


@by_service
def test_a_service_serves_a_configuration_that_we_accept_and_that_asks_for_keys(path, tmp_path):
    file = serve_file(path, tmp_path)
    assert file.schema.http_options.host == "0.0.0.0"
    assert file.proxy_environment["GPTOSS_RAY_GRPC_HOST"] == "0.0.0.0"
    assert file.serving.needs_key
    assert not file.serving.allow_unauthenticated
    folder = str(Path(file.serving.api_keys_file or "").parent)
    for pod in pods(path):
        assert folder in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}


def serve_file(path: Path, folder: Path) -> ServeFile:
    config = folder / "serve.yaml"
    config.write_text(of_kind(path, "RayService")["spec"]["serveConfigV2"], encoding="utf-8")
    return ServeFile.read(config)


def pods(path: Path) -> list[dict[str, Any]]:
    """The head's pod and then the workers'."""
    cluster = of_kind(path, "RayService")["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@by_service
def test_the_ranks_of_a_service_fit_its_workers_and_its_weights_are_there_first(path, tmp_path):
    file = serve_file(path, tmp_path)
    cluster = of_kind(path, "RayService")["spec"]["rayClusterConfig"]
    workers = []
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        amounts = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        workers.append(NodeType(group["groupName"], amounts, group["maxReplicas"], "limits", "maxReplicas"))
        fetched = group["template"]["spec"]["initContainers"][-1]["command"][-1]
        assert fetched == file.serving.models[0].checkpoint
    assert cluster["headGroupSpec"]["rayStartParams"].items() >= {"num-cpus": "0", "num-gpus": "0"}.items()
    head = NodeType("head", {"CPU": 0, "GPU": 0}, 1, "", "")
    assert find_misfit(first_placements(file), head, workers, 99) is None


@by_service
def test_a_pod_has_time_to_start_and_what_it_mounts_and_points_to_exists(path):
    (redis,) = [found for found in objects(ROOT / "cluster/kuberay/redis.yaml") if found["kind"] == "Service"]
    address = of_kind(path, "RayService")["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"][
        "redisAddress"
    ]
    assert address == f"{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"
    head, *workers = pods(path)
    for pod, least_s in [(head, 300), *((worker, 1800) for worker in workers)]:
        probe = pod["containers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= least_s
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["image"].endswith(f"/gptoss-ray:{VERSION}")
        assert {"serve", "serve-grpc"} <= {port["name"] for port in pod["containers"][0]["ports"]}


@by_service
def test_a_budget_covers_the_workers_of_its_service_and_no_others(path):
    budget = of_kind(path, "PodDisruptionBudget")["spec"]
    cluster = of_kind(path, "RayService")["spec"]["rayClusterConfig"]
    wanted = budget["selector"]["matchLabels"].items()
    assert all(
        wanted <= group["template"]["metadata"]["labels"].items() for group in cluster["workerGroupSpecs"]
    )
    assert not wanted <= cluster["headGroupSpec"]["template"]["metadata"]["labels"].items()
    other = of_kind(next(other for other in SERVICES if other != path), "PodDisruptionBudget")["spec"]
    assert other["selector"] != budget["selector"]


def test_the_version_of_ray_is_everywhere_the_one_that_is_pinned():
    (pinned,) = re.findall(
        r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert metadata.version("ray") == pinned
    for path in SERVICES:
        assert of_kind(path, "RayService")["spec"]["rayClusterConfig"]["rayVersion"] == pinned


# Docker


def test_the_dockerfile_passes_hadolint_and_says_that_no_test_builds_it():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists() and shutil.which("hadolint") is None:
        pytest.skip("hadolint has no package for this platform")
    path = ROOT / "cluster/Dockerfile"
    done = subprocess.run(
        [hadolint if hadolint.exists() else "hadolint", path], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert "A linter (hadolint) checks this file in the tests; the tests do not build it." in head


def test_what_the_dockerfile_copies_is_here():
    text = (ROOT / "cluster/Dockerfile").read_text(encoding="utf-8")
    sources = [
        name for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE) for name in line.split()[:-1]
    ]
    assert sources
    assert all((ROOT / source).exists() for source in sources)
