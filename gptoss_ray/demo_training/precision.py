"""The type that training computes in."""

from __future__ import annotations

import torch


def compute_dtype() -> torch.dtype:
    """bf16 where the processor multiplies it, else fp32.

    oneDNN multiplies bf16 with AVX-512; without, torch falls back to loops that take dozens of times as long
    as a product in fp32 does.
    """
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_bf16 = has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
