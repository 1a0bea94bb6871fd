"""Threads, memory and life time; what the kernels compute is tested beside each kind of them."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import Expert, Kernels, Mxfp4, SwiGLU
from gptoss_ray.kernels.native.library import Activations, NativeLibrary
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.native.packed import Format, PackedMatrix
from tests.support.wrong_tensors import random

N, K = 40, 64


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def copied(tensor: Tensor) -> Tensor:
    """The same values elsewhere; torch begins its memory on 64 bytes."""
    return torch.empty_like(tensor).copy_(tensor)


def test_it_is_named_after_its_instruction_set(kernels: NativeKernels):
    as_protocol: Kernels = kernels
    assert as_protocol.name == f"native-{kernels.context.instruction_set}"
    assert as_protocol.packing is not None and as_protocol.packing.endswith("bfloat16")


def test_packing_tells_the_formats_of_dense_weights_apart(library: NativeLibrary):
    names = {
        NativeKernels(library, num_threads=1, dense_weights=each).packing for each in ("bfloat16", "int8")
    }
    assert len(names) == 2


def test_weights_packed_for_either_activations_are_the_same(library: NativeLibrary):
    plain, coded = (
        NativeKernels(library, num_threads=1, dense_weights="int8", activations=each)
        for each in ("bfloat16", "int8")
    )
    assert plain.packing == coded.packing
    tensors = plain.pack(random(N, K))
    assert coded.matrix(tensors, (N, K)).activations is Activations.INT8
    assert plain.matrix(tensors, (N, K)).activations is Activations.BF16


@pytest.mark.parametrize("dense_weights", ["bfloat16", "int8"])
def test_what_pack_returns_is_a_matrix_also_after_a_move(library: NativeLibrary, dense_weights):
    kernels = NativeKernels(library, num_threads=1, dense_weights=dense_weights)
    tensors = kernels.pack(random(N, K), random(N))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values())
    first = kernels.matrix(tensors, (N, K))
    moved = kernels.matrix({name: copied(tensor) for name, tensor in tensors.items()}, (N, K))
    x = random(3, K)
    assert torch.equal(kernels.linear(x, first), kernels.linear(x, moved))
    assert first.num_bytes == moved.num_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_each_weight_has_its_format(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=1, dense_weights="int8")
    stored = Mxfp4(torch.zeros(N, K // 32, 16, dtype=torch.uint8), torch.zeros(N, K // 32, dtype=torch.uint8))
    assert kernels.matrix(kernels.pack(stored), (N, K)).format is Format.MXFP4
    assert kernels.matrix(kernels.pack(random(N, K)), (N, K)).format is Format.INT8
    other = NativeKernels(library, num_threads=1)
    assert other.matrix(other.pack(random(N, K).float()), (N, K)).format is Format.BF16


def test_wide_results_are_the_same_before_rounding(kernels: NativeKernels):
    tensors = kernels.pack(random(N, K), random(N), is_wide=True)
    x = random(5, K)
    wide = kernels.linear(x, kernels.matrix(tensors, (N, K), is_wide=True))
    assert wide.dtype == torch.float32
    assert torch.equal(wide.bfloat16(), kernels.linear(x, kernels.matrix(tensors, (N, K))))


def test_a_table_keeps_its_experts_alive(kernels: NativeKernels):
    def make() -> tuple[PackedMatrix, PackedMatrix]:
        generator = torch.Generator().manual_seed(1)
        gate_up = torch.randn(2 * 32, K, generator=generator).bfloat16()
        down = torch.randn(K, 32, generator=generator).bfloat16()
        first = kernels.matrix(kernels.pack(gate_up), (2 * 32, K))
        return first, kernels.matrix(kernels.pack(down), (K, 32))

    x, swiglu = random(2, K), SwiGLU(1.702, 7.0)
    table = kernels.expert_table([Expert(*make())])
    expected = kernels.experts(x, [2], table, swiglu)
    gc.collect()
    _ = [make() for _ in range(8)]  # would take the memory of experts that are gone
    assert torch.equal(kernels.experts(x, [2], table, swiglu), expected)


def test_threads_end_with_the_kernels(library: NativeLibrary):
    before = num_threads()
    kernels = NativeKernels(library, num_threads=4)
    assert num_threads() == before + 3
    kernels.pack(random(N, K))
    assert num_threads() == before + 6, "packing has threads of its own"
    del kernels
    gc.collect()
    assert num_threads() == before


def test_results_do_not_depend_on_the_number_of_threads(library: NativeLibrary):
    x, weight, bias = random(9, K), random(200, K), random(200)
    results = []
    for count in (1, 2, 5):
        kernels = NativeKernels(library, num_threads=count)
        results.append(kernels.linear(x, kernels.matrix(kernels.pack(weight, bias), (200, K))))
    assert all(torch.equal(result, results[0]) for result in results)


def test_pinned_threads_compute_the_same(library: NativeLibrary):
    count = min(2, len(os.sched_getaffinity(0)))
    x, weight = random(9, K), random(200, K)
    results = []
    for pinned in (False, True):
        kernels = NativeKernels(library, num_threads=count, pin_threads=pinned)
        results.append(kernels.linear(x, kernels.matrix(kernels.pack(weight), (200, K))))
    assert torch.equal(results[0], results[1])


def test_kernels_of_two_threads_do_not_disturb_each_other(library: NativeLibrary):
    weight, x = random(320, K), random(7, K)

    def compute(_: int) -> Tensor:
        kernels = NativeKernels(library, num_threads=2)
        matrix = kernels.matrix(kernels.pack(weight), (320, K))
        return torch.stack([kernels.linear(x, matrix) for _ in range(50)])

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(compute, range(2))
    assert torch.equal(first, second) and torch.equal(first[0], first[-1])


def test_weights_are_packed_while_others_compute(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=2)
    x, weight = random(5, 256), random(512, 256)
    matrix = kernels.matrix(kernels.pack(weight), (512, 256))
    expected = kernels.linear(x, matrix)
    with ThreadPoolExecutor(2) as pool:
        packing = [pool.submit(kernels.pack, weight) for _ in range(40)]
        while not all(each.done() for each in packing):
            assert torch.equal(kernels.linear(x, matrix), expected)
    assert all(torch.equal(each.result()["codes"], matrix.tensors["codes"]) for each in packing)


def test_one_object_in_two_threads_is_refused_or_right(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=2)
    x = random(64, 512)
    matrix = kernels.matrix(kernels.pack(random(1024, 512)), (1024, 512))
    expected = kernels.linear(x, matrix)

    def compute(_: int) -> str:
        try:
            return "right" if torch.equal(kernels.linear(x, matrix), expected) else "wrong"
        except ValueError as error:
            return "refused" if "another thread" in str(error) else str(error)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(compute, range(200))) <= {"right", "refused"}
    assert compute(0) == "right"
