"""What these tests need: a card, and kernels that are compiled rather than interpreted."""

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def card():
    if os.environ.get("TRITON_INTERPRET") != "0":
        pytest.exit("these tests run on a card: use `make test-gpu`", returncode=1)
    if not torch.cuda.is_available():
        pytest.exit("`make test-gpu` needs a CUDA device, and torch finds none", returncode=1)
    return torch.cuda.get_device_name()
