import math

import pytest

from gptoss_ray.checkpoint.layout import canonical_shapes, stored_tensors
from gptoss_ray.checkpoint.model_config import ModelConfig

CONFIG = ModelConfig.published("gpt-oss-20b")


def shapes(layout):
    return {tensor.name: tensor.shape for tensor in stored_tensors(CONFIG, layout)}


def test_the_hugging_face_layout_has_the_published_names_and_shapes():
    found = shapes("huggingface")
    assert len(found) == 3 + 24 * 19
    layer = "model.layers.23."
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == (201088, 2880)
    assert found[layer + "self_attn.k_proj.weight"] == (512, 2880)
    assert found[layer + "self_attn.o_proj.weight"] == (2880, 4096)
    assert found[layer + "self_attn.sinks"] == (64,)
    assert found[layer + "mlp.router.weight"] == (32, 2880)
    assert found[layer + "mlp.experts.gate_up_proj_blocks"] == (32, 5760, 90, 16)
    assert found[layer + "mlp.experts.gate_up_proj_scales"] == (32, 5760, 90)
    assert found[layer + "mlp.experts.down_proj_bias"] == (32, 2880)


def test_the_original_layout_has_the_published_names_and_shapes():
    found = shapes("original")
    assert len(found) == 3 + 24 * 15
    assert found["block.0.attn.qkv.weight"] == (5120, 2880)
    assert found["block.0.attn.norm.scale"] == found["norm.scale"] == (2880,)
    assert found["block.0.mlp.gate.weight"] == (32, 2880)
    assert found["block.0.mlp.mlp1_weight.blocks"] == (32, 5760, 90, 16)
    assert found["block.0.mlp.mlp2_weight.scales"] == (32, 2880, 90)
    assert found["block.0.mlp.mlp1_bias"] == (32, 5760)
    assert found["unembedding.weight"] == (201088, 2880)


@pytest.mark.parametrize("layout", ["huggingface", "original"])
def test_every_layout_holds_each_of_our_tensors_once(layout):
    parts = [part for tensor in stored_tensors(CONFIG, layout) for part in tensor.parts]
    assert sorted(part.name for part in parts) == sorted(canonical_shapes(CONFIG))
    assert all(part.num_rows == canonical_shapes(CONFIG)[part.name][0] for part in parts)


def test_the_fused_qkv_is_three_row_ranges():
    (qkv,) = (
        tensor for tensor in stored_tensors(CONFIG, "original") if tensor.name == "block.5.attn.qkv.weight"
    )
    assert [(part.name.split(".")[3], part.first_row, part.num_rows) for part in qkv.parts] == [
        ("q", 0, 4096), ("k", 4096, 512), ("v", 4608, 512),
    ]  # fmt: skip


def test_the_20b_checkpoint_weighs_what_was_published():
    num_bytes = sum(
        math.prod(tensor.shape) * (1 if tensor.dtypes == ("U8",) else 2)
        for tensor in stored_tensors(CONFIG, "huggingface")
    )
    assert num_bytes == 13_761_264_768  # total_size of the published index
