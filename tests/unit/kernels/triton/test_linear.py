from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels import int8
from gptoss_ray.kernels.triton import blas
from gptoss_ray.kernels.triton import matrix as matrix_module
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.matrix import TritonMatrix, pack_int8, pack_values
from gptoss_ray.kernels.triton.tiles import FEW_ROWS, Tile
from gptoss_ray.planner.gpu_steps import BLAS_ROWS
from tests.support.triton_compile import compile_launches
from tests.support.triton_layers import int8_values

CPU = torch.device("cpu")
SMALL, LARGE = Tile(64, 16, 4, 3), Tile(128, 64, 8, 3)


def matrix(n: int, k: int, *, bias: bool = True, is_wide: bool = False) -> TritonMatrix:
    tensors = pack_values(torch.randn(n, k).bfloat16() / k**0.5, CPU)
    return TritonMatrix((n, k), tensors | ({"bias": torch.randn(n)} if bias else {}), is_wide)


def in_8_bits_and_not(n: int, k: int, *, bias: bool = True, is_wide: bool = False) -> list[TritonMatrix]:
    """Return a weight in 8 bits, and one in bfloat16 of the values that it stands for."""
    coded = pack_int8(torch.randn(n, k).bfloat16() / k**0.5, CPU)
    values = int8_values(coded)[:, :k]
    own_bias = {"bias": torch.randn(n)} if bias else {}
    return [TritonMatrix((n, k), each | own_bias, is_wide) for each in (coded, pack_values(values, CPU))]


def expected(x: torch.Tensor, weights: TritonMatrix, residual: torch.Tensor | float = 0.0) -> torch.Tensor:
    bias = 0.0 if weights.bias is None else weights.bias
    product = x.double() @ weights.tensors["weight"][:, : weights.shape[1]].double().T
    return (product + bias + residual).to(torch.float32 if weights.is_wide else torch.bfloat16)


@pytest.fixture
def linear():
    return Linear(ArrivalCounters(CPU))


@pytest.mark.parametrize(("n", "k"), [(192, 256), (70, 96), (64, 192)])
@pytest.mark.parametrize("num_rows", [1, 17, 70])
def test_rows_are_multiplied_and_rounded_once(linear, n, k, num_rows):
    weights, x = matrix(n, k), torch.randn(num_rows, k).bfloat16()
    torch.testing.assert_close(linear(x, weights), expected(x, weights), rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize(("n", "k"), [(192, 256), (70, 96), (64, 200)])
@pytest.mark.parametrize("num_rows", [1, 17, 70])
def test_weights_in_8_bits_give_the_bits_of_the_values_that_they_stand_for(linear, n, k, num_rows):
    coded, wide = in_8_bits_and_not(n, k)
    assert coded.is_int8 and not wide.is_int8
    x, residual = torch.randn(num_rows, k).bfloat16(), torch.randn(num_rows, n).bfloat16()
    assert torch.equal(linear(x, coded, residual.clone()), linear(x, wide, residual.clone()))
    torch.testing.assert_close(linear(x, coded), expected(x, wide), rtol=2**-8, atol=2**-8)


def test_logits_by_weights_in_8_bits_are_not_rounded(linear):
    coded, wide = in_8_bits_and_not(64, 256, bias=False, is_wide=True)
    x = torch.randn(3, 256).bfloat16()
    assert torch.equal(linear(x, coded), linear(x, wide))
    assert linear(x, coded).dtype == torch.float32


def test_weights_in_8_bits_are_packed_as_the_definition_says_whatever_the_number_of_outputs(monkeypatch):
    weight = torch.randn(70, 96).bfloat16()
    codes, scales = int8.quantize(weight)
    monkeypatch.setattr(matrix_module, "_QUANTIZED_OUTPUTS", 32)
    tensors = pack_int8(weight, CPU)
    assert torch.equal(tensors["weight"][:, :96], codes)
    assert torch.equal(int8_values(tensors)[:, :96], int8.dequantize(codes, scales))
    assert not int8_values(tensors)[:, 96:].any()


def test_a_residual_is_added_before_rounding_and_written_over(linear):
    weights, x = matrix(128, 256), torch.randn(5, 256).bfloat16()
    residual = torch.randn(5, 128).bfloat16()
    wanted = expected(x, weights, residual)
    out = linear(x, weights, residual)
    assert out is residual
    torch.testing.assert_close(out, wanted, rtol=2**-8, atol=2**-8)


def test_wide_results_are_not_rounded(linear):
    weights, x = matrix(64, 256, bias=False, is_wide=True), torch.randn(3, 256).bfloat16()
    torch.testing.assert_close(linear(x, weights), expected(x, weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("k", [256, 192, 96])
def test_a_row_has_the_same_bits_among_any_others_and_in_any_tile(linear, k, is_int8):
    weights = in_8_bits_and_not(192, k)[0] if is_int8 else matrix(192, k)
    x = torch.randn(70, k).bfloat16()
    all_rows = linear(x, weights, tile=LARGE)
    for rows, tile in (
        (slice(3, 4), SMALL),
        (slice(0, 20), SMALL),
        (slice(3, 60), LARGE),
        (slice(0, 70), SMALL),
    ):
        assert torch.equal(linear(x[rows], weights, tile=tile), all_rows[rows])


@pytest.fixture
def products(monkeypatch):
    """Rows of what cuBLAS multiplies."""
    num_rows, product = [], blas.product

    def note(x, weights):
        num_rows.append(len(x))
        return product(x, weights)

    monkeypatch.setattr(blas, "product", note)
    return num_rows


@pytest.mark.parametrize(("n", "k"), [(192, 256), (70, 96)])
@pytest.mark.parametrize("bias", [True, False])
def test_in_the_faster_mode_cublas_multiplies_many_rows_and_ours_finishes_them(products, n, k, bias):
    faster = Linear(ArrivalCounters(CPU), by_blas=True)
    weights, x = matrix(n, k, bias=bias), torch.randn(FEW_ROWS + 9, k).bfloat16()
    residual = torch.randn(len(x), n).bfloat16()
    wanted = [expected(x, weights), expected(x, weights, residual)]
    out = faster(x, weights, residual)
    assert out is residual
    for found, each in zip((faster(x, weights), out), wanted, strict=True):
        torch.testing.assert_close(found, each, rtol=2**-7, atol=2**-6)
    assert products == [len(x)] * 2


def test_in_the_faster_mode_few_rows_and_logits_have_the_bits_of_the_invariant_one(linear, products):
    faster = Linear(ArrivalCounters(CPU), by_blas=True)
    weights, logits = matrix(192, 96), matrix(192, 96, bias=False, is_wide=True)
    for each, num_rows in ((weights, FEW_ROWS), (logits, FEW_ROWS + 9)):
        x = torch.randn(num_rows, 96).bfloat16()
        assert torch.equal(faster(x, each), linear(x, each))
    assert products == []


def test_the_planner_knows_from_how_many_rows_on_cublas_multiplies():
    assert BLAS_ROWS == FEW_ROWS + 1


def test_no_rows_give_no_rows(linear):
    assert linear(torch.empty(0, 64).bfloat16(), matrix(64, 64)).shape == (0, 64)


@pytest.mark.timeout(1200)
def test_what_finishes_a_product_of_cublas_fits_a_hopper():
    kernels = compile_launches("tests.support.triton_scenarios:behind_cublas")
    assert {kernel.name for kernel in kernels} == {"_finish_kernel", "_heads_kernel"}
    for kernel in kernels:
        kernel.assert_fits()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", ["linear", pytest.param("linear_in_8_bits", marks=pytest.mark.sm90)])
def test_matmuls_at_the_published_shapes_use_the_tensor_cores_of_a_hopper_and_spill_nothing(scenario):
    kernels = compile_launches(f"tests.support.triton_scenarios:{scenario}")
    assert len(kernels) == 6
    for kernel in kernels:
        kernel.assert_fits()
        assert kernel.has_wgmma and not kernel.has_mma and kernel.loop_conversions == 0, kernel
