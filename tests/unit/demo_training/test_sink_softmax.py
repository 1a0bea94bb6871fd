"""The softmax with sinks, against autograd through its definition."""

from __future__ import annotations

import torch

from gptoss_ray.demo_training.sink_softmax import SinkSoftmax


def test_probabilities_and_gradients_are_those_of_a_softmax_with_the_sink_as_one_more_key() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True)
    sinks = torch.randn(3, generator=generator, requires_grad=True)
    mask = torch.zeros(2, 1, 4, 5)
    mask[:, :, :2, 3:] = -1e9
    grad = torch.randn(2, 3, 4, 5, generator=generator)

    with_sink = torch.cat((scores + mask, sinks.view(1, 3, 1, 1).expand(2, 3, 4, 1)), dim=-1)
    wanted = torch.softmax(with_sink, dim=-1)[..., :-1]
    wanted_gradients = torch.autograd.grad(wanted, (scores, sinks), grad)
    probabilities = SinkSoftmax.apply(scores, mask, sinks)

    torch.testing.assert_close(probabilities, wanted)
    torch.testing.assert_close(torch.autograd.grad(probabilities, (scores, sinks), grad), wanted_gradients)
