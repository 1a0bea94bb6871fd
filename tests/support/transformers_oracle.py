"""GptOssForCausalLM of transformers with random weights, and its answers: the oracle of our network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig


def save_random_model(config: ModelConfig, folder: Path, seed: int) -> None:
    """Write an unquantised float32 checkpoint by transformers, wild enough that every mechanism matters.

    Scales: logits and sinks of order one, gates often beyond ±7, every bias away from zero.
    """
    from transformers import GptOssConfig, GptOssForCausalLM

    generator = torch.Generator().manual_seed(seed)
    model = GptOssForCausalLM(GptOssConfig(**config.to_json("huggingface")))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * values)
            elif name.endswith("bias") or "embed" in name or "sinks" in name:
                parameter.copy_(values)
            elif "gate_up_proj" in name:  # stored [experts, in, out]
                parameter.copy_(4 * values / parameter.shape[1] ** 0.5)
            elif "down_proj" in name:
                parameter.copy_(0.02 * values)
            else:
                parameter.copy_(1.5 * values / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)


class Oracle:
    """The model in `folder` as transformers runs it (eager attention, no tricks)."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        from transformers import GptOssForCausalLM

        self.model = GptOssForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager"
        ).eval()

    @torch.no_grad()
    def logits(self, tokens: list[int]) -> Tensor:
        """float32 [len(tokens), V]."""
        return self.model(torch.tensor([tokens]), use_cache=False).logits[0].float()

    @torch.no_grad()
    def greedy(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        """Most likely continuations of prompts of one length."""
        step = self.model(torch.tensor(prompts), use_cache=True)
        chosen = [step.logits[:, -1].argmax(-1)]
        for _ in range(num_tokens - 1):
            step = self.model(chosen[-1][:, None], past_key_values=step.past_key_values, use_cache=True)
            chosen.append(step.logits[:, -1].argmax(-1))
        return torch.stack(chosen, dim=1).tolist()
