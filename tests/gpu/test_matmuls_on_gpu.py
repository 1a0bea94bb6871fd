"""Matmuls, gate and experts on a card, at the published shapes: right, and with the same bits in any batch.

Here is shown what no interpreter can: that an element's sum in the matrix instruction does not depend on the
tile, on the rows beside it, or on which programs summed its parts.
"""

from __future__ import annotations

import random

import pytest
import torch

from gptoss_ray.checkpoint.mxfp4 import dequantize
from gptoss_ray.kernels import int8
from gptoss_ray.kernels.kernels import Expert, Gate, Mxfp4, SwiGLU
from gptoss_ray.kernels.reference import swiglu
from gptoss_ray.kernels.triton.combine import combine
from gptoss_ray.kernels.triton.experts import InPlace
from gptoss_ray.kernels.triton.gate import choose_experts
from gptoss_ray.kernels.triton.last_arrival import ArrivalCounters
from gptoss_ray.kernels.triton.linear import Linear
from gptoss_ray.kernels.triton.norm import rms_norm
from gptoss_ray.kernels.triton.routing import route
from gptoss_ray.kernels.triton.tiles import expert_candidates, linear_candidates
from gptoss_ray.kernels.triton.triton_kernels import TritonKernels
from tests.support.triton_layers import int8_values, random_norm

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1800)]
GPU = torch.device("cuda")
HIDDEN, WIDTH = 2880, 2880
DENSE = {"qkv": (5120, HIDDEN), "out": (HIDDEN, 4096), "unembedding": (201_088, HIDDEN)}
SWIGLU = SwiGLU(1.702, 7.0)
RNG = random.Random(random.SystemRandom().randrange(1 << 30))


@pytest.fixture(scope="module")
def kernels():
    return TritonKernels(GPU)


def dense(name, dense_weights):
    """Return the values of a weight, a bias, and the matrix of both."""
    kernels = TritonKernels(GPU, dense_weights=dense_weights)
    n, k = DENSE[name]
    is_wide = name == "unembedding"
    weight = torch.randn(n, k, device=GPU).bfloat16() / k**0.5
    bias = None if is_wide else torch.randn(n, device=GPU)
    matrix = kernels.matrix(kernels.pack(weight, bias, is_wide=is_wide), (n, k), is_wide=is_wide)
    if matrix.is_int8:
        weight = int8_values(matrix.tensors)[:, :k].bfloat16()
    return weight, bias, matrix


def some_rows(num_rows):
    """Runs of rows of every size that has a tile of its own, anywhere."""
    for size in (1, 2, 15, 16, 17, 33, 64, 65, 200):
        start = RNG.randrange(num_rows - size)
        yield slice(start, start + size)


@pytest.mark.parametrize("dense_weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", DENSE)
def test_dense_matmuls_are_right_and_a_row_has_its_bits_in_any_batch_and_tile(name, dense_weights):
    weight, bias, matrix = dense(name, dense_weights)
    x = torch.randn(300, weight.shape[1], device=GPU).bfloat16()
    linear = Linear(ArrivalCounters(GPU))
    whole = linear(x, matrix)
    wanted = x.double() @ weight.double().T + (0.0 if bias is None else bias)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if bias is None else {"rtol": 2**-7, "atol": 2**-7}
    torch.testing.assert_close(whole.double(), wanted, **tolerance)
    for rows in some_rows(300):
        assert torch.equal(linear(x[rows], matrix), whole[rows]), rows
    for few in (16, 64, 128):
        for tile in linear_candidates(few):
            try:
                assert torch.equal(linear(x[:60], matrix, tile=tile), whole[:60]), tile
                assert torch.equal(linear(x, matrix, tile=tile), whole), tile
            except Exception as error:
                if type(error).__name__ != "OutOfResources":
                    raise


@pytest.mark.parametrize("name", ["qkv", "out"])
def test_cublas_multiplies_many_rows_right_and_leaves_few_as_they_are(name):
    weight, bias, matrix = dense(name, "bfloat16")
    x = torch.randn(300, weight.shape[1], device=GPU).bfloat16()
    residual = torch.randn(300, weight.shape[0], device=GPU).bfloat16()
    plain, faster = (Linear(ArrivalCounters(GPU), by_blas=choice) for choice in (False, True))
    wanted = x.double() @ weight.double().T + bias + residual
    found = faster(x, matrix, residual.clone())
    torch.testing.assert_close(found.double(), wanted, rtol=2**-6, atol=2**-6)
    assert torch.equal(faster(x[:64], matrix), plain(x[:64], matrix))


@pytest.mark.parametrize("name", DENSE)
def test_weights_become_the_same_int8_here_and_on_a_cpu(name):
    n, k = DENSE[name]
    weight = torch.randn(n, k).bfloat16()
    codes, scales = int8.quantize(weight)
    packed = TritonKernels(GPU, dense_weights="int8").pack(weight)
    assert torch.equal(packed["weight"][:, :k].cpu(), codes)
    assert torch.equal(int8_values(packed)[:, :k].cpu(), int8.dequantize(codes, scales))


def stored_experts(count):
    def matrix(n, k):
        blocks = torch.randint(0, 256, (n, k // 32, 16), dtype=torch.uint8, device=GPU)
        scales = torch.randint(117, 122, (n, k // 32), dtype=torch.uint8, device=GPU)
        return Mxfp4(blocks, scales), torch.randn(n, device=GPU).bfloat16()

    return [(matrix(2 * WIDTH, HIDDEN), matrix(HIDDEN, WIDTH)) for _ in range(count)]


@pytest.fixture(scope="module", params=[32, 128])
def experts(request, kernels):
    stored = stored_experts(request.param)
    packed = [
        Expert(*(kernels.matrix(kernels.pack(weight, bias), weight.shape) for weight, bias in pair))
        for pair in stored
    ]
    return stored, kernels.expert_table(packed)


def expected_expert(stored, row):
    (gate_up, gate_up_bias), (down, down_bias) = stored
    weights = [dequantize(each.blocks, each.scales).float() for each in (gate_up, down)]
    both = (row.float() @ weights[0].T + gate_up_bias.float()).bfloat16()
    activated = swiglu(both, alpha=SWIGLU.alpha, limit=SWIGLU.limit)
    return activated.float() @ weights[1].T + down_bias.float()


def test_experts_are_right_and_a_row_has_its_bits_in_place_grouped_and_in_any_tile(kernels, experts):
    stored, table = experts
    count, num_tokens = len(table), 400
    x = torch.randn(num_tokens, HIDDEN, device=GPU).bfloat16()
    ids = torch.rand(num_tokens, count, device=GPU).topk(4, dim=-1).indices
    order = ids.flatten().argsort(stable=True)
    counts = ids.flatten().bincount(minlength=count).int()
    starts = counts.cumsum(0) - counts
    ranks = torch.empty_like(order).index_copy_(
        0, order, torch.arange(len(order), device=GPU) - starts[ids.flatten()[order]]
    )
    matmuls = kernels._experts
    in_place = matmuls(x, 4 * num_tokens, table, InPlace(ids), SWIGLU)
    for row in RNG.sample(range(4 * num_tokens), 12):
        wanted = expected_expert(stored[int(ids.flatten()[row])], x[row // 4])
        torch.testing.assert_close(in_place[row].float(), wanted, rtol=0.03, atol=0.03 * wanted.abs().max())
    for rows in (16, 32, 64):
        routing = route(counts, 4 * num_tokens, rows, ids, ranks.int())
        for tile in (None, *expert_candidates(rows)):
            try:
                grouped = matmuls(x, 4 * num_tokens, table, routing, SWIGLU, tile=tile)
            except Exception as error:
                if type(error).__name__ != "OutOfResources":
                    raise
                continue
            assert torch.equal(grouped, in_place), (rows, tile)
    by_expert = kernels.experts(x[order // 4], counts.tolist(), table, SWIGLU)
    assert torch.equal(by_expert, in_place[order])


@pytest.mark.parametrize("num_experts", [32, 128])
def test_a_row_chooses_the_same_experts_with_the_same_bits_in_any_batch(num_experts):
    x = torch.randn(500, HIDDEN, device=GPU).bfloat16()
    norm = random_norm(HIDDEN)
    norm = type(norm)(norm.weight.to(GPU), norm.eps)
    gate = Gate(torch.randn(num_experts, HIDDEN, device=GPU), torch.randn(num_experts, device=GPU), 4)
    counters = ArrivalCounters(GPU)
    whole = choose_experts(x, norm, gate, counters)
    wanted = (whole.normed.double() @ gate.weight.double().T + gate.bias).topk(4, dim=-1)
    assert (whole.expert_ids == wanted.indices).float().mean() > 0.999
    torch.testing.assert_close(whole.weights.double(), wanted.values.softmax(-1), rtol=1e-3, atol=1e-3)
    for rows in some_rows(500):
        part = choose_experts(x[rows], norm, gate, counters)
        assert all(torch.equal(a, b[rows]) for a, b in zip(part[:3], whole[:3], strict=True)), rows


def test_what_norms_a_row_behind_the_experts_gives_the_bits_of_the_norm():
    hidden, slots = (torch.randn(300, *shape, device=GPU).bfloat16() for shape in ((HIDDEN,), (4, HIDDEN)))
    norm = random_norm(HIDDEN)
    norm = type(norm)(norm.weight.to(GPU), norm.eps)
    normed = combine(hidden, slots, torch.rand(300, 4, device=GPU), norm)
    assert torch.equal(normed, rms_norm(hidden, norm))
    assert torch.equal(rms_norm(hidden[7:8], norm), normed[7:8])
