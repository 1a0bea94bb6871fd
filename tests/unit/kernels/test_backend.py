from __future__ import annotations

import pytest
import torch

from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.backend import numerics_fingerprint, select_backend
from tests.support.threads import torch_threads


def test_the_backend_says_its_name_and_why_it_was_picked():
    backend = select_backend("cpu")
    assert backend.name == "torch-reference"
    assert "torch" in backend.reason


def test_a_device_without_kernels_is_refused_by_name():
    with pytest.raises(ConfigError, match="cuda"):
        select_backend("cuda")


def test_the_fingerprint_changes_with_whatever_changes_bits_and_not_with_threads():
    backend = select_backend()
    fingerprint = numerics_fingerprint(backend, torch.bfloat16, 32)
    assert torch.__version__ in fingerprint
    assert fingerprint != numerics_fingerprint(backend, torch.float32, 32)
    assert fingerprint != numerics_fingerprint(backend, torch.bfloat16, 16)
    with torch_threads(2):
        assert fingerprint == numerics_fingerprint(backend, torch.bfloat16, 32)
