"""One torch thread for all tests: small tensors gain nothing from more, and cores may be few."""

import os

import torch

torch.set_num_threads(1)
# Triton decides at import. `make test-gpu` sets it to 0.
os.environ.setdefault("TRITON_INTERPRET", "1")
