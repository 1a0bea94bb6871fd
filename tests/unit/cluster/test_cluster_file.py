from __future__ import annotations

import pytest

from gptoss_ray.cluster.cluster_file import ClusterFile
from gptoss_ray.errors import ConfigError
from tests.support.cluster_files import cloud_file, local_file


def test_node_types_are_the_head_and_the_others_with_their_limits(tmp_path):
    cluster = ClusterFile.read(cloud_file(tmp_path))
    assert (cluster.head.name, cluster.head.max_nodes, cluster.head.amounts) == ("head", 1, {"CPU": 0})
    found = {type_.name: (type_.amounts, type_.max_nodes) for type_ in cluster.workers}
    assert found == {"cpu": ({"CPU": 16}, 2), "gpu": ({"CPU": 32, "GPU": 8}, 2)}


def test_a_type_without_a_limit_has_that_of_all(tmp_path):
    types = {
        "head": {"resources": {"CPU": 0}, "node_config": {}},
        "cpu": {"resources": {"CPU": 16}, "node_config": {}},
    }
    (cpu,) = ClusterFile.read(cloud_file(tmp_path, available_node_types=types, max_workers=7)).workers
    assert cpu.max_nodes == 7


def test_machines_of_your_own_hold_what_ray_start_is_told(tmp_path):
    cluster = ClusterFile.read(local_file(tmp_path, start_options="--num-cpus=64 --num-gpus 8"))
    assert cluster.head.amounts == {"CPU": 0, "GPU": 0}
    (worker,) = cluster.workers
    assert (worker.amounts, worker.max_nodes) == ({"CPU": 64, "GPU": 8}, 2)


@pytest.mark.parametrize(
    "options", ["", "--num-cpus=64", "--num-cpus=64 --num-gpus=$(nvidia-smi -L | wc -l)"]
)
def test_machines_of_your_own_hold_something_unknown_where_ray_finds_out_itself(tmp_path, options):
    (worker,) = ClusterFile.read(local_file(tmp_path, start_options=options)).workers
    assert worker.amounts is None


def test_the_port_of_the_head_is_what_its_start_command_says(tmp_path):
    assert ClusterFile.read(local_file(tmp_path)).head_port == 6400
    assert ClusterFile.read(cloud_file(tmp_path)).head_port == 6379


def test_a_head_type_that_does_not_exist_is_told_with_its_line(tmp_path):
    with pytest.raises(
        ConfigError, match=r"line 5: head_node_type is heda, which .* name one of them \(head,"
    ):
        ClusterFile.read(cloud_file(tmp_path, head_node_type="heda"))


def test_a_field_of_the_wrong_kind_is_told_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"line 4: max_workers: .*got 'many'"):
        ClusterFile.read(cloud_file(tmp_path, max_workers="many"))
