from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training import network
from gptoss_ray.demo_training.batch import Branch, PackedBatch
from gptoss_ray.demo_training.parameters import Parameters
from gptoss_ray.demo_training.shape import demo_config
from gptoss_ray.demo_training.skills import copying, drills
from gptoss_ray.demo_training.vocabulary import function_mark
from gptoss_ray.harmony.encoding import HarmonyEncoding

_NOTING_LAYER = 2


@pytest.fixture(scope="module")
def first_weights(encoding: HarmonyEncoding) -> dict[str, Tensor]:
    return Parameters.random(demo_config(encoding), 1, function_mark(encoding)).rounded


@torch.no_grad()
def test_the_first_weights_already_copy(encoding: HarmonyEncoding, first_weights: dict[str, Tensor]) -> None:
    samples = copying.draw_group(Random(0), encoding.num_ranks, encoding.start, 16)
    batch = PackedBatch.pack(samples)
    predicted = network.forward(demo_config(encoding), first_weights, batch).logits.argmax(-1)
    learned = batch.targets >= 0
    assert (predicted == batch.targets)[learned].float().mean() > 0.5  # chance is 0.0005


@torch.no_grad()
def test_the_first_weights_know_in_which_function_a_token_stands(
    encoding: HarmonyEncoding, first_weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = drills.draw_functions(encoding, Random(0))[0]
    developer_message = sample.prefix[1]
    mark = function_mark(encoding)
    assert developer_message.count(mark) >= 3
    attended = _attended_by_first_head(encoding, first_weights, sample, monkeypatch)
    first = developer_message.index(mark)
    last_marks = [
        max(i for i in range(token + 1) if developer_message[i] == mark)
        for token in range(first, len(developer_message))
    ]
    right = [mine == last for mine, last in zip(attended[first:], last_marks, strict=True)]
    assert sum(right) / len(right) > 0.8


def _attended_by_first_head(
    encoding: HarmonyEncoding,
    weights: dict[str, Tensor],
    sample: Branch,
    monkeypatch: pytest.MonkeyPatch,
) -> list[int]:
    """For every token of the developer message, which of its tokens the noting head looks at most."""
    system, developer = sample.prefix
    batch = PackedBatch.pack([Branch((system,), (*developer, *sample.tokens), 1)])
    scores: list[Tensor] = []
    attend = network._attend

    def record(config: ModelConfig, q: Tensor, kv: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
        dim = config.head_dim
        scores.append(q[..., :dim] @ kv[..., :dim].mT + mask[:, 0])
        return attend(config, q, kv, sinks, mask)

    monkeypatch.setattr(network, "_attend", record)
    network.forward(demo_config(encoding), weights, batch)
    noting = scores[_NOTING_LAYER * len(batch.groups) + 1][0]
    key_rows = batch.groups[1].key_rows[0].tolist()
    return [key_rows[key] - len(system) for key in noting[: len(developer)].argmax(-1).tolist()]
