from __future__ import annotations

from pathlib import Path
from random import Random

import torch

from gptoss_ray.demo_training.batch import PackedBatch
from gptoss_ray.demo_training.conversations import Mixture, draw_group
from gptoss_ray.demo_training.export import export
from gptoss_ray.demo_training.network import forward
from gptoss_ray.demo_training.parameters import Parameters
from gptoss_ray.demo_training.shape import demo_config
from gptoss_ray.demo_training.vocabulary import landmarks
from gptoss_ray.harmony.encoding import HarmonyEncoding


@torch.no_grad()
def test_the_exported_checkpoint_has_the_logits_of_the_trained_network(
    encoding: HarmonyEncoding, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = demo_config(encoding)
    parameters = Parameters.random(config, 0, landmarks(encoding))
    export(tmp_path / "demo", config, parameters.masters, encoding)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path / "demo", dtype=torch.float32).eval()
    samples = draw_group(encoding, Random(3), Mixture())[:6]
    weights = {name: leaf.float() for name, leaf in parameters.rounded.items()}
    batch = PackedBatch.pack(samples, config.sliding_window)
    logits = forward(config, weights, batch).logits[batch.targets >= 0]
    offset = 0
    for sample in samples:
        length = len(sample.tokens) - sample.num_prompt_tokens
        expected = oracle(torch.tensor([sum(sample.prefix, ()) + sample.tokens])).logits[0, -length - 1 : -1]
        torch.testing.assert_close(logits[offset : offset + length], expected, rtol=1e-3, atol=1e-3)
        offset += length
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "demo")
    prefix = sum(samples[0].prefix, ())
    assert tuple(tokenizer.encode(encoding.decode_bytes(prefix).decode())) == prefix
