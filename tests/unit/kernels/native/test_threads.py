"""Contexts on many threads: one is used by one thread at a time, several do not disturb each other."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gptoss_ray.kernels.native.context import NativeContext
from gptoss_ray.kernels.native.library import Activations, NativeLibrary
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.native.packed import PackedMatrix

N, K = 200, 96


def matrix(kernels: NativeKernels) -> PackedMatrix:
    return kernels.matrix(kernels.pack(torch.randn(N, K), torch.randn(N)), (N, K))


def test_two_threads_in_one_context_get_the_result_or_an_error(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=2)
    weights, x = matrix(kernels), torch.randn(64, K).bfloat16()
    expected = kernels.linear(x, weights)
    start = threading.Barrier(2)

    def call_often(_: int) -> int:
        start.wait()
        refused = 0
        for _ in range(300):
            try:
                result = kernels.linear(x, weights)
            except ValueError as error:
                assert "another thread" in str(error)
                refused += 1
            else:
                assert torch.equal(result, expected)
        return refused

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(call_often, range(2))) < 600
    assert torch.equal(kernels.linear(x, weights), expected)


def test_contexts_do_not_disturb_each_other(library: NativeLibrary):
    def work(seed: int) -> bool:
        kernels = NativeKernels(library, num_threads=1 + seed % 3)
        weights, x = matrix(kernels), torch.randn(40, K).bfloat16()
        expected = kernels.linear(x, weights)
        equal = all(torch.equal(kernels.linear(x, weights), expected) for _ in range(50))
        kernels.close()
        return equal

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_threads_that_fell_asleep_come_back(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=3)
    weights, x = matrix(kernels), torch.randn(40, K).bfloat16()
    expected = kernels.linear(x, weights)
    for _ in range(20):
        time.sleep(0.002)
        assert torch.equal(kernels.linear(x, weights), expected)


def test_many_contexts_come_and_go(library: NativeLibrary):
    before = threading.active_count()
    for _ in range(50):
        NativeContext(library, 4).close()
    assert threading.active_count() == before


def test_a_child_of_fork_computes_without_the_threads(library: NativeLibrary):
    kernels = NativeKernels(library, num_threads=3)
    weights, x = matrix(kernels), torch.randn(40, K).bfloat16()
    expected = kernels.linear(x, weights)
    child = os.fork()
    if child == 0:
        is_equal = expected.equal(kernels.linear(x, weights))
        kernels.close()
        os._exit(0 if is_equal else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(kernels.linear(x, weights), expected)


def test_signals_reach_the_program_and_not_the_kernels_threads(library: NativeLibrary):
    caught = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: caught.append(threading.get_ident()))
    try:
        kernels = NativeKernels(library, num_threads=3)
        signal.raise_signal(signal.SIGUSR1)
        weights = matrix(kernels)
        kernels.linear(torch.randn(40, K).bfloat16(), weights)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert caught == [threading.get_ident()]


@pytest.mark.parametrize("num_bytes", [0, 1, 7, 8, 1000, (1 << 20) + 3])
def test_measure_read_touches_every_byte(library: NativeLibrary, num_bytes: int):
    context = NativeContext(library, 2)
    data = torch.randint(256, (max(num_bytes, 1),), dtype=torch.uint8)
    checksum = ctypes.c_uint64()
    functions = context.functions
    assert not functions.gr_measure_read(context.handle, data.data_ptr(), num_bytes, ctypes.byref(checksum))
    content = data.numpy().tobytes()[:num_bytes]
    whole = num_bytes // 8 * 8
    words = (int.from_bytes(content[i : i + 8], "little") for i in range(0, whole, 8))
    assert checksum.value == (sum(words) + sum(content[whole:])) % (1 << 64)


def test_measure_dots_runs_on_all_threads(library: NativeLibrary):
    for instruction_set in library.instruction_sets:
        context = NativeContext(library, 2, instruction_set=instruction_set)
        measure, sink = context.functions.gr_measure_dots, ctypes.c_float()
        assert not measure(context.handle, 1600, Activations.BF16, ctypes.addressof(sink))
        assert sink.value == 1600 * 32
        assert not measure(context.handle, 1600, Activations.INT8, ctypes.addressof(sink))
        # Ones and minus ones cancel out: what is left is where each lane of each chain began.
        assert sink.value in {16 * num_chains for num_chains in (2, 4, 16)}
        assert measure(context.handle, 1600, 2, ctypes.addressof(sink)) < 0
        assert "activations is 2" in library.last_error()
