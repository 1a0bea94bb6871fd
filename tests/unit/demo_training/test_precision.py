from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gptoss_ray.demo_training import parameters as module
from gptoss_ray.demo_training.parameters import Parameters
from gptoss_ray.demo_training.precision import compute_dtype


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_training_computes_in_bf16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: supported))
    assert compute_dtype() == dtype


def test_without_onednn_training_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert compute_dtype() == torch.float32


def test_the_values_in_use_are_the_same_whatever_type_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    masters = {
        name: torch.randn(2, 4, 64, generator=generator) for name in ("q.weight", "experts.down.weight")
    }
    in_use = {}
    for dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(module, "compute_dtype", lambda dtype=dtype: dtype)
        in_use[dtype] = Parameters({name: master.clone() for name, master in masters.items()}).rounded
    for name in masters:
        narrow, wide = in_use[torch.bfloat16][name], in_use[torch.float32][name]
        assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(narrow.float(), wide)
