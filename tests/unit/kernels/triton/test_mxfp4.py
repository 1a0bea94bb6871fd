from __future__ import annotations

import numpy as np
import pytest
import torch

from gptoss_ray.checkpoint.mxfp4 import dequantize
from gptoss_ray.kernels.kernels import Mxfp4
from gptoss_ray.kernels.triton.matrix import pack_mxfp4
from gptoss_ray.kernels.triton.mxfp4 import DECODE
from tests.support.bfloat16 import widened
from tests.support.ptx import run_ptx

CPU = torch.device("cpu")


def decoded(packed: dict[str, torch.Tensor]) -> torch.Tensor:
    """The values [N, K] of a packed matrix, by the assembly itself; every register holds a word twice."""
    words = packed["codes"].numpy().view(np.uint16).astype(np.uint32)
    groups = packed["scales"].numpy().view(np.uint32)[..., None] >> np.arange(4, dtype=np.uint32) * 8 & 0xFF
    bits = (groups + 126) << 7
    twice = [value | value << 16 for value in (words, *(bits[..., part : part + 1] for part in range(4)))]
    outputs = run_ptx(DECODE.value, [np.broadcast_to(value, words.shape) for value in twice], 4)
    assert all(((out >> 16) == (out & 0xFFFF)).all() for out in outputs)
    values = np.stack([widened((out & 0xFFFF).astype(np.uint16)) for out in outputs], axis=-2)
    n_tiles, k_tiles = words.shape[:2]
    return torch.from_numpy(values).view(n_tiles, k_tiles, 64, 128).transpose(1, 2).reshape(n_tiles * 64, -1)


def test_every_code_at_every_scale_is_decoded_to_its_value():
    blocks = torch.arange(256, dtype=torch.uint8).repeat(129, 1).view(129, 16, 16)
    scales = torch.arange(129, dtype=torch.uint8)[:, None].repeat(1, 16)
    values = decoded(pack_mxfp4(Mxfp4(blocks, scales), CPU))
    assert torch.equal(values[:129, : 16 * 32], dequantize(blocks, scales, torch.float32))


def test_inputs_keep_their_order_and_what_is_filled_up_is_zero():
    blocks = torch.randint(0, 256, (70, 3, 16), dtype=torch.uint8)
    scales = torch.randint(100, 129, (70, 3), dtype=torch.uint8)
    packed = pack_mxfp4(Mxfp4(blocks, scales), CPU)
    assert all(tensor.is_contiguous() for tensor in packed.values())
    values = decoded(packed)
    assert values.shape == (128, 128)
    assert torch.equal(values[:70, :96], dequantize(blocks, scales, torch.float32))
    assert not values[70:].any() and not values[:, 96:].any()


def test_a_scale_that_the_decoder_cannot_take_is_refused():
    blocks, scales = torch.zeros(1, 1, 16, dtype=torch.uint8), torch.full((1, 1), 129, dtype=torch.uint8)
    with pytest.raises(ValueError, match="scale is 129"):
        pack_mxfp4(Mxfp4(blocks, scales), CPU)
