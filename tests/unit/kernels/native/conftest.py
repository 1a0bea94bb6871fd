from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from gptoss_ray.kernels.native.build import find_compiler
from gptoss_ray.kernels.native.library import INSTRUCTION_SETS, NativeLibrary, find_library
from gptoss_ray.kernels.native.native_kernels import NativeKernels


@pytest.fixture(scope="session")
def library() -> NativeLibrary:
    found = find_library()
    if isinstance(found, NativeLibrary):
        return found
    if find_compiler() is None:
        pytest.skip(f"there is no compiler here: {found}")
    pytest.fail(found)


@pytest.fixture(scope="session", params=INSTRUCTION_SETS)
def kernels(request: pytest.FixtureRequest, library: NativeLibrary) -> Iterator[NativeKernels]:
    """Of each instruction set that this machine has, on two threads, with bfloat16 dense weights."""
    if request.param not in library.instruction_sets:
        pytest.skip(f"this machine has no {request.param}")
    kernels = NativeKernels(library, num_threads=2, instruction_set=request.param)
    yield kernels
    kernels.close()


@pytest.fixture(scope="session", params=INSTRUCTION_SETS)
def coded_kernels(request: pytest.FixtureRequest, library: NativeLibrary) -> Iterator[list[NativeKernels]]:
    """Of each instruction set, on 1, 2 and 3 threads, with 8-bit dense weights and activations."""
    if request.param not in library.instruction_sets:
        pytest.skip(f"this machine has no {request.param}")
    sets = [
        NativeKernels(
            library,
            num_threads=count,
            dense_weights="int8",
            activations="int8",
            instruction_set=request.param,
        )
        for count in (1, 2, 3)
    ]
    yield sets
    for kernels in sets:
        kernels.close()


@pytest.fixture(params=[1, 3])
def other_kernels(
    request: pytest.FixtureRequest, kernels: NativeKernels, library: NativeLibrary
) -> Iterator[NativeKernels]:
    """Of the same instruction set as `kernels`, on another number of threads."""
    instruction_set = kernels.context.instruction_set
    other = NativeKernels(library, num_threads=request.param, instruction_set=instruction_set)
    with closing(other):
        yield other
