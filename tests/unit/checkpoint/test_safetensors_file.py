import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.safetensors_file import read_header
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.checkpoint.verify import verify_checkpoint
from gptoss_ray.errors import CheckpointError


def write(path, header, data=b"\0" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, dtype="U8", shape=None):
    return {
        "dtype": dtype,
        "shape": shape if shape is not None else [end - begin],
        "data_offsets": [begin, end],
    }


@pytest.mark.parametrize(
    ("header", "tensor", "problem"),
    [
        ({"a": entry(0, 40), "b": entry(32, 64)}, "b", "overlap a"),
        ({"a": entry(0, 64), "b": entry(0, 64)}, "b", "overlap a"),
        ({"a": entry(0, 16), "b": entry(32, 64)}, "b", "a gap of 16 bytes"),
        ({"a": entry(0, 32)}, None, "its last 32 bytes belong to no tensor"),
        ({"a": entry(0, 65)}, "a", "truncated: its data ends at byte"),
        ({"a": entry(0, 64, "F32", [17])}, "a", "span 64 bytes, but F32 [17] needs 68"),
        ({"a": entry(0, 64, "F32", [1 << 40, 1 << 40])}, "a", "needs"),
        ({"a": entry(0, 64, "X9")}, "a", "unknown dtype 'X9'"),
        ({"a": entry(0, 64, "U8", [-64])}, "a", "bad shape"),
        ({"a": entry(0, 64, "U8", [True])}, "a", "bad shape"),
        ({"a": entry(0, 64) | {"data_offsets": [64, 0]}}, "a", "out-of-range offsets"),
        ({"a": entry(0, 64) | {"data_offsets": [-8, 56]}}, "a", "out-of-range offsets"),
        ({"a": entry(0, 64) | {"data_offsets": [0, 1 << 70]}}, "a", "out-of-range offsets"),
        ({"a": 5}, "a", "not an object"),
        (b'{"a": 1, "a": 2}', None, "the name a appears twice"),
        (b"[1]", None, "not an object"),
        (b"\xff\xfe", None, "not UTF-8"),
        (b"[" * 50_000, None, "nested too deeply"),
        (b"{" + b"9" * 5000, None, "bad header"),
    ],
)
def test_a_wrong_header_is_a_defect_that_names_the_tensor(tmp_path, header, tensor, problem):
    found = read_header(write(tmp_path / "x.safetensors", header)).defects
    assert [(defect.file, defect.tensor) for defect in found] == [("x.safetensors", tensor)]
    assert problem in found[0].problem


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "too short for a header"),
        (b"\x01\0\0", "too short for a header"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "the limit is 100000000"),
        ((1000).to_bytes(8, "little") + b"{}", "the header needs 1008"),
    ],
)
def test_a_cut_file_is_a_defect(tmp_path, data, problem):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    (defect,) = read_header(path).defects
    assert problem in defect.problem


def test_a_name_that_could_steer_a_terminal_is_printed_harmlessly(tmp_path):
    (defect,) = read_header(write(tmp_path / "x.safetensors", {"\x1b[2J\ud800": 5})).defects
    assert str(defect).isprintable()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_checkpoint(folder, tiny_config(num_layers=1, hidden_size=32, intermediate_size=32, vocab_size=64))
    return folder, (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_bytes()


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), min_size=1, max_size=4), st.booleans())
def test_flipped_bytes_give_defects_and_nothing_else(checkpoint, flips, hits_config):
    folder, shard, config = checkpoint
    data = bytearray(config if hits_config else shard)
    for position, mask in flips:
        data[position % len(data)] ^= mask
    (folder / "model.safetensors").write_bytes(shard if hits_config else data)
    (folder / "config.json").write_bytes(data if hits_config else config)
    defects = [defect for defect in verify_checkpoint(folder, fast=True) if defect.file != "tokenizer.json"]
    assert all(str(defect).isprintable() for defect in defects)
    if defects:
        with pytest.raises(CheckpointError):
            CheckpointReader.open(folder)
    else:
        reader = CheckpointReader.open(folder)
        assert all(reader.read(name).shape for name in reader.names())
