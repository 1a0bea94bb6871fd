from __future__ import annotations

import pytest

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.summary import summarize
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.model import transformer as transformer_module
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.weights import AS_PUBLISHED, WeightFormat, unpacked_experts_fit, weigh
from tests.support.backends import TORCH

PACKED, UNPACKED = (WeightFormat.of_torch(TORCH, experts_packed=is_packed) for is_packed in (True, False))


@pytest.mark.parametrize(("name", "gigabytes"), [("gpt-oss-20b", 3.71), ("gpt-oss-120b", 5.00)])
def test_a_token_of_a_published_model_reads_the_known_bytes(name, gigabytes):
    """Computed from the published shapes: bfloat16 dense weights and four experts a layer."""
    read = weigh(ModelConfig.published(name), AS_PUBLISHED).read_bytes(4)
    assert round(read / 1e9, 2) == gigabytes


@pytest.mark.parametrize(("name", "gigabytes"), [("gpt-oss-20b", 13.76), ("gpt-oss-120b", 65.25)])
def test_a_published_model_weighs_what_its_checkpoint_does(name, gigabytes):
    """Sizes of the files on the Hugging Face hub; the rotary tables are not in them."""
    model = ModelConfig.published(name)
    held = weigh(model.replace(max_context=1), AS_PUBLISHED).held_bytes(model.num_experts)
    assert round(held / 1e9, 2) == gigabytes


def test_a_token_reads_what_the_summary_of_the_checkpoint_says(reader, tiny):
    embedding_row = tiny.hidden_size * 2
    assert weigh(tiny, AS_PUBLISHED).read_bytes(4) + embedding_row == summarize(reader).bytes_per_token


def test_the_engine_reads_its_unembedding_and_gates_in_float32(tiny):
    wide, narrow = weigh(tiny, PACKED), weigh(tiny, AS_PUBLISHED)
    num_gate_and_norm_values = tiny.num_layers * (
        tiny.num_experts * (tiny.hidden_size + 1) + 2 * tiny.hidden_size + tiny.num_attention_heads
    )
    num_wide = tiny.vocab_size * tiny.hidden_size + num_gate_and_norm_values + tiny.hidden_size
    assert wide.dense_bytes - narrow.dense_bytes == 2 * num_wide
    assert wide.expert_bytes == narrow.expert_bytes


def test_unquantized_experts_weigh_the_same_whatever_the_format_of_packed_ones():
    model = tiny_config(expert_format="unquantized")
    assert weigh(model, PACKED) == weigh(model, UNPACKED)
    assert weigh(model, PACKED) == weigh(tiny_config(), UNPACKED)


def test_native_kernels_read_less_than_torch_and_hold_experts_as_they_lie_on_disk():
    """Bytes that a decoded token reads, from the published shapes; biases take four bytes rather than two."""
    model = ModelConfig.published("gpt-oss-20b")
    for dense_weights, gigabytes in (("bfloat16", 3.71), ("int8", 2.57)):
        native = weigh(model, WeightFormat.of_native(EngineConfig(dense_weights=dense_weights)))
        assert round(native.read_bytes(4) / 1e9, 2) == gigabytes
        assert 1 < native.expert_bytes / weigh(model, AS_PUBLISHED).expert_bytes < 1.002


def test_experts_are_planned_unpacked_exactly_where_the_network_unpacks_them(reader, tiny, monkeypatch):
    num_bytes = 2 * tiny.num_layers * tiny.num_experts * 3 * tiny.intermediate_size * tiny.hidden_size
    for memory_bytes in (2 * num_bytes - 2, 2 * num_bytes):
        monkeypatch.setattr(transformer_module, "host_memory_bytes", lambda size=memory_bytes: size)
        kernels = Transformer.load(reader, TORCH).kernels
        assert isinstance(kernels, ReferenceKernels)
        is_unpacked = unpacked_experts_fit(tiny, tiny.num_experts, 2, memory_bytes)
        assert kernels.unpacks_mxfp4 == is_unpacked == (memory_bytes == 2 * num_bytes)
