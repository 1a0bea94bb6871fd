"""MXFP4: 32 e2m1 values that share one e8m0 scale.

Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 (FP4), 5.4.1 (E8M0) and 6.3
(conversion). A block's 32 values lie in 16 bytes, the value with the even index in the low nibble.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32
_BIAS = 127
_MAX_EXPONENT_E2M1 = 2
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = torch.tensor(_MAGNITUDES + tuple(-value for value in _MAGNITUDES))
_BYTES = torch.arange(256)
# [256, 2]: the two values of every byte.
_PAIRS = torch.stack((_VALUES[_BYTES & 0xF], _VALUES[_BYTES >> 4]), dim=-1)
# [256]: 2^(s - 127); 255 is the format's NaN. float64 ldexp so that 2^-127 is not flushed.
_SCALES = torch.ldexp(torch.ones(256, dtype=torch.float64), _BYTES - _BIAS).float()
_SCALES[255] = torch.nan


def _midpoints() -> Tensor:
    """Return the 7 borders between magnitudes; ties go to the even code, so every second one moves down."""
    grid = torch.tensor(_MAGNITUDES)
    borders = (grid[1:] + grid[:-1]) / 2
    borders[1::2] = torch.nextafter(borders[1::2], torch.zeros(3))
    return borders


_BORDERS = _midpoints()


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return the values [..., G·32] of blocks uint8 [..., G, 16] and scales uint8 [..., G].

    Exact in bfloat16 and float32, except that 2^128 and above become infinity; scale 255 gives NaN.
    """
    if blocks.shape[:-1] != scales.shape or blocks.shape[-1] != BLOCK // 2:
        raise ValueError(f"blocks {tuple(blocks.shape)} do not fit scales {tuple(scales.shape)}")
    pairs = _PAIRS.to(blocks.device, dtype).index_select(0, blocks.reshape(-1).int())
    values = pairs.view(*scales.shape, BLOCK)
    factors = _SCALES.to(blocks.device, dtype).index_select(0, scales.reshape(-1).int())
    return (values * factors.view(*scales.shape, 1)).flatten(-2)


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (blocks uint8 [..., K/32, 16], scales uint8 [..., K/32]) nearest to values [..., K].

    The scale is 2^(floor(log2(max |v|)) - 2) (MX v1.0, 6.3); values round to nearest, ties to even, and
    saturate at ±6 scales. Finite values that `dequantize` returned come back exactly. ValueError if K is no
    multiple of 32 or a value is not finite.
    """
    if values.shape[-1] % BLOCK:
        raise ValueError(f"the last dimension is {values.shape[-1]}, but must be a multiple of {BLOCK}")
    grouped = values.detach().float().reshape(*values.shape[:-1], -1, BLOCK)
    largest = grouped.abs().amax(-1)
    if not torch.isfinite(largest).all():
        raise ValueError("MXFP4 holds finite values only")
    # frexp gives largest = m · 2^e with m in [0.5, 1), so floor(log2(largest)) = e - 1.
    exponents = torch.frexp(largest).exponent.int() - 1 - _MAX_EXPONENT_E2M1
    exponents = torch.where(largest > 0, exponents, -_BIAS).clamp(-_BIAS, _BIAS)
    inverse = _SCALES.to(values.device)[(_BIAS - exponents).long()]
    scaled = grouped * inverse.unsqueeze(-1)
    codes = torch.bucketize(scaled.abs(), _BORDERS.to(values.device)).to(torch.uint8)
    codes |= torch.signbit(scaled).to(torch.uint8) << 3
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return blocks, (exponents + _BIAS).to(torch.uint8)
