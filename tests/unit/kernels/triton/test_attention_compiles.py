"""The attention kernels for sm_90 at the published models' shapes, compiled without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.triton_compile import compile_launches

SHARED_BYTES_OF_A_PROCESSOR = 227 << 10
PROGRAMS = 3


@pytest.mark.sm90
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cache", ["bfloat16", "float8"])
def test_three_programs_share_a_processor_and_multiply_by_one_instruction_of_one_size(cache):
    kernels = compile_launches(f"tests.support.triton_attention_scenarios:{cache}")
    attention = [kernel for kernel in kernels if kernel.name == "attention_kernel"]
    assert len(attention) == 2
    for kernel in attention:
        assert kernel.registers * kernel.num_warps * 32 * PROGRAMS <= 65536, kernel
        assert kernel.shared_bytes * PROGRAMS <= SHARED_BYTES_OF_A_PROCESSOR, kernel
        assert kernel.stack_bytes <= 64, kernel  # once a work item; nothing in the loops over keys
        assert kernel.has_wgmma
        assert not kernel.has_mma
        # Law 1: each row of a tile lies in one warp, which adds its 64 columns in one order.
        assert "warpsPerCTA = [4, 1], instrShape = [16, 64, 16]" in Path(kernel.files["ttgir"]).read_text()
    for kernel in kernels:
        if kernel not in attention:
            kernel.assert_fits()
            assert kernel.has_wgmma == (kernel.name == "_qkv_kernel")
            if kernel.name == "_qkv_kernel" and cache == "float8":  # what is no number stays none
                assert "propagateNan = all" in Path(kernel.files["ttgir"]).read_text()


@pytest.mark.timeout(900)
def test_keys_and_values_of_the_next_blocks_are_on_their_way_while_one_is_worked_on():
    for kernel in compile_launches("tests.support.triton_attention_scenarios:bfloat16"):
        if kernel.name == "attention_kernel":
            assert Path(kernel.files["ptx"]).read_text().count("cp.async.wait_group") >= 2


@pytest.mark.sm90
@pytest.mark.timeout(900)
def test_qkv_by_weights_in_8_bits_uses_the_tensor_cores_of_a_hopper_and_spills_nothing():
    kernels = compile_launches("tests.support.triton_attention_scenarios:qkv_in_8_bits")
    assert [kernel.name for kernel in kernels] == ["_qkv_kernel"] * 2
    for kernel in kernels:
        kernel.assert_fits()
        assert kernel.has_wgmma and not kernel.has_mma, kernel
