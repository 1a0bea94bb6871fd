import shutil

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from gptoss_ray.checkpoint import mxfp4
from gptoss_ray.checkpoint.layout import canonical_shapes
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.checkpoint.writer import write_tensors
from gptoss_ray.errors import CheckpointError


def all_tensors(reader):
    return {name: reader.read(name) for name in reader.names()}


def test_every_tensor_has_our_name_shape_and_dtype(folder, config):
    reader = CheckpointReader.open(folder)
    tensors = all_tensors(reader)
    assert reader.config == config
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == canonical_shapes(config)
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.uint8 if name.endswith(("blocks", "scales")) else torch.bfloat16)


def test_both_layouts_of_one_model_read_the_same(folder, config, tmp_path):
    ours = all_tensors(CheckpointReader.open(folder))
    write_tensors(tmp_path / "original", config, ours, layout="original")
    original = CheckpointReader.open(tmp_path / "original")
    assert original.layout == "original"
    assert all(torch.equal(tensor, original.read(name)) for name, tensor in ours.items())


def test_reading_experts_4_to_8_touches_only_their_bytes(tmp_path):
    config = tiny_config(num_layers=1, num_experts=16)
    write_checkpoint(tmp_path, config)
    reader = CheckpointReader.open(tmp_path)
    whole = reader.read("layers.0.experts.gate_up.blocks").clone()
    before = reader.num_bytes_read
    part = reader.read("layers.0.experts.gate_up.blocks", slice(4, 8))
    assert torch.equal(part, whole[4:8])
    assert reader.num_bytes_read - before == part.nbytes == 4 * 128 * 2 * 16
    assert part.untyped_storage().nbytes() == part.nbytes  # a view of those bytes, not of the whole file


def test_a_range_of_a_fused_tensor_is_relative_to_our_tensor(folder, config, tmp_path):
    ours = all_tensors(CheckpointReader.open(folder))
    write_tensors(tmp_path / "original", config, ours, layout="original")
    reader = CheckpointReader.open(tmp_path / "original")
    assert torch.equal(
        reader.read("layers.1.attention.k.weight", slice(8, 24)), ours["layers.1.attention.k.weight"][8:24]
    )
    assert reader.num_bytes_read == 16 * 64 * 2


def test_empty_and_stepped_ranges(folder):
    reader = CheckpointReader.open(folder)
    assert reader.read("embedding.weight", slice(5, 5)).shape == (0, 64)
    assert reader.read("embedding.weight", slice(9, 2)).shape == (0, 64)
    with pytest.raises(ValueError, match="contiguous"):
        reader.read("embedding.weight", slice(0, 8, 2))
    with pytest.raises(KeyError):
        reader.read("layers.9.attention.q.weight")


def test_writing_into_a_tensor_never_changes_the_file(folder):
    CheckpointReader.open(folder).read("embedding.weight").zero_()
    assert CheckpointReader.open(folder).read("embedding.weight").any()


def test_a_tensor_that_is_not_aligned_is_read_all_the_same(folder, edit_header):
    expected = {name: tensor.clone() for name, tensor in all_tensors(CheckpointReader.open(folder)).items()}
    for path in folder.glob("*.safetensors"):
        edit_header(path, lambda header: header.update(__metadata__={"pad": ""}))
        length = int.from_bytes(path.read_bytes()[:8], "little")
        if length % 2 == 0:
            edit_header(path, lambda header: header.update(__metadata__={"pad": "x"}))
        assert int.from_bytes(path.read_bytes()[:8], "little") % 2 == 1
    assert all(
        torch.equal(tensor, expected[name])
        for name, tensor in all_tensors(CheckpointReader.open(folder)).items()
    )


def test_transformers_loads_what_we_write_with_the_same_values(tmp_path):
    config = tiny_config(num_layers=1)
    write_checkpoint(tmp_path, config)
    model = GptOssForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    theirs = model.model.layers[0].mlp.experts.gate_up_proj.transpose(1, 2).float()
    reader = CheckpointReader.open(tmp_path)
    blocks, scales = (reader.read(f"layers.0.experts.gate_up.{part}") for part in ("blocks", "scales"))
    assert torch.equal(theirs, mxfp4.dequantize(blocks, scales, torch.float32))


def test_unquantised_experts_of_transformers_are_read_in_our_orientation(tmp_path):
    settings = tiny_config(expert_format="unquantized", num_layers=1, intermediate_size=48).to_json(
        "huggingface"
    )
    model = GptOssForCausalLM(GptOssConfig(**settings))
    torch.nn.init.normal_(model.model.layers[0].mlp.experts.gate_up_proj)
    model.save_pretrained(tmp_path)
    reader = CheckpointReader.open(tmp_path)
    assert reader.has("layers.0.experts.gate_up.weight")
    assert not reader.has("layers.0.experts.gate_up.blocks")
    weight = reader.read("layers.0.experts.gate_up.weight", slice(2, 5))
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model.model.layers[0].mlp.experts.gate_up_proj[2:5].transpose(1, 2))
    assert reader.num_bytes_read == 3 * 96 * 64 * 4


def test_unquantised_experts_survive_writing_and_reading(tmp_path):
    config = tiny_config(expert_format="unquantized", num_layers=1)
    write_checkpoint(tmp_path / "a", config)
    ours = all_tensors(CheckpointReader.open(tmp_path / "a"))
    write_tensors(tmp_path / "b", config, ours, dtype=torch.float32)
    again = CheckpointReader.open(tmp_path / "b")
    assert all(torch.equal(tensor.float(), again.read(name)) for name, tensor in ours.items())


def test_a_corrupt_checkpoint_never_opens_and_the_tensor_is_named(folder, edit_header):
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    edit_header(path, lambda header: header["model.embed_tokens.weight"].update(shape=[32, 128]))
    with pytest.raises(CheckpointError, match=r"tensor model\.embed_tokens\.weight: wrong shape") as error:
        CheckpointReader.open(folder)
    assert error.value.param == "model.embed_tokens.weight"


def test_the_map_outlives_the_reader_and_the_file(folder):
    tensor = CheckpointReader.open(folder).read("final_norm.weight")
    expected = tensor.clone()
    shutil.rmtree(folder)
    assert torch.equal(tensor, expected)
