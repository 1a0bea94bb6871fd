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
from gptoss_ray.demo_training.vocabulary import landmarks
from gptoss_ray.harmony.encoding import HarmonyEncoding

_NOTING_LAYER = 2


@pytest.fixture(scope="module")
def first_weights(encoding: HarmonyEncoding) -> dict[str, Tensor]:
    return Parameters.random(demo_config(encoding), 1, landmarks(encoding)).rounded


@torch.no_grad()
def test_the_first_weights_already_copy(encoding: HarmonyEncoding, first_weights: dict[str, Tensor]) -> None:
    samples = copying.draw_group(Random(0), encoding.num_ranks, encoding.start, 16)
    config = demo_config(encoding)
    batch = PackedBatch.pack(samples, config.sliding_window)
    predicted = network.forward(config, first_weights, batch).logits.argmax(-1)
    learned = batch.targets >= 0
    assert (predicted == batch.targets)[learned].float().mean() > 0.5  # chance is 0.0005


@torch.no_grad()
def test_the_first_weights_know_in_which_function_a_token_stands(
    encoding: HarmonyEncoding, first_weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = drills.draw_functions(encoding, Random(0))[0]
    system, developer = (len(part) for part in sample.prefix)
    tokens = (*sum(sample.prefix, ()), *sample.tokens)
    mark = landmarks(encoding).function_mark
    marks = [i for i in range(system, system + developer) if tokens[i] == mark]
    assert len(marks) >= 3
    attended = _attended(encoding, first_weights, tokens, (_NOTING_LAYER, 0), monkeypatch)
    inside = range(marks[0], system + developer)
    right = [attended[token] == max(i for i in marks if i <= token) for token in inside]
    assert sum(right) / len(right) > 0.8


@torch.no_grad()
def test_the_first_weights_go_on_in_the_function_that_an_answer_has_begun(
    encoding: HarmonyEncoding, first_weights: dict[str, Tensor]
) -> None:
    config, begins = demo_config(encoding), encoding.encode(" {\n")[-1]
    right = []
    for seed in range(12):
        samples = drills.draw_functions(encoding, Random(seed))
        batch = PackedBatch.pack(samples, config.sliding_window)
        predicted = network.forward(config, first_weights, batch).logits.argmax(-1)
        is_first_of_a_list = batch.token_ids[batch.prediction_rows] == begins
        right += (predicted == batch.targets)[is_first_of_a_list].tolist()
    assert sum(right) / len(right) > 0.8  # functions whose descriptions end alike are noted as one


@torch.no_grad()
def test_the_first_weights_find_a_piece_of_a_word_again_that_has_lost_the_space_before_it(
    encoding: HarmonyEncoding, first_weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = Random(0)
    twins = rng.sample(landmarks(encoding).twins, 20)
    others = [token for token in range(encoding.num_ranks) if token not in sum(twins, ())]
    behind_space, alone = zip(*twins, strict=True)
    told = [token for piece in behind_space for token in (piece, *rng.sample(others, 2))]
    attended = _attended(encoding, first_weights, (*told, *alone), (1, 0), monkeypatch)
    assert sum(attended[len(told) + i] == 3 * i + 1 for i in range(20)) >= 15


@torch.no_grad()
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_the_first_weights_look_one_two_and_three_tokens_back(
    distance: int,
    encoding: HarmonyEncoding,
    first_weights: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = tuple(Random(0).choices(range(encoding.num_ranks), k=200))
    attended = _attended(encoding, first_weights, tokens, (0, distance - 1), monkeypatch)
    assert attended[3:] == [token - distance for token in range(3, 200)]


@torch.no_grad()
@pytest.mark.parametrize(("separator", "head"), [(" ", (1, 3)), (", ", (3, 2))])
def test_the_first_weights_find_the_next_item_of_a_list_among_items_that_begin_alike(
    separator: str,
    head: tuple[int, int],
    encoding: HarmonyEncoding,
    first_weights: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = ["cow", "cat", "cup"]
    told = encoding.encode(f"These: {separator.join(items)}")
    counted = encoding.encode(". " + " ".join(f"{item} {number}" for number, item in enumerate(items, 1)))
    begin = encoding.encode(" c")[0]
    sources = [i for i, token in enumerate(told) if token == begin]
    answers = [len(told) + i for i, token in enumerate(counted) if token == begin]
    attended = _attended(encoding, first_weights, (*told, *counted), head, monkeypatch)
    assert [attended[answer] for answer in answers[1:]] == [source + 1 for source in sources[1:]]


def _attended(
    encoding: HarmonyEncoding,
    weights: dict[str, Tensor],
    tokens: tuple[int, ...],
    layer_and_head: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> list[int]:
    """For every token, at which one a head looks most."""
    config = demo_config(encoding)
    batch = PackedBatch.pack([Branch((), tokens, 1)], config.sliding_window)
    layer, head = layer_and_head
    group = head * config.num_key_value_heads // config.num_attention_heads
    scores: list[Tensor] = []
    attend = network._attend

    def record(config: ModelConfig, q: Tensor, kv: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
        query, key = (rows.unflatten(-1, (-1, config.head_dim)) for rows in (q, kv))
        scores.append(query[:, :, head] @ key[:, :, group].mT + mask[:, 0])
        return attend(config, q, kv, sinks, mask)

    monkeypatch.setattr(network, "_attend", record)
    network.forward(config, weights, batch)
    attended: list[int] = scores[layer][0, : len(tokens)].argmax(-1).tolist()
    return attended
