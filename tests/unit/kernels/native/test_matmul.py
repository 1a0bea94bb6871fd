"""Dense layers and experts: near the float32 product; a row has the same bits whatever stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptoss_ray.kernels import reference
from gptoss_ray.kernels.kernels import Expert, Mxfp4, Norm, SwiGLU
from gptoss_ray.kernels.native.library import INSTRUCTION_SETS, Activations, NativeLibrary
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.native.packed import BLOCK, Format, PackedMatrix
from gptoss_ray.kernels.native.packing import Packer
from tests.support.int8_rows import as_int8, int8_rows
from tests.support.stored_weights import random_weight


class Kind(NamedTuple):
    """What a matrix consists of, and what it multiplies."""

    weights: Format
    activations: Activations

    def multiplied(self, x: Tensor) -> Tensor:
        """Return the float32 values that stand for rows x."""
        return as_int8(x) if self.activations is Activations.INT8 else x.float()


CODED = [Kind(weights, Activations.INT8) for weights in (Format.MXFP4, Format.INT8)]
KINDS = [*(Kind(weights, Activations.BF16) for weights in Format), *CODED]
SWIGLU = SwiGLU(1.702, 7.0)
# One panel of 16 outputs, parts of one, several; one block, an odd number of blocks, a true width.
SHAPES = [(1, 32), (16, 64), (40, 96), (23, 160), (130, 2880)]
MAX_ROWS = 70
# All examples run on the same threads.
PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def on_threads(request: pytest.FixtureRequest, library: NativeLibrary) -> Iterator[list[NativeKernels]]:
    """Kernels of one instruction set on 1, 2 and 3 threads."""
    if request.param not in library.instruction_sets:
        pytest.skip(f"this machine has no {request.param}")
    sets = [NativeKernels(library, num_threads=count, instruction_set=request.param) for count in (1, 2, 3)]
    yield sets
    for kernels in sets:
        kernels.close()


def pack(
    kernels: NativeKernels, kind: Kind, n: int, k: int, *, is_wide: bool = False
) -> tuple[PackedMatrix, Tensor, Tensor]:
    """Return a random matrix with a bias, its values [n, k] and the bias [n]."""
    weight, values = random_weight(kind.weights, n, k)
    bias = torch.randn(n)
    tensors = Packer(kernels.context.library, 1, kind.weights).pack(weight, bias)
    return PackedMatrix(tensors, (n, k), is_wide, kind.activations), values, bias


def one_by_one(kernels: NativeKernels, x: Tensor, matrix: PackedMatrix) -> Tensor:
    return torch.cat([kernels.linear(row[None], matrix) for row in x])


def relative_error(result: Tensor, expected: Tensor) -> float:
    return float((result.float() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_results_are_near_the_float32_product(on_threads, kind: Kind, n: int, k: int):
    for kernels, num_rows in zip(on_threads, (1, 5, MAX_ROWS), strict=True):
        matrix, values, bias = pack(kernels, kind, n, k, is_wide=True)
        x = torch.randn(num_rows, k).bfloat16()
        expected = kind.multiplied(x) @ values.T + bias
        assert relative_error(kernels.linear(x, matrix), expected) < 1e-5


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("k", [32, 96, 2880])
def test_8_bit_activations_cost_less_than_a_percent(on_threads, kind: Kind, k: int):
    kernels = on_threads[1]
    matrix, values, bias = pack(kernels, kind, 130, k, is_wide=True)
    x = torch.randn(MAX_ROWS, k).bfloat16()
    exact = x.float() @ values.T
    error = (kernels.linear(x, matrix) - bias - exact).norm() / exact.norm()
    assert 1e-4 < error < 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_a_row_has_the_same_bits_in_every_batch_on_any_threads(on_threads, kind, n: int, k: int):
    matrix, _, _ = pack(on_threads[0], kind, n, k, is_wide=True)
    x = torch.randn(MAX_ROWS, k).bfloat16()
    alone = one_by_one(on_threads[0], x, matrix)
    for num_rows in range(1, MAX_ROWS + 1):
        kernels = on_threads[num_rows % len(on_threads)]
        first = 31 * num_rows % (MAX_ROWS + 1 - num_rows)
        rows = slice(first, first + num_rows)
        assert torch.equal(kernels.linear(x[rows], matrix), alone[rows])


@PROPERTY
@given(data=st.data())
def test_rows_do_not_depend_on_each_other_whatever_the_shape(on_threads, data: st.DataObject):
    kind = data.draw(st.sampled_from(KINDS))
    n, num_blocks = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 11))
    num_rows = data.draw(st.integers(1, 40))
    kernels = data.draw(st.sampled_from(on_threads))
    torch.manual_seed(data.draw(st.integers(0, 1 << 20)))
    matrix, _, _ = pack(kernels, kind, n, BLOCK * num_blocks)
    x = torch.randn(num_rows, BLOCK * num_blocks).bfloat16()
    together = kernels.linear(x, matrix)
    order = torch.randperm(num_rows)
    assert torch.equal(kernels.linear(x[order], matrix), together[order])
    assert torch.equal(one_by_one(on_threads[0], x, matrix), together)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_row_stays_alone(on_threads, kind: Kind, bad: float):
    kernels = on_threads[1]
    matrix, _, _ = pack(kernels, kind, 24, 64)
    x = torch.randn(20, 64).bfloat16()
    expected = kernels.linear(x, matrix)
    x[7, 3] = bad
    result = kernels.linear(x, matrix)
    assert not result[7].isfinite().all()
    others = torch.arange(20) != 7
    assert torch.equal(result[others], expected[others])


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_rounded_once(on_threads, kind: Kind):
    kernels = on_threads[2]
    wide, _, _ = pack(kernels, kind, 40, 96, is_wide=True)
    matrix = PackedMatrix(wide.tensors, (40, 96), activations=kind.activations)
    x, residual = torch.randn(33, 96).bfloat16(), torch.randn(33, 40).bfloat16()
    exact = kernels.linear(x, wide)
    assert torch.equal(kernels.linear(x, matrix), exact.bfloat16())
    expected = (residual.float() + exact).bfloat16()
    result = kernels.linear_add(x, matrix, residual)
    assert torch.equal(result, expected)
    assert result.data_ptr() == residual.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_that_of_the_reference(on_threads, kind: Kind):
    kernels = on_threads[1]
    matrix, values, bias = pack(kernels, kind, 40, 96, is_wide=True)
    x, norm = torch.randn(19, 96).bfloat16(), Norm(torch.rand(96) + 0.5, 1e-5)
    normed = reference.rms_norm(x, norm.weight, norm.eps)
    result = kernels.norm_linear(x, norm, matrix)
    # A norm may round to the other neighbour here and there.
    assert relative_error(result, kind.multiplied(normed) @ values.T + bias) < 1e-2


@pytest.mark.parametrize("weight_format", Format)
def test_portable_sums_are_taken_in_the_documented_order(library: NativeLibrary, weight_format: Format):
    kernels = NativeKernels(library, num_threads=1, instruction_set="portable")
    kind = Kind(weight_format, Activations.BF16)
    matrix, values, bias = pack(kernels, kind, 20, 96, is_wide=True)
    x = torch.randn(3, 96).bfloat16().float()
    codes, scales = split(values, matrix)
    total = torch.zeros(3, 20)
    for block in range(3):
        block_sum = torch.zeros(3, 20)
        for i in range(BLOCK * block, BLOCK * (block + 1)):
            block_sum = block_sum + x[:, i, None] * codes[:, i]
        total = total + block_sum * scales[:, block]
    assert torch.equal(kernels.linear(x.bfloat16(), matrix), total + bias)


@pytest.mark.parametrize("kind", CODED)
def test_8_bit_sums_have_the_bits_of_their_definition(library: NativeLibrary, kind: Kind):
    # Where scales are powers of two no product with them is rounded, so that all sets have the same bits.
    is_exact = kind.weights is Format.MXFP4
    for instruction_set in library.instruction_sets if is_exact else ("portable",):
        kernels = NativeKernels(library, num_threads=1, instruction_set=instruction_set)
        matrix, values, bias = pack(kernels, kind, 20, 224, is_wide=True)
        x = torch.randn(19, 224).bfloat16()
        x[3] *= 1e30
        x[5, :BLOCK] = 0
        codes, scales = split(values, matrix)
        row_codes, row_scales = int8_rows(x)
        total = torch.zeros(19, 20)
        for block in range(224 // BLOCK):
            k = slice(BLOCK * block, BLOCK * (block + 1))
            dots = row_codes[:, k] @ codes[:, k].T
            total = total + dots * row_scales[:, block, None] * scales[:, block]
        assert torch.equal(kernels.linear(x, matrix), total + bias), instruction_set


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("magnitude", [0.0, 1e-39, 1e-30, 1e30])
def test_rows_of_any_magnitude_have_8_bit_codes(on_threads, kind: Kind, magnitude: float):
    matrix, values, _ = pack(on_threads[0], kind, 40, 96)
    wide = PackedMatrix(
        {name: tensor for name, tensor in matrix.tensors.items() if name != "bias"},
        matrix.shape,
        is_wide=True,
        activations=kind.activations,
    )
    x = (torch.randn(5, 96) * magnitude).bfloat16()
    exact = x.double() @ values.double().T
    for kernels in on_threads:
        error = (kernels.linear(x, wide) - exact).norm()
        assert error <= 1e-2 * exact.norm()


def split(values: Tensor, matrix: PackedMatrix) -> tuple[Tensor, Tensor]:
    """Return codes [N, K] and scales [N, K/32], float32, of a matrix with those values."""
    n, k = values.shape
    if matrix.format is Format.BF16:
        return values, torch.ones(n, k // BLOCK)
    scales = matrix.tensors["scales"].transpose(1, 2).reshape(-1, k // BLOCK)[:n].float()
    if matrix.format is Format.MXFP4:
        scales = torch.exp2(scales - 127)
    codes = values.view(n, -1, BLOCK) / scales[..., None]
    return (codes.round() if matrix.format is Format.INT8 else codes).view(n, k), scales


@pytest.mark.parametrize("activations", Activations)
def test_scales_reach_from_the_smallest_to_the_largest(on_threads, activations: Activations):
    kernels = on_threads[0]
    scales = torch.tensor([0, 1, 127, 249, 255], dtype=torch.uint8)
    blocks = torch.full((5, 1, 16), 0x22, dtype=torch.uint8)  # 1.0 everywhere
    tensors = kernels.pack(Mxfp4(blocks, scales[:, None]))
    matrix = PackedMatrix(tensors, (5, 32), is_wide=True, activations=activations)
    # Such a row's scale is 1/128, so that its codes lose nothing.
    result = kernels.linear(torch.full((1, 32), 127 / 128).bfloat16(), matrix)[0] / 127 * 128
    expected = torch.tensor([2.0**-122, 2.0**-121, 32.0, 2.0**127])
    assert torch.equal(result[:4], expected)
    assert result[4].isnan()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "counts", [[1, 0, 1, 1, 1], [0, 0, 0, 40, 0], [3, 17, 0, 1, 33], [0, 64, 0, 0, 2], [0] * 5]
)
def test_experts_are_near_the_reference_and_rows_independent(on_threads, kind, counts: list[int]):
    hidden_size, inner = 96, 160
    gate_up = [pack(on_threads[0], kind, 2 * inner, hidden_size) for _ in counts]
    down = [pack(on_threads[0], kind, hidden_size, inner) for _ in counts]
    table = on_threads[0].expert_table([Expert(a[0], b[0]) for a, b in zip(gate_up, down, strict=True)])
    x = torch.randn(sum(counts), hidden_size).bfloat16()
    results = [kernels.experts(x, counts, table, SWIGLU) for kernels in on_threads]
    owners = [expert for expert, count in enumerate(counts) for _ in range(count)]
    assert results[0].shape == x.shape
    for row, expert in enumerate(owners):
        _, up_values, up_bias = gate_up[expert]
        _, down_values, down_bias = down[expert]
        wide = (kind.multiplied(x[row : row + 1]) @ up_values.T + up_bias).bfloat16()
        active = kind.multiplied(reference.swiglu(wide, alpha=SWIGLU.alpha, limit=SWIGLU.limit))
        assert relative_error(results[0][row], (active @ down_values.T + down_bias)[0]) < 2e-2
        only = [int(i == expert) for i in range(len(counts))]
        alone = on_threads[row % 3].experts(x[row : row + 1], only, table, SWIGLU)[0]
        assert all(torch.equal(result[row], alone) for result in results)


@pytest.mark.parametrize("activations", Activations)
def test_experts_may_have_different_formats(on_threads, activations: Activations):
    kernels = on_threads[1]
    experts = [
        Expert(pack(kernels, kind, 64, 64)[0], pack(kernels, kind, 64, 32)[0])
        for kind in KINDS
        if kind.activations is activations
    ]
    counts = [2, 3, 4][: len(experts)]
    x = torch.randn(sum(counts), 64).bfloat16()
    together = kernels.experts(x, counts, kernels.expert_table(experts), SWIGLU)
    parts = zip(x.split(counts), experts, strict=True)
    alone = [kernels.experts(rows, [len(rows)], kernels.expert_table([e]), SWIGLU) for rows, e in parts]
    assert torch.equal(together, torch.cat(alone))
