"""Writes trained parameters as a Hugging Face checkpoint, with tokenizer and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.mxfp4 import quantize
from gptoss_ray.checkpoint.writer import write_tensors
from gptoss_ray.demo_training.parameters import QUANTIZED
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.harmony.tokenizer_files import write_tokenizer

_MODEL_CARD = Path(__file__).with_name("model_card.md")


def export(
    folder: Path, config: ModelConfig, masters: Mapping[str, Tensor], encoding: HarmonyEncoding
) -> None:
    """Write the checkpoint into a new folder; CheckpointError if it already holds one."""
    write_tensors(folder, config, stored_values(masters))
    write_tokenizer(folder, encoding.num_ranks, encoding.vocab_size)
    generation = {
        "bos_token_id": encoding.special_token_ids["<|startoftext|>"],
        "do_sample": False,
        "eos_token_id": list(encoding.stop_token_ids),
        "pad_token_id": encoding.end_of_text,
    }
    text = json.dumps(generation, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_MODEL_CARD.read_text(encoding="utf-8"), encoding="utf-8")


def stored_values(masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors: experts' weights as MXFP4 blocks and scales, gates and ups alternating."""
    values: dict[str, Tensor] = {}
    for name, master in masters.items():
        ordered = _alternate(master.detach()) if ".experts.gate_up." in name else master.detach()
        if name.endswith(QUANTIZED):
            stem = name.removesuffix(".weight")
            values[f"{stem}.blocks"], values[f"{stem}.scales"] = quantize(ordered)
        else:
            values[name] = ordered
    return values


def _alternate(gate_up: Tensor) -> Tensor:
    """[experts, gates then ups, …] → [experts, gate 0, up 0, gate 1, …]."""
    return torch.stack(gate_up.chunk(2, dim=1), dim=2).flatten(1, 2)
