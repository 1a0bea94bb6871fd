"""Our network gives what transformers' GptOssForCausalLM gives, prompts longer than the window included."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig
from gptoss_ray.kernels import reference
from gptoss_ray.model import rotary_embedding
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import FLOAT32
from tests.support.paged import PagedSequences, whole_logits
from tests.support.transformers_oracle import Oracle, save_random_model

CONFIGS = {
    "as published, in small": tiny_config(max_context=1024),
    "one KV head, many experts": tiny_config(
        num_attention_heads=3, num_key_value_heads=1, num_experts=24, num_layers=2, max_context=1024
    ),
    "a KV head per head, 2 of 4 experts": tiny_config(
        num_attention_heads=4, num_key_value_heads=4, num_experts=4, num_experts_per_token=2, max_context=1024
    ),
    "other rotation, odd window, deep": tiny_config(
        num_layers=7,
        head_dim=32,
        sliding_window=11,
        rope_theta=5000.0,
        rope_scaling_factor=4.0,
        rope_original_context=64,
        rope_beta_fast=4.0,
        max_context=256,
    ),
    "wide experts, full layers only": tiny_config(
        hidden_size=96,
        intermediate_size=160,
        vocab_size=777,
        layer_types=("full_attention",) * 4,
        max_context=1024,
    ),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def random_tokens(config: ModelConfig, length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(config.vocab_size) for _ in range(length)]


def unquantized(config: ModelConfig, folder: Path) -> Path:
    save_random_model(config.replace(expert_format="unquantized"), folder, seed=len(config.layer_types))
    return folder


def load(folder: Path, engine: EngineConfig = FLOAT32) -> Transformer:
    return Transformer.load(CheckpointReader.open(folder), engine)


@each_config
def test_float32_logits_agree_on_prompts_longer_than_the_window(config, tmp_path):
    folder = unquantized(config, tmp_path)
    oracle, transformer = Oracle(folder), load(folder)
    for length in (1, 16, 100):
        tokens = random_tokens(config, length)
        expected = oracle.logits(tokens)
        assert expected.std() > 0.5
        assert (whole_logits(transformer, tokens) - expected).abs().max() < 1e-3


@each_config
def test_greedy_tokens_are_equal_on_forty_prompts(config, tmp_path):
    """Over the five configs, two hundred prompts."""
    folder = unquantized(config, tmp_path)
    num_new, length = 8, 33
    prompts = [random_tokens(config, length, seed) for seed in range(40)]
    paged = PagedSequences(load(folder), [prompt + [0] * num_new for prompt in prompts], block_size=32)
    logits = paged.run([(s, 0, length) for s in range(40)])[length - 1 :: length]
    for position in range(length, length + num_new):
        for sequence, token in zip(paged.sequences, logits.argmax(-1), strict=True):
            sequence[position] = token
        logits = paged.run([(s, position, position + 1) for s in range(40)])
    ours = [sequence[length:].tolist() for sequence in paged.sequences]
    assert ours == Oracle(folder).greedy(prompts, num_new)


@each_config
def test_mxfp4_checkpoints_load_to_the_same_network(config, tmp_path):
    write_checkpoint(tmp_path, config, seed=1)
    tokens = random_tokens(config, 60)
    expected = Oracle(tmp_path).logits(tokens)
    assert (whole_logits(load(tmp_path), tokens) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@each_config
def test_bfloat16_strays_no_further_from_float32_than_transformers_does(config, tmp_path, kernels):
    """Over three networks: in one, whether close experts of a token change places is a matter of luck."""
    ours, theirs = [], []
    for number in range(3):
        folder = tmp_path / str(number)
        write_checkpoint(folder, config, seed=2 + number)
        oracle, rounded_oracle = Oracle(folder), Oracle(folder, torch.bfloat16)
        transformer = load(folder, EngineConfig(kernels=kernels))
        for seed in range(8):
            tokens = random_tokens(config, 80, seed)
            exact = oracle.logits(tokens)
            ours.append((whole_logits(transformer, tokens) - exact).square().mean())
            theirs.append((rounded_oracle.logits(tokens) - exact).square().mean())
    ratio = (torch.stack(ours).mean() / torch.stack(theirs).mean()).sqrt()
    assert ratio <= 1.2


def test_rotation_agrees_far_behind_the_original_context(tmp_path):
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

    config = ModelConfig.published("gpt-oss-120b")
    positions = torch.tensor([0, 1, 127, 4095, 4096, 70000, 131071])
    theirs = GptOssRotaryEmbedding(GptOssConfig(**config.to_json("huggingface")))
    expected = theirs(torch.zeros(1), positions[None])
    for ours, wanted in zip(rotary_embedding.RotaryEmbedding(config).rows(positions), expected, strict=True):
        torch.testing.assert_close(ours, wanted[0], atol=1e-6, rtol=0)


def without_sinks(monkeypatch, transformer: Transformer) -> Transformer:
    for layer in transformer.layers:
        layer.attention.weights.sinks.fill_(-1e30)
    return transformer


def with_epsilon(monkeypatch, transformer: Transformer) -> Transformer:
    def norm(part):
        return dataclasses.replace(part, norm=dataclasses.replace(part.norm, eps=1e-2))

    layers = tuple(
        dataclasses.replace(
            layer,
            attention=dataclasses.replace(layer.attention, weights=norm(layer.attention.weights)),
            moe=norm(layer.moe),
        )
        for layer in transformer.layers
    )
    final_norm = dataclasses.replace(transformer.final_norm, eps=1e-2)
    return dataclasses.replace(transformer, layers=layers, final_norm=final_norm)


def with_config(**changes: object):
    """The network with another constant: one that switches a mechanism off."""

    def change(monkeypatch, transformer: Transformer) -> Transformer:
        return dataclasses.replace(transformer, config=transformer.config.replace(**changes))

    return change


SWIGLU = reference.swiglu


def with_swiglu(function):
    def change(monkeypatch, transformer: Transformer) -> Transformer:
        monkeypatch.setattr(reference, "swiglu", function)
        return transformer

    return change


def swiglu_without_one(gate_up, *, alpha, limit):
    gate, up = gate_up.chunk(2, dim=-1)
    return gate.clamp(max=limit) * torch.sigmoid(alpha * gate.clamp(max=limit)) * up.clamp(-limit, limit)


def swiglu_without_clamps(gate_up, *, alpha, limit):
    return SWIGLU(gate_up, alpha=alpha, limit=1e30)


def swiglu_with_halves_swapped(gate_up, *, alpha, limit):
    return SWIGLU(torch.cat(gate_up.chunk(2, dim=-1)[::-1], dim=-1), alpha=alpha, limit=limit)


def swiglu_of_interleaved_rows(gate_up, *, alpha, limit):
    interleaved = torch.cat((gate_up[:, 0::2], gate_up[:, 1::2]), dim=-1)
    return SWIGLU(interleaved, alpha=alpha, limit=limit)


def swiglu_with_plain_silu(gate_up, *, alpha, limit):
    return SWIGLU(gate_up, alpha=1.0, limit=limit)


def with_rotation(**changes: object):
    def change(monkeypatch, transformer: Transformer) -> Transformer:
        config = transformer.config.replace(**changes)
        return dataclasses.replace(transformer, rotary_embedding=rotary_embedding.RotaryEmbedding(config))

    return change


def without_concentration(monkeypatch, transformer: Transformer) -> Transformer:
    monkeypatch.setattr(rotary_embedding, "yarn_concentration", lambda factor: 1.0)
    rotation = rotary_embedding.RotaryEmbedding(transformer.config)
    return dataclasses.replace(transformer, rotary_embedding=rotation)


def without_biases(biases_of):
    """The network with some biases of every layer zero."""

    def change(monkeypatch, transformer: Transformer) -> Transformer:
        for layer in transformer.layers:
            for bias in biases_of(layer):
                bias.zero_()
        return transformer

    return change


def expert_biases(name: str):
    return lambda layer: [getattr(expert, name).bias for expert in layer.moe.experts.experts]


MUTATIONS = {
    "sinks": without_sinks,
    "window": with_config(sliding_window=1000),
    "window one shorter": with_config(sliding_window=15),
    "norm epsilon": with_epsilon,
    "concentration": without_concentration,
    "frequency scaling": with_rotation(rope_scaling_factor=1.0),
    "rotation": with_rotation(rope_theta=1e30),
    "swiglu one": with_swiglu(swiglu_without_one),
    "swiglu clamps": with_swiglu(swiglu_without_clamps),
    "swiglu order": with_swiglu(swiglu_with_halves_swapped),
    "swiglu interleave": with_swiglu(swiglu_of_interleaved_rows),
    "swiglu alpha": with_swiglu(swiglu_with_plain_silu),
    "gate bias": without_biases(lambda layer: [layer.moe.gate.bias]),
    "qkv bias": without_biases(lambda layer: [layer.attention.weights.qkv.bias]),
    "out bias": without_biases(lambda layer: [layer.attention.weights.out.bias]),
    "gate_up bias": without_biases(expert_biases("gate_up")),
    "down bias": without_biases(expert_biases("down")),
}


@pytest.fixture(scope="module")
def wild_folder(tmp_path_factory) -> Path:
    return unquantized(CONFIGS["as published, in small"], tmp_path_factory.mktemp("wild"))


@pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
def test_the_oracle_notices_when_a_mechanism_is_missing(mutate, wild_folder, monkeypatch):
    transformer = load(wild_folder)
    tokens = random_tokens(transformer.config, 100)
    expected = Oracle(wild_folder).logits(tokens)
    broken = whole_logits(mutate(monkeypatch, transformer), tokens)
    assert (broken - expected).abs().max() > 1e-2
