import os
from dataclasses import replace

import psutil
import pytest

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.rendezvous import (
    GLOO_INTERFACE,
    free_store_port,
    open_store,
    use_interface_towards,
)

FOREIGN_ADDRESS = "203.0.113.7"  # reserved for documentation: nobody has it


def membership(**changes):
    port = free_store_port("127.0.0.1")
    return replace(GroupMembership("group", 1, ("host",) * 2, "127.0.0.1", port), **changes)


def test_a_free_port_is_one_that_the_store_can_open():
    store = open_store(membership(), 0, timeout_s=5)
    store.set("key", "value")
    assert store.get("key") == b"value"


def test_ranks_of_one_epoch_share_the_store_and_those_of_another_epoch_or_group_meet_nobody():
    first = membership()
    hosted = open_store(first, 0, timeout_s=5)
    hosted.set("key", "value")
    assert open_store(first, 1, timeout_s=5).check(["key"])
    assert not open_store(replace(first, epoch=2), 1, timeout_s=5).check(["key"])
    assert not open_store(replace(first, group_id="other"), 1, timeout_s=5).check(["key"])


def test_a_taken_port_and_a_foreign_address_are_refused_by_name():
    first = membership()
    hosted = open_store(first, 0, timeout_s=5)
    with pytest.raises(GroupBrokenError, match=f"cannot listen on 127.0.0.1:{first.store_port}"):
        open_store(first, 0, timeout_s=5)
    with pytest.raises(GroupBrokenError, match=f"cannot listen on {FOREIGN_ADDRESS}"):
        free_store_port(FOREIGN_ADDRESS)
    del hosted


def test_gloo_connects_through_the_interface_that_reaches_the_store(monkeypatch):
    monkeypatch.setenv(GLOO_INTERFACE, "")  # so that the test's own setting is undone
    use_interface_towards(membership())
    addresses = psutil.net_if_addrs()[os.environ[GLOO_INTERFACE]]
    assert "127.0.0.1" in {address.address for address in addresses}


def test_an_interface_that_the_operator_named_is_kept(monkeypatch):
    monkeypatch.setenv(GLOO_INTERFACE, "ib0")
    use_interface_towards(membership())
    assert os.environ[GLOO_INTERFACE] == "ib0"


def test_an_address_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv(GLOO_INTERFACE, "")
    with pytest.raises(GroupBrokenError, match="no route to the group's store at not an address"):
        use_interface_towards(membership(store_host="not an address"))
