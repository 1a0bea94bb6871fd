"""Packed weights lie as src/api.h says, and hold exactly what was packed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.int8 import quantize
from gptoss_ray.kernels.kernels import Mxfp4
from gptoss_ray.kernels.native.library import NativeLibrary
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.native.packed import BLOCK

SHAPES = [(16, 32), (32, 96), (5, 64), (50, 2880)]


@pytest.fixture(scope="module")
def int8(library: NativeLibrary) -> NativeKernels:
    return NativeKernels(library, num_threads=2, dense_weights="int8", instruction_set="portable")


def rows_of(tiles: Tensor, n: int) -> Tensor:
    """[tiles, 16 rows, ...] → [n, ...] after a check that all other rows are zero."""
    rows = tiles.flatten(0, 1)
    assert not rows[n:].any()
    return rows[:n]


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_bfloat16_in_pairs_of_k(kernels: NativeKernels, n: int, k: int):
    weight = torch.randn(n, k).bfloat16()
    codes = kernels.pack(weight)["codes"]  # [tiles, K/2, 16, 2]
    assert torch.equal(rows_of(codes.transpose(1, 2), n).reshape(n, k), weight)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_mxfp4_codes_keep_their_place(kernels: NativeKernels, n: int, k: int):
    blocks = torch.randint(256, (n, k // BLOCK, 16), dtype=torch.uint8)
    scales = torch.randint(256, (n, k // BLOCK), dtype=torch.uint8)
    tensors = kernels.pack(Mxfp4(blocks, scales))
    words = rows_of(tensors["codes"].permute(0, 3, 1, 2, 4), n).long()  # [n, K/32, 4, 4 bytes]
    nibbles = torch.stack((words & 15, words >> 4), -1).flatten(3)  # [n, K/32, 4, 8]
    in_order = torch.stack((nibbles[..., :4], nibbles[..., 4:]), -1).reshape(n, -1)
    expected = torch.stack((blocks & 15, blocks >> 4), -1).reshape(n, -1)
    assert torch.equal(in_order, expected.long())
    assert torch.equal(rows_of(tensors["scales"].transpose(1, 2), n), scales)


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("magnitude", [1e-7, 1e-3, 1.0, 1e5, 3e38])
def test_int8_is_what_torch_makes_of_it(int8: NativeKernels, n: int, k: int, magnitude: float):
    weight = (torch.randn(n, k) * magnitude).clamp(-3e38, 3e38).bfloat16()
    weight[0, :BLOCK] = 0
    codes, scales = quantize(weight)
    tensors = int8.pack(weight)
    assert torch.equal(rows_of(tensors["scales"].transpose(1, 2), n), scales)
    packed_codes = rows_of(tensors["codes"].permute(0, 3, 1, 2, 4), n).reshape(n, k)
    assert torch.equal(packed_codes, codes)


def test_int8_halves_go_to_the_even_code(int8: NativeKernels):
    weight = torch.zeros(1, BLOCK)
    weight[0, :6] = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5])
    codes = int8.pack(weight)["codes"][0, :, :, 0].flatten()
    assert codes[:6].tolist() == [127, 0, 2, 2, 0, -2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_int8_takes_finite_weights_only(int8: NativeKernels, bad: float):
    weight = torch.zeros(40, 64)
    weight[33, 61] = bad
    with pytest.raises(ValueError, match="not finite"):
        int8.pack(weight)
