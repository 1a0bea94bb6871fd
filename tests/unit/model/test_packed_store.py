from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.errors import ConfigError
from gptoss_ray.model import packed_store
from gptoss_ray.model.packed_identity import PackedIdentity
from gptoss_ray.model.packed_store import InMemoryStore, PackedStore
from tests.support.packed_parts import IDENTITY, are_equal, fill, tensors_of_a_part
from tests.support.resident_memory import mapped_kib

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is resident")
as_root = hasattr(os, "geteuid") and os.geteuid() == 0


class Build:
    """Makes a part and counts how often."""

    def __init__(self, tensors=None):
        self.tensors = tensors or tensors_of_a_part()
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.tensors


def never():
    raise AssertionError("the part was built again")


def assert_equal(found, expected):
    assert are_equal(found, expected), f"{found} is not {expected}"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "packed"


@pytest.fixture
def store(folder):
    return PackedStore.open(folder, IDENTITY, {"layers.0.attention": 1000})


def only_file(store, name="layers.0.attention"):
    files = list(store.folder.glob("*.safetensors"))
    assert [path.name for path in files] == [f"{name}.safetensors"]
    return files[0]


def test_a_part_is_built_once_and_mapped_by_every_later_start(store, folder):
    build = Build()
    assert_equal(store.get("layers.0.attention", build), build.tensors)
    assert build.count == 1
    assert_equal(store.get("layers.0.attention", never), build.tensors)
    again = PackedStore.open(folder, IDENTITY, {"layers.0.attention": 1000})
    assert_equal(again.get("layers.0.attention", never), build.tensors)


def test_every_tensor_is_contiguous_and_begins_on_64_bytes_in_memory(store):
    for tensors in (store.get("a", Build()), store.get("a", never)):
        for name, tensor in tensors.items():
            assert tensor.is_contiguous()
            assert name == "none" or tensor.data_ptr() % 64 == 0


def test_what_get_returns_is_the_file_and_not_the_built_copy(store):
    build = Build()
    tensors = store.get("a", build)
    assert (
        len({tensor.untyped_storage().data_ptr() for name, tensor in tensors.items() if name != "none"}) == 1
    )
    build.tensors["codes"].zero_()
    assert tensors["codes"].any()


def test_writing_to_a_tensor_never_changes_the_file(store):
    store.get("a", Build())["codes"].zero_()
    assert_equal(store.get("a", never), tensors_of_a_part())


def test_the_file_is_plain_safetensors(store):
    store.get("layers.0.attention", Build())
    found = load_file(only_file(store))
    assert_equal(
        {name: tensor for name, tensor in found.items() if not name.startswith("__")}, tensors_of_a_part()
    )


def test_tensors_outlive_store_and_file(store):
    tensors = store.get("a", Build())
    shutil.rmtree(store.folder)
    del store
    assert_equal(tensors, tensors_of_a_part())


def test_a_part_without_tensors_is_stored_as_well(store):
    assert store.get("a", dict) == {}
    assert store.get("a", never) == {}


@linux_only
def test_no_file_stays_open(store):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    held = [store.get(f"experts.{number}", Build()) for number in range(20)]
    held += [store.get(f"experts.{number}", never) for number in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert len(held) == 40


@linux_only
def test_a_stored_part_is_in_memory_when_it_is_returned_and_gone_with_its_last_tensor(store):
    large = {"a": torch.ones(8 << 20, dtype=torch.uint8), "b": torch.arange(1 << 20)}
    for build in (Build(large), never):
        tensors = store.get("large", build)
        path = only_file(store, "large")
        assert mapped_kib(path) == -(-path.stat().st_size // 4096) * 4 or build is not never
        assert_equal(tensors, large)
        del tensors
        assert mapped_kib(path, "Size") == 0


# Whose files they are


def test_version_format_and_checkpoint_make_an_identity_and_the_checkpoints_place_does_not():
    others = [
        PackedIdentity("/some/checkpoint", "e" * 64, "1", "int8"),
        PackedIdentity("/some/checkpoint", "f" * 64, "2", "int8"),
        PackedIdentity("/some/checkpoint", "f" * 64, "1", "bfloat16"),
    ]
    assert len({identity.digest for identity in (IDENTITY, *others)}) == 4
    assert PackedIdentity("/elsewhere", "f" * 64, "1", "int8").digest == IDENTITY.digest


def test_files_of_another_version_are_not_met(store, folder):
    store.get("a", Build())
    newer = PackedIdentity(IDENTITY.checkpoint, IDENTITY.fingerprint, "2", IDENTITY.dense_format)
    build = Build(tensors_of_a_part(seed=1))
    assert_equal(PackedStore.open(folder, newer, {"a": 1}).get("a", build), build.tensors)
    assert_equal(store.get("a", never), tensors_of_a_part())


def test_an_identity_is_of_the_checkpoints_contents(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        write_checkpoint(tmp_path / name, tiny_config(num_layers=1), seed=seed)
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copy2)
    one, two, copy = (
        PackedIdentity.of(CheckpointReader.open(tmp_path / name), packing_version=3, dense_format="bfloat16")
        for name in ("one", "two", "copy")
    )
    assert one.checkpoint == str(tmp_path / "one")
    assert one.digest == copy.digest != two.digest


def test_an_index_says_what_the_folder_belongs_to(store):
    index = json.loads((store.folder / "index.json").read_text())
    assert store.folder.name == IDENTITY.digest[:16]
    assert index["identity"] == IDENTITY.digest
    assert index["checkpoint"] == "/some/checkpoint"
    assert (index["packing_version"], index["dense_format"]) == ("1", "int8")
    assert "may be deleted" in index["about"]


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a..b", "A", "a\n", "a b"])
def test_a_name_that_is_no_plain_file_name_is_refused(store, name):
    with pytest.raises(ValueError, match="part name"):
        store.get(name, never)
    with pytest.raises(ValueError, match="part name"):
        PackedStore.open(store.folder.parent, IDENTITY, {name: 1})


@pytest.mark.parametrize("tensors", [{"__x": torch.ones(1)}, {"x": torch.ones(1, dtype=torch.complex64)}])
def test_a_tensor_that_cannot_be_stored_is_refused_and_leaves_no_file(store, tensors):
    with pytest.raises(ValueError, match="cannot be stored in a"):
        store.get("a", lambda: tensors)
    assert [path.name for path in store.folder.iterdir()] == ["index.json"]


# Damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_into_the_header(path):
    path.write_bytes(path.read_bytes()[:20])


def empty(path):
    path.write_bytes(b"")


def lose_a_page(path):
    data = bytearray(path.read_bytes())
    data[3 * 4096 : 4 * 4096] = bytes(4096)
    path.write_bytes(data)


def lose_the_first_page(path):
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])


def lose_the_last_bytes(path):
    path.write_bytes(path.read_bytes()[:-64] + bytes(64))


def append(path):
    path.write_bytes(path.read_bytes() + b"x")


def replace_by_another_part(path):
    PackedStore(path.parent, IDENTITY).get("other", Build(tensors_of_a_part(seed=2)))
    (path.parent / "other.safetensors").replace(path)


def replace_by_another_checkpoints(path):
    other = PackedIdentity("", "0" * 64, "1", "int8")
    store = PackedStore.open(path.parent.parent, other, {path.stem: 1})
    store.get(path.stem, Build(tensors_of_a_part(seed=2)))
    (store.folder / path.name).replace(path)


def replace_by_text(path):
    path.write_bytes(b"not safetensors at all, but longer than eight bytes")


DAMAGES = [
    cut,
    cut_into_the_header,
    empty,
    lose_a_page,
    lose_the_first_page,
    lose_the_last_bytes,
    append,
    replace_by_another_part,
    replace_by_another_checkpoints,
    replace_by_text,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("is_read_ahead", [False, True])
def test_a_damaged_file_is_built_again_with_one_line_that_names_it(store, damage, is_read_ahead, caplog):
    tensors = tensors_of_a_part() | {"large": torch.arange(1, 8 * 4096 + 100).to(torch.int32)}
    store.get("layers.0.attention", Build(tensors))
    path = only_file(store)
    damage(path)
    caplog.clear()
    build = Build(tensors)
    with store.reading_ahead(["layers.0.attention"] if is_read_ahead else []):
        assert_equal(store.get("layers.0.attention", build), tensors)
    assert build.count == 1
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(path) in warnings[0].getMessage()
    assert "\n" not in warnings[0].getMessage()
    assert_equal(store.get("layers.0.attention", never), tensors)


def test_a_file_that_the_disk_cannot_read_is_built_again(store, monkeypatch, caplog):
    store.get("a", Build())

    def fail(mapped):
        raise OSError(errno.EFAULT, "Bad address")

    with monkeypatch.context() as patch:
        patch.setattr("gptoss_ray.model.mapped_memory.read_in", fail)
        assert store._load("a") is None
    assert "Bad address" in caplog.text
    assert_equal(store.get("a", never), tensors_of_a_part())


def test_where_the_kernel_cannot_read_in_a_mapping_pages_come_when_touched(store, monkeypatch):
    store.get("a", Build())
    monkeypatch.setattr("gptoss_ray.model.mapped_memory.find_madvise", lambda: None)
    assert_equal(store.get("a", never), tensors_of_a_part())

    def old_kernel(address, num_bytes, advice):
        return -1 if advice > 20 else 0

    monkeypatch.setattr("gptoss_ray.model.mapped_memory.find_madvise", lambda: old_kernel)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)
    assert_equal(store.get("a", never), tensors_of_a_part())


# Disks that are full, read-only or gone


def assert_tells_what_to_do(error, folder, *words):
    assert error.param == "packed_weights"
    assert str(folder) in error.message
    assert "set packed_weights" in error.message
    for word in words:
        assert word in error.message


def test_too_little_room_is_refused_before_anything_is_built(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2_000_000_000))
    with pytest.raises(ConfigError) as caught:
        PackedStore.open(folder, IDENTITY, {"a": 1_500_000_000, "b": 1_500_000_000})
    assert_tells_what_to_do(caught.value, folder, "3.0 GB are to be written and 2.0 GB are free")
    PackedStore.open(folder, IDENTITY, {"a": 1_500_000_000}).get("a", Build())
    PackedStore.open(folder, IDENTITY, {"a": 1_500_000_000, "b": 1_500_000_000})  # a is there


def test_what_other_checkpoints_left_is_mentioned_where_room_is_short(store, folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))
    with pytest.raises(ConfigError, match=r"1 other folders in .* may be deleted"):
        PackedStore.open(folder, PackedIdentity("", "0", "1", "int8"), {"a": 1})


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        PackedStore.open(tmp_path / "file", IDENTITY, {"a": 1})
    assert_tells_what_to_do(caught.value, tmp_path / "file", "Not a directory")


@pytest.mark.skipif(as_root, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(folder):
    folder.mkdir(mode=0o500)
    with pytest.raises(ConfigError) as caught:
        PackedStore.open(folder, IDENTITY, {"a": 1})
    assert_tells_what_to_do(caught.value, folder, "Permission denied")


def fail_with(code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_a_read_only_disk_is_refused_unless_all_is_there(store, folder, monkeypatch):
    store.get("a", Build())
    monkeypatch.setattr("pathlib.Path.write_text", fail_with(errno.EROFS))
    monkeypatch.setattr(packed_store, "write_part", fail_with(errno.EROFS))
    with pytest.raises(ConfigError) as caught:
        PackedStore.open(folder, IDENTITY, {"a": 1, "b": 1})
    assert_tells_what_to_do(caught.value, folder, "Read-only file system")
    assert_equal(PackedStore.open(folder, IDENTITY, {"a": 1}).get("a", never), tensors_of_a_part())


def test_a_disk_that_fills_up_meanwhile_is_an_error_that_names_it_and_leaves_no_file(store, monkeypatch):
    monkeypatch.setattr(os, "writev", fail_with(errno.ENOSPC))
    with pytest.raises(ConfigError) as caught:
        store.get("a", Build())
    assert_tells_what_to_do(caught.value, store.folder, "No space left on device")
    assert [path.name for path in store.folder.iterdir()] == ["index.json"]


def test_a_build_that_fails_leaves_no_file(store):
    def build():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        store.get("a", build)
    assert [path.name for path in store.folder.iterdir()] == ["index.json"]


def test_a_disk_that_takes_little_at_a_time_gets_it_all(store, monkeypatch):
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda file, chunks: writev(file, [chunks[0][:37]]))
    store.get("a", Build())
    assert_equal(store.get("a", never), tensors_of_a_part())


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(store, folder):
    old, young = store.folder / ".a.1.00.tmp", store.folder / ".b.1.00.tmp"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (0, time.time() - 7200))
    PackedStore.open(folder, IDENTITY, {"a": 1})
    assert (old.exists(), young.exists()) == (False, True)


# Several at once


def test_processes_fill_a_store_together_and_nobody_sees_half_a_file(folder):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=fill, args=(folder, 40, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    store = PackedStore.open(folder, IDENTITY, {})
    for number in range(40):
        assert_equal(store.get(f"part.{number}", never), tensors_of_a_part(seed=number))
    assert not list(store.folder.glob(".*"))


def test_threads_get_the_same_part_at_once(store):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(store.get("a", tensors_of_a_part))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for tensors in results:
        assert_equal(tensors, tensors_of_a_part())


# Reading ahead


def test_parts_read_ahead_are_the_same_whatever_is_asked_for_and_in_which_order(store):
    names = [f"part.{number}" for number in range(10)]
    for number, name in enumerate(names):
        if number != 7:
            store.get(name, Build(tensors_of_a_part(number)))
    build = Build(tensors_of_a_part(7))
    with store.reading_ahead(names):
        for number in (9, 0, 3, 7, 1):
            tensors = store.get(names[number], build if number == 7 else never)
            assert_equal(tensors, tensors_of_a_part(number))
        assert_equal(store.get(names[0], never), tensors_of_a_part(0))
    assert build.count == 1
    assert_equal(store.get(names[2], never), tensors_of_a_part(2))


def test_a_part_that_another_process_made_since_it_was_looked_for_is_not_built_again(store, folder):
    with store.reading_ahead(["a"]):
        store._ahead["a"].exception()
        PackedStore(store.folder, IDENTITY).get("a", Build())
        assert_equal(store.get("a", never), tensors_of_a_part())


def test_a_load_that_fails_stops_the_reading_ahead(store, monkeypatch):
    loaded = []
    is_released = threading.Event()
    load = store._map

    def slow_load(name):
        loaded.append(name)
        is_released.wait(10)
        return load(name)

    monkeypatch.setattr(store, "_map", slow_load)
    names = [f"part.{number}" for number in range(50)]
    with pytest.raises(RuntimeError, match="stop"), store.reading_ahead(names):
        raise RuntimeError("stop")
    is_released.set()
    for thread in threading.enumerate():
        if thread.name.startswith("packed-weights"):
            thread.join(10)
    assert len(loaded) <= 4


def test_a_part_that_no_reader_has_begun_is_not_waited_for(store, monkeypatch):
    store.get("last", Build())
    is_released = threading.Event()
    load = store._map

    def load_in_turn(name):
        if name != "last":
            is_released.wait(10)
        return load(name)

    monkeypatch.setattr(store, "_map", load_in_turn)
    with store.reading_ahead([*(f"slow.{number}" for number in range(8)), "last"]):
        assert_equal(store.get("last", never), tensors_of_a_part())
        is_released.set()


def test_a_store_in_memory_returns_what_is_built_every_time():
    store = InMemoryStore()
    build = Build()
    with store.reading_ahead(["a"]):
        assert store.get("a", build)["codes"] is build.tensors["codes"]
        store.get("a", build)
    assert build.count == 2


@pytest.mark.parametrize("num_large", [0, 1 << 18, (1 << 20) + 5])
def test_a_store_in_memory_may_copy_parts_to_huge_pages_where_they_are_the_same(num_large):
    tensors = tensors_of_a_part() | {"large": torch.arange(num_large), "last": torch.tensor([7])}
    copies = InMemoryStore(huge_pages=True).get("a", Build(tensors))
    assert_equal(copies, tensors)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in copies.values() if tensor.numel() and num_large)
