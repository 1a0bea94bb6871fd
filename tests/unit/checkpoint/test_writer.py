import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open

from gptoss_ray.checkpoint.layout import stored_tensors
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.checkpoint.writer import write_stored, write_tensors
from gptoss_ray.errors import CheckpointError


def test_safetensors_itself_reads_what_we_write(folder):
    ours = CheckpointReader.open(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    with safe_open(folder / index["weight_map"]["lm_head.weight"], framework="pt") as file:
        assert torch.equal(file.get_tensor("lm_head.weight"), ours.read("unembedding.weight"))
        assert file.metadata() == {"format": "pt"}
    assert index["metadata"]["total_size"] == sum(ours.num_bytes_of(name) for name in ours.names())


def test_a_failure_leaves_no_file_behind(tmp_path, config):
    def produce(stored, dtype):
        if stored.name == "lm_head.weight":
            raise OSError(28, "No space left on device")
        yield torch.zeros(stored.shape, dtype=dtype)

    with pytest.raises(CheckpointError, match="No space left on device"):
        write_stored(tmp_path / "x", config, produce, max_shard_bytes=100_000)
    assert list((tmp_path / "x").iterdir()) == []


def test_a_checkpoint_is_never_overwritten(folder, config):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        write_checkpoint(folder, config)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_tensor_of_the_wrong_shape_is_refused(tmp_path, folder, config):
    reader = CheckpointReader.open(folder)
    tensors = {name: reader.read(name) for name in reader.names()}
    tensors["final_norm.weight"] = torch.ones(7)
    with pytest.raises(ValueError, match=r"model\.norm\.weight has shape \[7\]"):
        write_tensors(tmp_path / "x", config, tensors)


def test_a_large_tensor_is_written_in_chunks_that_fit_in_memory(tmp_path):
    config = tiny_config(num_layers=1, vocab_size=300_000)
    done = [0]
    write_checkpoint(tmp_path, config, progress=lambda now, total: done.append(now))
    steps = [after - before for before, after in pairwise(done)]
    assert sum(steps) == sum(
        math.prod(tensor.shape) * (1 if tensor.dtypes == ("U8",) else 2)
        for tensor in stored_tensors(config, "huggingface")
    )
    assert max(steps) <= 1 << 25


def test_shards_hold_aligned_tensors_in_the_order_of_the_network(tmp_path):
    config = tiny_config(num_experts=5, num_experts_per_token=1, num_layers=3)
    write_checkpoint(tmp_path, config, max_shard_bytes=100_000)
    reader = CheckpointReader.open(tmp_path)
    for name in reader.names():
        tensor = reader.read(name)
        assert tensor.data_ptr() % tensor.element_size() == 0
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    order = [weight_map[tensor.name] for tensor in stored_tensors(config, "huggingface")]
    assert order == sorted(order)


def test_the_published_shape_is_planned_in_shards_of_five_gigabytes():
    from gptoss_ray.checkpoint.writer import MAX_SHARD_BYTES, _plan_shards

    tensors = stored_tensors(ModelConfig.published("gpt-oss-20b"), "huggingface")
    assert list(_plan_shards(tensors, torch.bfloat16, MAX_SHARD_BYTES)) == [
        f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    ]
