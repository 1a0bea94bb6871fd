"""transformers' side of `bench gpu --transformers`, on a CPU and in small; on a card it has never run."""

from __future__ import annotations

import sys

import pytest
import torch

from gptoss_ray.bench import transformers_model, transformers_under_test
from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
from gptoss_ray.bench.engine_cases import DecodeCase, EngineUnderTest
from gptoss_ray.bench.transformers_comparison import compare
from gptoss_ray.bench.transformers_under_test import PeerUsages, TransformersUnderTest
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import ConfigError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import FLOAT32
from tests.support.engine_runs import run, small_config
from tests.support.transformers_oracle import Oracle

CPU = torch.device("cpu")
MODEL = tiny_config(num_layers=4, max_context=1024, eos_token_ids=(3,), pad_token_id=4)
CHECKPOINT = DeviceCheckpoint(MODEL, CPU, seed=7)
USAGES = PeerUsages.on(CPU, "bfloat16", has_hub_kernels=False)
ON_CARDS = PeerUsages.on(torch.device("cuda"), "bfloat16", has_hub_kernels=False)
# Flex attention has no sinks on CPUs.
WAYS = [usage for usage in ON_CARDS.decode if usage.attention == "eager"]


@pytest.fixture(scope="module")
def network():
    return transformers_model.build(CHECKPOINT, CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def transformer():
    return Transformer.load(CHECKPOINT, FLOAT32)


def engine_of(transformer) -> Engine:
    return Engine(transformer, small_config(kv_cache_bytes=1 << 22, prefix_cache=False))


def greedy(transformer, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens)
    requests = [GenerationRequest(str(i), tuple(prompt), params) for i, prompt in enumerate(prompts)]
    answers = run(engine_of(transformer), requests)
    return [list(answers[str(i)].token_ids) for i in range(len(prompts))]


@pytest.mark.parametrize("usage", WAYS, ids=str)
def test_both_sides_have_the_same_weights_and_so_draw_the_same_tokens(network, transformer, usage):
    prompts = torch.randint(MODEL.vocab_size, (6, 50), generator=torch.Generator().manual_seed(1))
    theirs = TransformersUnderTest(network)
    theirs.use(usage)
    drawn, moments = theirs.generate(prompts, 24)
    assert drawn.tolist() == greedy(transformer, prompts.tolist(), 24)
    assert len(moments) == 1 + 24
    assert moments == sorted(moments)


def test_a_prompt_that_is_read_in_chunks_is_answered_alike(network, monkeypatch):
    prompts = torch.randint(MODEL.vocab_size, (2, 70))
    theirs = TransformersUnderTest(network)
    whole, _ = theirs.generate(prompts, 8)
    monkeypatch.setattr(transformers_under_test, "CHUNK_TOKENS", 16)
    assert torch.equal(theirs.generate(prompts, 8)[0], whole)


def test_weights_are_those_that_transformers_reads_from_files(tmp_path):
    write_checkpoint(tmp_path, MODEL, seed=2)
    built = transformers_model.build(CheckpointReader.open(tmp_path), CPU, dtype=torch.float32).state_dict()
    expected = Oracle(tmp_path).model.state_dict()
    assert set(built) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(built[name], tensor, rtol=0, atol=0, msg=name)


def test_it_generates_on_after_what_would_stop_a_chat(network):
    prompt = torch.randint(MODEL.vocab_size, (1, 20))
    first = int(TransformersUnderTest(network).generate(prompt, 1)[0])
    checkpoint = DeviceCheckpoint(MODEL.replace(eos_token_ids=(first,)), CPU, seed=7)
    other = transformers_model.build(checkpoint, CPU, dtype=torch.float32)
    drawn, _ = TransformersUnderTest(other).generate(prompt, 5)
    assert drawn.shape == (1, 5)
    assert drawn[0, 0] == first


@pytest.mark.parametrize("usage", WAYS, ids=str)
@pytest.mark.parametrize("context", [1, 2, 40])
def test_as_many_steps_are_timed_as_were_asked_for(network, usage, context, monkeypatch):
    monkeypatch.setattr(transformers_under_test, "_FILL_TOKENS", 16)
    theirs = TransformersUnderTest(network)
    theirs.use(usage)
    seconds = theirs.steps(DecodeCase(3, context), 5)
    assert len(seconds) == 5
    assert all(each > 0 for each in seconds)


def test_a_cache_of_noise_stands_behind_all_tokens_but_the_last(network, monkeypatch):
    seen = []
    generate = network.generate

    def watch(token_ids, **options):
        cache = options["past_key_values"]
        seen.append((token_ids.shape, cache.get_seq_length(), cache.layers[1].keys.float().std()))
        return generate(token_ids, **options)

    monkeypatch.setattr(network, "generate", watch)
    TransformersUnderTest(network).steps(DecodeCase(3, 41), 2)
    ((shape, length, spread),) = seen
    assert shape == (3, 41)
    assert length == 40
    assert 0.9 < spread < 1.1


def test_a_whole_comparison_runs_on_a_cpu(network, transformer):
    steps = compare(
        EngineUnderTest(engine_of(transformer), MODEL, fills_contexts=False),
        TransformersUnderTest(network),
        prompts=(60,),
        cases=(DecodeCase(3, 40),),
        usages=USAGES,
        num_rounds=2,
        num_steps=4,
    )
    for step in steps:
        assert step.trial.failures == {}
        assert len(step.ours_s) == len(step.theirs_s) == 2
        assert min(*step.ours_s, *step.theirs_s) > 0


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"gptoss-ray\[dev\]"):
        transformers_model.check_installed("bfloat16")


def test_packed_experts_need_the_package_of_the_hubs_kernels(monkeypatch):
    monkeypatch.setattr(transformers_model, "has_hub_kernels", lambda: False)
    with pytest.raises(ConfigError, match=r"transformers\[kernels\]"):
        transformers_model.check_installed("mxfp4")
    assert transformers_model.check_installed("bfloat16")


def test_packed_experts_are_handed_to_the_hubs_kernels_and_all_else_is_filled(monkeypatch):
    """The kernels need a card; that they are called as transformers calls them is what can be seen here."""
    from transformers.integrations import mxfp4
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

    packed = {}

    def replace(network, quantization_config):
        for name, module in list(network.named_modules()):
            if isinstance(module, GptOssMLP):
                with torch.device("meta"):
                    experts = mxfp4.Mxfp4GptOssExperts(network.config)
                network.set_submodule(name, mxfp4.Mxfp4GptOssMLP(module.router, experts))

    def swizzle(blocks, scales, module, matrix, device, hub):
        assert hub == "the hub's kernels"
        packed[len(packed)] = (matrix, blocks.shape, scales.shape, blocks[3, 0, 0].tolist())
        del module._parameters[matrix]

    monkeypatch.setattr(mxfp4, "replace_with_mxfp4_linear", replace)
    monkeypatch.setattr(mxfp4, "swizzle_mxfp4_convertops", swizzle)
    monkeypatch.setattr(mxfp4, "triton_kernels_hub", "the hub's kernels", raising=False)
    network = transformers_model.build(CHECKPOINT, CPU, experts="mxfp4")
    assert [matrix for matrix, *_ in packed.values()] == ["gate_up_proj", "down_proj"] * 4
    wanted = CHECKPOINT.read("layers.0.experts.gate_up.blocks", slice(3, 4))[0, 0, 0].tolist()
    assert packed[0] == ("gate_up_proj", (8, 128, 2, 16), (8, 128, 2), wanted)
    bias = network.model.layers[1].mlp.experts.down_proj_bias
    assert bias.dtype == torch.float32
    expected = CHECKPOINT.read("layers.1.experts.down.bias", slice(2, 3))[0]
    assert torch.equal(bias[2], expected.float())
    assert torch.equal(network.lm_head.weight, CHECKPOINT.read("unembedding.weight"))
