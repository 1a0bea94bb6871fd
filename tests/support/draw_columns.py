"""draw_columns: `DrawInputs` of rows."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch

from gptoss_ray.generation import SamplingParams

DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float64,
    "min_p": torch.float32,
}


def draw_columns(rows: Sequence[tuple[SamplingParams, float]], device: str = "cpu") -> SimpleNamespace:
    """Return what rows ask for and their uniforms, by column."""
    columns = {
        name: torch.tensor([getattr(params, name) for params, _ in rows], dtype=dtype, device=device)
        for name, dtype in DTYPES.items()
    }
    uniform = torch.tensor([uniform for _, uniform in rows], dtype=torch.float64, device=device)
    return SimpleNamespace(**columns, uniform=uniform)
