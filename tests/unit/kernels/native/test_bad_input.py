"""Whatever is wrong with an input, a call answers with ValueError, and the process lives on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Expert, Gate, Mxfp4, Norm, SwiGLU
from gptoss_ray.kernels.native.library import Activations, NativeLibrary
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.native.packed import Format, PackedMatrix
from gptoss_ray.kernels.native.packing import Packer
from tests.support.wrong_tensors import assert_each_wrong_tensor_is_refused, random

T, H, N, E, K = 3, 64, 48, 4, 2
INTERMEDIATE = 32
NORM = Norm(torch.ones(H), 1e-5)
GATE = Gate(random(E, H, dtype=torch.float32), torch.zeros(E), K)
SWIGLU = SwiGLU(1.702, 7.0)


def matrix(kernels: NativeKernels, n: int, k: int) -> PackedMatrix:
    return kernels.matrix(kernels.pack(random(n, k), random(n)), (n, k))


def expert(kernels: NativeKernels) -> Expert:
    return Expert(matrix(kernels, 2 * INTERMEDIATE, H), matrix(kernels, H, INTERMEDIATE))


def test_linear(kernels: NativeKernels):
    weights = matrix(kernels, N, H)
    assert_each_wrong_tensor_is_refused(lambda x: kernels.linear(x, weights), {"x": random(T, H)})


def test_norm_linear(kernels: NativeKernels):
    weights = matrix(kernels, N, H)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return kernels.norm_linear(x, Norm(weight, 1e-5), weights)

    assert_each_wrong_tensor_is_refused(call, {"x": random(T, H), "weight": NORM.weight})


def test_linear_add(kernels: NativeKernels):
    weights = matrix(kernels, N, H)
    assert_each_wrong_tensor_is_refused(
        lambda x, residual: kernels.linear_add(x, weights, residual),
        {"x": random(T, H), "residual": random(T, N)},
    )
    with pytest.raises(ValueError, match="residual"):
        kernels.linear_add(random(T, H), weights, random(T + 1, N))


def test_gate(kernels: NativeKernels):
    def call(x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return kernels.gate(x, Norm(norm, 1e-5), Gate(weight, bias, K))

    arguments = {"x": random(T, H), "norm": NORM.weight, "weight": GATE.weight, "bias": GATE.bias}
    assert_each_wrong_tensor_is_refused(call, arguments)


@pytest.mark.parametrize("num_chosen", [0, -1, E + 1])
def test_gate_with_an_impossible_number_of_experts(kernels: NativeKernels, num_chosen: int):
    with pytest.raises(ValueError, match="experts_per_token"):
        kernels.gate(random(T, H), NORM, replace(GATE, experts_per_token=num_chosen))


def test_combine(kernels: NativeKernels):
    arguments = {
        "hidden": random(T, H),
        "slots": random(T, K, H),
        "weights": random(T, K, dtype=torch.float32),
    }
    assert_each_wrong_tensor_is_refused(kernels.combine, arguments)


def test_experts(kernels: NativeKernels):
    table = kernels.expert_table([expert(kernels)] * E)
    assert_each_wrong_tensor_is_refused(
        lambda rows: kernels.experts(rows, [1, 0, 2, 0], table, SWIGLU), {"rows": random(3, H)}
    )


@pytest.mark.parametrize(
    "counts", [[], [3], [1, 1, 1, 1], [4, -1, 0, 0], [1, 1, 1, 0, 0], [1 << 62, 0, 0, 3]]
)
def test_experts_with_counts_that_do_not_add_up(kernels: NativeKernels, counts: list[int]):
    table = kernels.expert_table([expert(kernels)] * E)
    with pytest.raises(ValueError, match="num_rows_per_expert"):
        kernels.experts(random(3, H), counts, table, SWIGLU)


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, -1, 0, 0], [1, 1, 1]])
def test_experts_with_counts_on_the_device_that_are_more_than_the_rows(
    kernels: NativeKernels, counts: list[int]
):
    table = kernels.expert_table([expert(kernels)] * E)
    with pytest.raises(ValueError, match="num_rows_per_expert"):
        kernels.experts(random(3, H), torch.tensor(counts, dtype=torch.int32), table, SWIGLU)


def test_an_expert_table_of_different_shapes(kernels: NativeKernels):
    odd = Expert(matrix(kernels, 2 * INTERMEDIATE, H), matrix(kernels, H, 2 * INTERMEDIATE))
    for experts in ([odd], [expert(kernels), odd]):
        with pytest.raises(ValueError, match="expert"):
            kernels.expert_table(experts)


def test_matrices_plans_and_tables_of_other_kernels(kernels: NativeKernels):
    other: Any = object()
    with pytest.raises(ValueError, match=r"NativeKernels\.matrix"):
        kernels.linear_add(random(T, H), other, random(T, N))
    with pytest.raises(ValueError, match=r"NativeKernels\.matrix"):
        kernels.expert_table([Expert(other, other)])
    with pytest.raises(ValueError, match=r"NativeKernels\.expert_table"):
        kernels.experts(random(T, H), [T], other, SWIGLU)


@pytest.mark.parametrize("shape", [(N, 33), (N, 0), (0, 32), (N,), (2, N, 32)], ids=str)
def test_packing_values_of_a_shape_that_does_not_fit(kernels: NativeKernels, shape: tuple[int, ...]):
    with pytest.raises(ValueError):
        kernels.pack(torch.zeros(shape, dtype=torch.bfloat16))


def test_packing_tensors_that_do_not_fit(kernels: NativeKernels):
    blocks, scales = torch.zeros(N, 2, 16, dtype=torch.uint8), torch.zeros(N, 2, dtype=torch.uint8)
    assert_each_wrong_tensor_is_refused(
        lambda blocks, scales: kernels.pack(Mxfp4(blocks, scales)), {"blocks": blocks, "scales": scales}
    )
    with pytest.raises(ValueError, match="bias"):
        kernels.pack(Mxfp4(blocks, scales), torch.zeros(N + 1))


def test_a_matrix_of_tensors_that_pack_did_not_make(kernels: NativeKernels):
    tensors = kernels.pack(random(N, H), random(N))
    memory = torch.empty(tensors["codes"].nbytes + 64, dtype=torch.uint8)
    shifted = memory[2:][: tensors["codes"].nbytes].view(torch.bfloat16).view(tensors["codes"].shape)
    wrong: list[dict[str, Tensor]] = [
        {},
        {"bias": tensors["bias"]},
        tensors | {"codes": tensors["codes"][1:]},
        tensors | {"codes": tensors["codes"].float()},
        tensors | {"codes": shifted},
        tensors | {"bias": tensors["bias"].bfloat16()},
        tensors | {"scales": tensors["bias"]},
        tensors | {"other": tensors["bias"]},
    ]
    for each in wrong:
        with pytest.raises(ValueError):
            kernels.matrix(each, (N, H))
    for shape in ((N + 16, H), (N, 2 * H), (N, H - 1), (0, H)):
        with pytest.raises(ValueError):
            kernels.matrix(tensors, shape)


def test_weights_of_16_bits_and_activations_of_8(kernels: NativeKernels):
    tensors = kernels.pack(random(N, H))
    with pytest.raises(ValueError, match="BF16"):
        PackedMatrix(tensors, (N, H), activations=Activations.INT8)


def test_experts_of_different_activations(kernels: NativeKernels):
    packer = Packer(kernels.context.library, 1, Format.INT8)

    def coded(n: int, k: int, activations: Activations) -> PackedMatrix:
        return PackedMatrix(packer.pack(random(n, k), None), (n, k), activations=activations)

    plain, other = (
        Expert(coded(2 * INTERMEDIATE, H, each), coded(H, INTERMEDIATE, each)) for each in Activations
    )
    for odd in (Expert(plain.gate_up, other.down), Expert(other.gate_up, plain.down)):
        with pytest.raises(ValueError, match="activations of expert 1"):
            kernels.experts(random(2, H), [1, 1], kernels.expert_table([plain, odd]), SWIGLU)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_threads": 0},
        {"num_threads": -1},
        {"num_threads": 1, "dense_weights": "int4"},
        {"num_threads": 1, "dense_weights": "int8", "activations": "int4"},
        {"num_threads": 1, "activations": "int8"},
        {"num_threads": 1, "instruction_set": "sse"},
        {"num_threads": 1 << 20, "pin_threads": True},
    ],
    ids=str,
)
def test_kernels_that_cannot_be_had(library: NativeLibrary, arguments: dict[str, Any]):
    with pytest.raises(ValueError):
        NativeKernels(library, **arguments)


def test_kernels_that_were_closed(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=2)
    weights = matrix(kernels, N, H)
    kernels.close()
    kernels.close()
    with pytest.raises(ValueError, match="closed"):
        kernels.linear(random(T, H), weights)
    with pytest.raises(ValueError, match="closed"):
        kernels.pack(random(N, H))


def test_no_rows_are_no_error(kernels: NativeKernels):
    weights = matrix(kernels, N, H)
    none = random(0, H)
    assert kernels.linear(none, weights).shape == (0, N)
    assert kernels.norm_linear(none, NORM, weights).shape == (0, N)
    assert kernels.linear_add(none, weights, random(0, N)).shape == (0, N)
    assert [tensor.shape[0] for tensor in kernels.gate(none, NORM, GATE)] == [0, 0, 0]
    assert kernels.combine(none, random(0, K, H), random(0, K, dtype=torch.float32)).shape == (0, H)
    table = kernels.expert_table([expert(kernels)] * E)
    assert kernels.experts(none, [0] * E, table, SWIGLU).shape == (0, H)
    assert kernels.experts(none, [], kernels.expert_table([]), SWIGLU).shape == (0, H)


def test_rows_need_not_be_contiguous(kernels: NativeKernels):
    weights = matrix(kernels, N, H)
    wide = random(T, 2 * H)
    assert torch.equal(kernels.linear(wide[:, :H], weights), kernels.linear(wide[:, :H].clone(), weights))
