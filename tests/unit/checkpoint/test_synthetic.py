import torch
from transformers import GptOssForCausalLM

from gptoss_ray.checkpoint import mxfp4
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint


def read_all(folder):
    reader = CheckpointReader.open(folder)
    return {name: reader.read(name) for name in reader.names()}


def test_a_seed_gives_one_model_in_any_layout_and_sharding(tmp_path):
    config = tiny_config(num_layers=2)
    write_checkpoint(tmp_path / "a", config, seed=3)
    write_checkpoint(tmp_path / "b", config, seed=3, layout="original", max_shard_bytes=50_000)
    first, second = read_all(tmp_path / "a"), read_all(tmp_path / "b")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_another_seed_gives_another_model(tmp_path):
    config = tiny_config(num_layers=1)
    write_checkpoint(tmp_path / "a", config, seed=1)
    write_checkpoint(tmp_path / "b", config, seed=2)
    first, second = read_all(tmp_path / "a"), read_all(tmp_path / "b")
    assert not any(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_experts_have_the_deviation_of_a_trained_matrix(tmp_path):
    config = tiny_config(num_layers=2, hidden_size=256, intermediate_size=128)
    write_checkpoint(tmp_path, config)
    tensors = read_all(tmp_path)
    for name, depth, residual in (("gate_up", 256, 1.0), ("down", 128, 0.5)):
        blocks, scales = (tensors[f"layers.0.experts.{name}.{part}"] for part in ("blocks", "scales"))
        deviation = mxfp4.dequantize(blocks, scales, torch.float32).std().item()
        assert 0.6 < deviation / (residual / depth**0.5) < 1.6


def test_logits_stay_of_order_one_in_depth_and_the_gate_uses_every_expert(tmp_path):
    config = tiny_config(num_layers=12, num_experts=16)
    write_checkpoint(tmp_path, config)
    model = GptOssForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    chosen = []
    for layer in model.model.layers:
        layer.mlp.router.register_forward_hook(lambda *call: chosen.append(call[2][2]))
    with torch.no_grad():
        logits = model(torch.arange(256).remainder(512)[None]).logits
    assert 0.3 < logits.std() < 3
    assert all(len(expert_ids.unique()) == 16 for expert_ids in chosen)
    assert len(chosen) == 12
