from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
CLUSTERS = sorted((ROOT / "cluster").glob("*.yaml"))

# In a process of its own: importing Ray's autoscaler warns, and Ray keeps state.
PREPARE = """
import json, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(yaml.safe_load(open(sys.argv[1])))
validate_config(config)
print(json.dumps(sorted(config["available_node_types"])))
"""

READ = """
import sys
from gptoss_ray.serving.serve_file import ServeFile
from gptoss_ray.serving.app import deployment_names
file = ServeFile.read(sys.argv[1])
overridden = {each.name for each in file.schema.applications[0].deployments}
assert overridden == set(deployment_names(file.serving)), overridden
deployments = file.schema.applications[0].deployments
scaled = {each.name for each in deployments if "autoscaling_config" in each.model_fields_set}
assert scaled == {"Ingress"}, scaled
assert all(model.scaling for model in file.serving.models)
callback = file.schema.controller_options.runtime_env["env_vars"]["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
from ray._common.utils import import_attr
assert callable(import_attr(callback))
from gptoss_ray.serving.ingress import GRPC_SERVICER_FUNCTIONS
functions = file.schema.grpc_options.grpc_servicer_functions
assert set(functions) == set(GRPC_SERVICER_FUNCTIONS), functions
for function in functions:
    assert callable(import_attr(function))
"""

# What the deployment of a file's first model asks of Ray.
PLACE = """
import json, sys
from gptoss_ray.serving.app import _engine_replica
from gptoss_ray.serving.serve_file import ServeFile
file = ServeFile.read(sys.argv[1])
replica = _engine_replica(file.serving, file.serving.models[0], None)._bound_deployment
(overrides,) = [d for d in file.schema.applications[0].deployments if d.name == replica.name]
config = replica._replica_config
print(json.dumps({
    "bundles": config.placement_group_bundles,
    "strategy": config.placement_group_strategy,
    "replica_cpus": config.ray_actor_options["num_cpus"],
    "health_check_period_s": overrides.health_check_period_s,
}))
"""

BUNDLES = {
    "both-models.yaml": [{"CPU": 8}],
    "demo.yaml": [{"CPU": 2}],
    "gpt-oss-20b.yaml": [{"CPU": 8}],
    "gpt-oss-20b-2ranks.yaml": [{"CPU": 16}],
    "gpt-oss-120b-8gpu.yaml": [{"GPU": 8}],
    "gpt-oss-120b-2nodes.yaml": [{"GPU": 8}, {"GPU": 8}],
}


def run(script: str, path: Path) -> str:
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_serve_file_is_whole_and_names_things_that_exist(path):
    run(READ, path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_group_gets_a_bundle_for_each_of_its_nodes_and_the_replica_takes_nothing(path):
    placed = json.loads(run(PLACE, path).splitlines()[-1])
    assert placed["bundles"] == BUNDLES[path.name]
    assert placed["strategy"] == ("STRICT_SPREAD" if len(placed["bundles"]) > 1 else "STRICT_PACK")
    assert placed["replica_cpus"] == 0
    assert placed["health_check_period_s"] <= 2, "three failed checks end a replica that lost a rank"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_file_for_gpus_says_first_that_it_has_never_run_there(path):
    head = path.read_text().split("\n\n")[0]
    is_gpu = any("GPU" in bundle for bundle in BUNDLES[path.name])
    assert ("NEVER RUN ON GPUS" in head) == is_gpu


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_a_cluster_file_passes_rays_own_validation(path):
    assert json.loads(run(PREPARE, path).splitlines()[-1])


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_every_node_of_a_cluster_demands_the_token(path):
    config = yaml.safe_load(path.read_text())
    starts = [
        command
        for commands in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[commands]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "0.0.0.0" not in path.read_text()


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_no_node_of_a_cluster_waits_a_second_for_a_process_that_is_lost(path):
    config = yaml.safe_load(path.read_text())
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    for variable in (
        "RAY_core_worker_rpc_server_reconnect_timeout_base_s=0",
        "RAY_grpc_client_check_connection_status_interval_milliseconds=100",
    ):
        assert [variable in start for start in starts] == [True, True]
