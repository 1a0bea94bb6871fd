"""The cross entropy, against torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from gptoss_ray.demo_training.cross_entropy import CrossEntropy


def test_loss_and_gradient_are_torchs_and_rows_without_a_target_have_no_part() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (20 * torch.randn(6, 9, generator=generator)).requires_grad_()
    targets = torch.tensor([3, -100, 0, 8, -100, 3])

    wanted = F.cross_entropy(logits, targets, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(0.5 * wanted, logits)
    loss = CrossEntropy.apply(logits, targets)
    (gradient,) = torch.autograd.grad(0.5 * loss, logits)

    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)
    assert not gradient[targets < 0].any()
