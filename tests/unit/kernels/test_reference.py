from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.reference import (
    TILE_ROWS,
    linear,
    pad_rows,
    rms_norm,
    rotate,
    swiglu,
    weighted_slot_sum,
)
from tests.support.threads import torch_threads

DTYPES = (torch.float32, torch.bfloat16)
# The last two are those of the published models: their bits must not depend on the batch either.
SHAPES = ((33, 17), (96, 128), (160, 320), (128, 3000), (2880, 640), (4096, 320))


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rows_do_not_depend_on_the_batch(function, x: Tensor) -> None:
    """Every row of function(x) has the same bits alone, and anywhere in batches of any size."""
    with torch_threads(1):
        alone = torch.cat([function(pad_rows(row))[:1] for row in x.split(1)])
    generator = torch.Generator().manual_seed(1)
    for num_threads in (1, 2):
        with torch_threads(num_threads):
            for num_rows in (2, 5, TILE_ROWS, TILE_ROWS + 1, 3 * TILE_ROWS, x.shape[0]):
                chosen = torch.randperm(x.shape[0], generator=generator)[:num_rows]
                batched = function(pad_rows(x[chosen]))[:num_rows]
                assert torch.equal(batched, alone[chosen]), (num_threads, num_rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_of_a_matmul_has_the_same_bits_in_every_batch(shape, dtype):
    depth, width = shape
    weight, bias = randn(width, depth, dtype=dtype), randn(width, dtype=dtype, seed=1)
    x = randn(64, depth, dtype=dtype, seed=2)
    assert_rows_do_not_depend_on_the_batch(lambda rows: linear(rows, weight, bias), x)
    assert_rows_do_not_depend_on_the_batch(lambda rows: linear(rows, weight), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 90, 160, 2880])
def test_a_row_of_an_elementwise_kernel_has_the_same_bits_in_every_batch(width, dtype):
    x = 4 * randn(80, width, dtype=dtype)
    weight = randn(width, seed=1)
    assert_rows_do_not_depend_on_the_batch(lambda rows: rms_norm(rows, weight, 1e-5), x)
    assert_rows_do_not_depend_on_the_batch(lambda rows: swiglu(rows, alpha=1.702, limit=7.0), x)
    heads = x.view(80, 2, width // 2)[..., : width // 4 * 2]
    angles = torch.ones(1, 1, width // 4)
    assert_rows_do_not_depend_on_the_batch(lambda rows: rotate(rows, angles.cos(), angles.sin()), heads)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_exp_gives_the_same_bits_in_the_body_and_in_the_tail_of_a_buffer(num_threads):
    x = 8 * randn(100_000)
    with torch_threads(1):
        whole = x.exp()
    with torch_threads(num_threads):
        for length in (1, 3, 15, 17, 31, 33, 63, 40_001, 99_999):
            for start in (0, 1, 7):
                piece = x[start : start + length]
                assert torch.equal(piece.clone().exp_(), whole[start : start + len(piece)])


@pytest.mark.parametrize("num_tokens", [1, 3, 40])
def test_the_softmax_over_chosen_experts_has_the_same_bits_in_every_batch(num_tokens):
    chosen = randn(64, 4)
    alone = torch.cat([row.softmax(-1) for row in chosen.split(1)])
    assert torch.equal(chosen[:num_tokens].softmax(-1), alone[:num_tokens])


def test_linear_is_a_matmul_with_bias_and_leaves_no_row_out():
    x, weight, bias = randn(48, 20), randn(7, 20, seed=1), randn(7, seed=2)
    expected = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(linear(x, weight, bias).double(), expected, atol=1e-5, rtol=1e-5)
    assert linear(x[:0], weight, bias).shape == (0, 7)


def test_rows_are_padded_with_zeros_to_whole_tiles():
    x = randn(17, 3)
    padded = pad_rows(x)
    assert padded.shape == (32, 3)
    assert torch.equal(padded[:17], x)
    assert not padded[17:].any()
    assert pad_rows(padded) is padded
    assert pad_rows(x[:0]).shape == (0, 3)


def test_rms_norm_divides_by_the_root_mean_square():
    x, weight = randn(16, 64), randn(64, seed=1)
    wide = x.double()
    expected = weight * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), expected, atol=1e-5, rtol=1e-5)
    assert rms_norm(torch.zeros(16, 64), weight, 1e-5).isfinite().all()


def test_rotation_turns_the_pair_of_a_dimension_and_its_partner_in_the_other_half():
    x = randn(2, 3, 8)
    angle = torch.full((2, 1, 4), 0.3)
    rotated = rotate(x, angle.cos(), angle.sin())
    pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(torch.tensor(0.3j))
    torch.testing.assert_close(rotated, torch.cat((pairs.real, pairs.imag), dim=-1))


def test_swiglu_clamps_the_gate_above_and_the_up_both_ways():
    gates = torch.tensor([-100.0, -1.0, 3.0, 7.0, 8.0, 1000.0])
    ups = torch.tensor([0.5, -9.0, -7.0, 9.0, 7.0, -1000.0])
    out = swiglu(torch.cat((gates, ups))[None], alpha=1.702, limit=7.0)[0]
    gate, up = gates.clamp(max=7.0).double(), ups.clamp(-7.0, 7.0).double()
    expected = gate * torch.sigmoid(1.702 * gate) * (up + 1)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)


def test_swiglu_leaves_its_input_as_it_was():
    gate_up = 10 * randn(16, 12)
    before = gate_up.clone()
    swiglu(gate_up, alpha=1.702, limit=7.0)
    assert torch.equal(gate_up, before)


def test_slots_are_summed_in_slot_order_and_in_float32():
    slots = torch.tensor([1e8, 1.0, -1e8, 1.0])[None, :, None].expand(1, 4, 3)
    total = weighted_slot_sum(slots, torch.ones(1, 4))
    assert total.dtype == torch.float32
    assert torch.equal(total, torch.ones(1, 3))  # ((1e8 + 1) - 1e8) + 1: the first 1 is lost, the second not
    halves = weighted_slot_sum(slots.bfloat16()[:, 1:2], torch.full((1, 1), 1 / 3))
    assert torch.equal(halves, torch.full((1, 3), 1 / 3))
