"""Accuracy on held-out chats while training, without generating.

Greedy decoding yields the wanted answer exactly when, with that answer as input, every next token is the most
likely one; so one forward pass judges a whole answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training.batch import Branch, PackedBatch
from gptoss_ray.demo_training.conversations import SKILLS, branch, draw_chat, draw_setting, prefix_tokens
from gptoss_ray.demo_training.network import forward
from gptoss_ray.demo_training.parameters import Parameters
from gptoss_ray.harmony.encoding import HarmonyEncoding

_CHATS_PER_SETTING = 8
_SETTINGS_PER_BATCH = 3


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the index of its first wrong token, and what the network would say there."""

    sample: Branch
    index: int
    predicted: int


@dataclass
class Evaluation:
    """Right and asked by skill, and the wrong answers."""

    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    mistakes: list[Mistake] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{skill} {self.right[skill] / asked:.1%}" for skill, asked in self.asked.items())


def held_out_branches(encoding: HarmonyEncoding, per_skill: int, seed: int) -> list[list[Branch]]:
    """Held-out chats, at least `per_skill` of each skill, in groups small enough for one forward pass."""
    rng = Random(seed)
    batches: list[list[Branch]] = []
    for skill in SKILLS:
        for _ in range(0, per_skill, _SETTINGS_PER_BATCH * _CHATS_PER_SETTING):
            batch: list[Branch] = []
            for _ in range(_SETTINGS_PER_BATCH):
                setting = draw_setting(rng, with_tools=skill.startswith("tool"), held_out=True)
                prefix = prefix_tokens(encoding, setting)
                chats = [draw_chat(rng, setting, skill, held_out=True) for _ in range(_CHATS_PER_SETTING)]
                batch += [branch(encoding, prefix, chat) for chat in chats]
            batches.append(batch)
    return batches


@torch.no_grad()
def evaluate(config: ModelConfig, parameters: Parameters, batches: Sequence[Sequence[Branch]]) -> Evaluation:
    """Judge every sample of the batches."""
    evaluation = Evaluation()
    for samples in batches:
        logits = forward(config, parameters.rounded, PackedBatch.pack(samples, config.sliding_window)).logits
        predicted = logits.argmax(-1).tolist()
        offset = 0
        for sample in samples:
            answer = sample.tokens[sample.num_prompt_tokens :]
            mine = predicted[offset : offset + len(answer)]
            offset += len(answer)
            evaluation.asked[sample.skill] += 1
            wrong = [i for i, (a, b) in enumerate(zip(mine, answer, strict=True)) if a != b]
            if wrong:
                evaluation.mistakes.append(
                    Mistake(sample, sample.num_prompt_tokens + wrong[0], mine[wrong[0]])
                )
            else:
                evaluation.right[sample.skill] += 1
    return evaluation


def describe_mistakes(encoding: HarmonyEncoding, evaluation: Evaluation) -> str:
    """The wrong answers as text: the chat's end, the wanted answer, and where it goes wrong."""

    def text(token_ids: Sequence[int]) -> str:
        return encoding.decode_bytes(token_ids).decode(errors="replace")

    lines: list[str] = []
    for mistake in evaluation.mistakes:
        tokens, index = mistake.sample.tokens, mistake.index
        prompt, answer = (
            tokens[: mistake.sample.num_prompt_tokens],
            tokens[mistake.sample.num_prompt_tokens :],
        )
        lines += [
            f"[{mistake.sample.skill}] …{text(prompt)[-400:]}",
            f"    wanted {text(answer)}",
            f"    after {text(tokens[max(0, index - 6) : index])!r}: {text(tokens[index : index + 1])!r}, "
            f"not {text([mistake.predicted])!r}",
        ]
    return "\n".join(lines) + "\n"
