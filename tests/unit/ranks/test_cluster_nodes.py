from __future__ import annotations

import pytest

from gptoss_ray.errors import UnavailableError
from gptoss_ray.ranks import cluster_nodes
from gptoss_ray.serving.free_ports import free_ports


@pytest.mark.parametrize("address", [f"127.0.0.1:{free_ports(1)[0]}", "nonsense"])
def test_an_address_where_nothing_answers_is_refused_at_once(address):
    with pytest.raises(UnavailableError, match="no Ray cluster answers"):
        cluster_nodes.connect(address)


def test_what_a_dead_cluster_of_this_machine_left_behind_is_no_cluster(monkeypatch):
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setattr(cluster_nodes, "canonicalize_bootstrap_address", lambda address: dead)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not cluster_nodes.connect("auto")
    monkeypatch.setenv("RAY_ADDRESS", dead)
    with pytest.raises(UnavailableError, match=dead):
        cluster_nodes.connect("auto")


def test_this_machine_has_a_cpu_or_more():
    assert cluster_nodes.this_machine().amounts["CPU"] >= 1
