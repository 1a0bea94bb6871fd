from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.model.transformer import Transformer
from tests.support.backends import EACH_BACKEND, EACH_BFLOAT16_BACKEND, NATIVE, TORCH, needs_native
from tests.support.local_token_dispatcher import LocalTokenDispatcher
from tests.support.paged import PagedSequences, Piece, whole_logits
from tests.support.threads import torch_threads


def random_config(rng: random.Random) -> ModelConfig:
    """A tiny shape that exercises odd group sizes, one KV head, few or many experts; all backends take it."""
    kv_heads = rng.choice([1, 2, 3])
    num_heads = kv_heads * rng.choice([1, 3, 4])
    num_experts = rng.choice([4, 6, 16])
    return tiny_config(
        vocab_size=rng.choice([100, 301]),
        hidden_size=rng.choice([32, 64, 96]),
        intermediate_size=rng.choice([32, 96]),
        num_layers=rng.choice([2, 3]),
        num_attention_heads=num_heads,
        num_key_value_heads=kv_heads,
        head_dim=rng.choice([16, 32]) if num_heads % 2 == 0 else rng.choice([32, 64]),
        num_experts=num_experts,
        num_experts_per_token=rng.choice([1, 4]),
        sliding_window=rng.choice([1, 7, 16, 30]),
        max_context=256,
    )


def random_tokens(rng: random.Random, config: ModelConfig, longest: int) -> list[int]:
    return [rng.randrange(config.vocab_size) for _ in range(rng.randint(1, longest))]


def random_steps(rng: random.Random, lengths: list[int]) -> list[list[Piece]]:
    """Steps that bring every sequence to its end, each step with pieces of some sequences in any order."""
    done = [0] * len(lengths)
    steps = []
    while unfinished := [s for s, length in enumerate(lengths) if done[s] < length]:
        pieces = []
        for s in rng.sample(unfinished, rng.randint(1, len(unfinished))):
            end = min(lengths[s], done[s] + rng.choice([1, 1, 2, 15, 16, 17, 60]))
            pieces.append((s, done[s], end))
            done[s] = end
        steps.append(pieces)
    return steps


@pytest.mark.parametrize("engine", EACH_BACKEND)
@pytest.mark.parametrize("seed", range(4))
def test_a_token_has_the_same_logit_bits_whatever_the_batch_the_chunks_and_the_threads(
    open_checkpoint, seed, engine
):
    rng = random.Random(seed)
    config = random_config(rng)
    block_size = rng.choice([16, 32])
    reader = open_checkpoint(config, seed=seed)
    transformer = Transformer.load(reader, engine)
    sequences = [random_tokens(rng, config, 80) for _ in range(rng.randint(2, 8))]
    with torch_threads(1):
        alone = [whole_logits(transformer, tokens, block_size=block_size) for tokens in sequences]
    for num_threads in (1, 2):
        transformer = Transformer.load(reader, engine.model_copy(update={"num_threads": num_threads}))
        paged = PagedSequences(transformer, sequences, block_size=block_size, seed=rng.randrange(1000))
        with torch_threads(num_threads):
            for pieces in random_steps(rng, [len(tokens) for tokens in sequences]):
                logits = paged.run(pieces)
                expected = torch.cat([alone[s][start:end] for s, start, end in pieces])
                assert torch.equal(logits, expected), (num_threads, pieces)


@pytest.mark.parametrize("engine", EACH_BFLOAT16_BACKEND)
def test_the_layers_of_the_published_width_keep_law_1(open_checkpoint, engine):
    config = ModelConfig.published("gpt-oss-20b").replace(
        num_layers=1, vocab_size=64, num_experts=4, max_context=256, eos_token_ids=(), pad_token_id=None
    )
    transformer = Transformer.load(open_checkpoint(config), engine)
    rng = random.Random(0)
    sequences = [[rng.randrange(64) for _ in range(length)] for length in (40, 3)]
    alone = [whole_logits(transformer, tokens, block_size=32) for tokens in sequences]
    paged = PagedSequences(transformer, sequences, block_size=32)
    for pieces in ([(0, 0, 37), (1, 0, 1)], [(1, 1, 3), (0, 37, 38)], [(0, 38, 40)]):
        expected = torch.cat([alone[s][start:end] for s, start, end in pieces])
        assert torch.equal(paged.run(pieces), expected)


def test_packed_experts_give_the_same_logits_as_materialised_ones(open_checkpoint):
    reader = open_checkpoint()
    tokens = list(range(50))
    unpacked = Transformer.load(reader, TORCH)
    packed = Transformer.load(reader, TORCH, expert_memory_share=0.0)
    assert "weight" in unpacked.layers[0].moe.experts.experts[0].gate_up.tensors
    assert "blocks" in packed.layers[0].moe.experts.experts[0].gate_up.tensors
    assert torch.equal(whole_logits(packed, tokens), whole_logits(unpacked, tokens))


def test_both_published_layouts_load_to_the_same_network(tmp_path):
    from gptoss_ray.checkpoint.reader import CheckpointReader
    from gptoss_ray.checkpoint.synthetic import write_checkpoint

    logits = []
    for layout in ("huggingface", "original"):
        write_checkpoint(tmp_path / layout, tiny_config(), layout=layout)
        transformer = Transformer.load(CheckpointReader.open(tmp_path / layout))
        logits.append(whole_logits(transformer, list(range(40))))
    assert torch.equal(*logits)


def test_only_the_wanted_rows_get_logits(transformer):
    paged = PagedSequences(transformer, [list(range(20)), list(range(30))])
    batch = paged.batch([(0, 0, 20), (1, 0, 30)])
    every = transformer.forward(batch, paged.kv_cache)
    wanted = torch.tensor([49, 19])
    some = transformer.forward(dataclasses.replace(batch, logits_rows=wanted), paged.kv_cache)
    assert every.dtype == some.dtype == torch.float32
    assert torch.equal(some, every[wanted])


def test_an_idle_batch_gives_no_logits_and_still_meets_the_other_ranks(open_checkpoint):
    class CountingDispatcher(LocalTokenDispatcher):
        num_dispatches = 0

        def dispatch(self, x, expert_ids):
            self.num_dispatches += 1
            return super().dispatch(x, expert_ids)

    dispatcher = CountingDispatcher(8)
    reader = open_checkpoint()
    transformer = Transformer.load(reader, dispatchers=[dispatcher] * reader.config.num_layers)
    paged = PagedSequences(transformer, [[1]])
    assert paged.run([]).shape == (0, transformer.config.vocab_size)
    assert dispatcher.num_dispatches == transformer.config.num_layers


def test_rubbish_in_freed_window_blocks_does_not_matter(transformer):
    tokens = [i % 512 for i in range(100)]
    expected = whole_logits(transformer, tokens)[99:]
    paged = PagedSequences(transformer, [tokens])
    paged.run([(0, 0, 99)])
    num_freed = (99 - transformer.config.sliding_window + 1) // paged.block_size
    for layer in (0, 2):  # the sliding ones; full layers own other blocks
        paged.kv_cache.keys(layer)[paged.tables[1][0, :num_freed].long()] = 1e4
    paged.tables[1][0, :num_freed] = -1
    assert torch.equal(paged.run([(0, 99, 100)]), expected)


@pytest.mark.parametrize("engine", EACH_BACKEND)
def test_what_others_left_in_the_blocks_of_a_sequence_does_not_matter(open_checkpoint, engine):
    """Blocks are not cleared when they change hands, and a broken request leaves what is no number."""
    transformer = Transformer.load(open_checkpoint(), engine)
    tokens = [i % 512 for i in range(100)]
    paged = PagedSequences(transformer, [tokens])
    for layer in range(transformer.config.num_layers):
        paged.kv_cache.keys(layer).fill_(torch.nan)
        paged.kv_cache.values(layer).fill_(torch.nan)
    steps = [(0, 0, 37), (0, 37, 38), (0, 38, 100)]
    assert torch.equal(torch.cat([paged.run([piece]) for piece in steps]), whole_logits(transformer, tokens))


def test_loading_reports_every_part(open_checkpoint):
    seen = []
    Transformer.load(open_checkpoint(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(1, 6)]


def test_weights_outlive_the_files_they_came_from(open_checkpoint):
    reader = open_checkpoint()
    transformer = Transformer.load(reader)
    before = whole_logits(transformer, [1, 2, 3])
    for shard in reader.folder.glob("*.safetensors"):
        shard.unlink()
        shard.write_bytes(b"something else")
    assert torch.equal(whole_logits(transformer, [1, 2, 3]), before)


def test_the_cache_can_be_shared_by_sequences_with_a_common_prefix(transformer):
    """Two sequences whose tables name the same first blocks see the same keys."""
    prefix, tails = list(range(32)), [[7, 8, 9], [400, 3, 2]]
    expected = [whole_logits(transformer, prefix + tail)[32:] for tail in tails]
    paged = PagedSequences(transformer, [prefix + tail for tail in tails])
    for table in paged.tables:
        table[1, :2] = table[0, :2]
    paged.run([(0, 0, 32)])
    together = paged.run([(1, 32, 35), (0, 32, 35)])
    assert torch.equal(together, torch.cat((expected[1], expected[0])))


def test_every_layer_attends_once_with_the_plan_of_its_kind_and_storage_of_its_own(transformer, monkeypatch):
    calls = []

    def attention(self, qkv, plan, keys, values, sinks):
        calls.append((plan.rows.window, plan.rows.slot_mapping.tolist(), keys.data_ptr(), values.data_ptr()))
        return original(self, qkv, plan, keys, values, sinks)

    original = ReferenceKernels.attention
    monkeypatch.setattr(ReferenceKernels, "attention", attention)
    config = transformer.config
    paged = PagedSequences(transformer, [[1, 2, 3]])
    batch = paged.batch([(0, 0, 3)])
    transformer.forward(batch, paged.kv_cache)
    slots = {True: batch.slot_mapping_window.tolist(), False: batch.slot_mapping_full.tolist()}
    windows = {True: config.sliding_window, False: None}
    assert calls == [
        (
            windows[config.is_sliding(layer)],
            slots[config.is_sliding(layer)],
            paged.kv_cache.keys(layer).data_ptr(),
            paged.kv_cache.values(layer).data_ptr(),
        )
        for layer in range(config.num_layers)
    ]


def test_a_device_without_kernels_is_refused_before_anything_is_read(open_checkpoint):
    reader = open_checkpoint()
    with pytest.raises(ConfigError, match="cuda"):
        Transformer.load(reader, device="cuda")
    assert reader.num_bytes_read == 0


def test_the_log_says_which_kernels_run_and_whether_experts_are_unpacked(open_checkpoint, caplog):
    with caplog.at_level("INFO"):
        Transformer.load(open_checkpoint(), TORCH, expert_memory_share=0.0)
    assert "kernels=torch-reference reason=\"engine.kernels is 'torch'\"" in caplog.text
    assert "experts=packed" in caplog.text


@needs_native
@pytest.mark.parametrize(
    ("dense_weights", "activations", "allowed"),
    [("bfloat16", "bfloat16", 1.1), ("int8", "bfloat16", 2.0), ("int8", "int8", 4.0)],
)
def test_native_kernels_stray_from_float32_little_more_than_torch_does(
    open_checkpoint, dense_weights, activations, allowed
):
    reader = open_checkpoint()
    tokens = [i * 7 % 512 for i in range(100)]
    exact, ours, theirs = (
        whole_logits(Transformer.load(reader, EngineConfig(**choice)), tokens)
        for choice in (
            {"dtype": "float32"},
            {"kernels": "native", "dense_weights": dense_weights, "activations": activations},
            {"kernels": "torch"},
        )
    )
    assert (ours - exact).square().mean().sqrt() < allowed * (theirs - exact).square().mean().sqrt()


@needs_native
def test_weights_kept_in_a_folder_give_the_same_bits_and_are_packed_once(open_checkpoint, tmp_path):
    reader = open_checkpoint()
    tokens = list(range(40))
    engine = EngineConfig(kernels="native", packed_weights=str(tmp_path / "packed"))
    expected = whole_logits(Transformer.load(reader, NATIVE), tokens)
    for _ in range(2):
        bytes_before = reader.num_bytes_read
        assert torch.equal(whole_logits(Transformer.load(reader, engine), tokens), expected)
    assert reader.num_bytes_read - bytes_before < bytes_before / 3
