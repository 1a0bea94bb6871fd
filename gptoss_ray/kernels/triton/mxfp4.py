"""Decoding of MXFP4 words in registers: 4 codes a word, by shifts and masks alone.

A code's bits, put where a bfloat16 has its sign, its two lowest exponent bits and its highest mantissa bit,
are 2^-126 times its value, subnormals included; their product with 2^126 · 2^(scale - 127) is exact. Of
the four codes of a word three are shifted into place whole, the fourth in three parts. `matrix.py` laid the
bits out for that. A register holds two words, so that each instruction works on two values.
"""

from __future__ import annotations

import triton
import triton.language as tl

DECODE = tl.constexpr("""{
.reg .b32 t, u;
and.b32 $0, $4, 0x81C081C0;
mul.rn.bf16x2 $0, $0, $5;
shl.b32 t, $4, 3;
and.b32 $1, t, 0x81C081C0;
mul.rn.bf16x2 $1, $1, $6;
shl.b32 t, $4, 6;
and.b32 $2, t, 0x81C081C0;
mul.rn.bf16x2 $2, $2, $7;
shr.u32 t, $4, 6;
and.b32 t, t, 0x01800180;
shr.u32 u, $4, 4;
and.b32 u, u, 0x00400040;
or.b32 t, t, u;
shl.b32 u, $4, 4;
and.b32 u, u, 0x80008000;
or.b32 t, t, u;
mul.rn.bf16x2 $3, t, $8;
}""")


@triton.jit
def decode(words, scales):
    """Return the four values bfloat16 [N, W] of words int16 [N, W]; scales int32 [N]: 4 bytes up to 128."""
    first, second = _factors(scales & 0xFF), _factors((scales >> 8) & 0xFF)
    third, fourth = _factors((scales >> 16) & 0xFF), _factors((scales >> 24) & 0xFF)
    return tl.inline_asm_elementwise(
        DECODE,
        "=&r,=&r,=&r,=&r,r,r,r,r,r",
        [words, first[:, None], second[:, None], third[:, None], fourth[:, None]],
        dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=2,
    )


@triton.jit
def _factors(scales):
    """Return 2^(scale - 1) in bfloat16."""
    return ((scales + 126) << 7).to(tl.int16).to(tl.bfloat16, bitcast=True)
