from __future__ import annotations

import pytest

from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.hardware import ACCELERATORS, ETHERNET, find_accelerator, find_network
from gptoss_ray.planner.this_machine import measure


def test_presets_are_found_by_name_in_any_case():
    assert find_accelerator("H200") is ACCELERATORS["h200"]
    assert find_network("100GbE", ACCELERATORS["h200"]) is ETHERNET


def test_nvlink_between_nodes_is_the_accelerators_own():
    assert find_network("nvlink", ACCELERATORS["b200"]).bytes_per_s == 900e9


def test_unknown_presets_are_refused_with_the_choices():
    with pytest.raises(ConfigError, match="'b300'; choose from a100, h100, h200, b200, cpu"):
        find_accelerator("b300")
    with pytest.raises(ConfigError, match="choose from nvlink, infiniband, 100gbe"):
        find_network("modem", ACCELERATORS["a100"])


def test_ranks_on_one_machine_share_its_memory():
    machine = measure(1000, num_ranks=2)
    assert machine.memory_bytes == 500
    assert machine.usable_bytes == 450
    assert min(machine.memory_bytes_per_s, machine.flops, machine.link.bytes_per_s) > 0
