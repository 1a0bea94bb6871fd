"""One torch thread for all tests: small tensors gain nothing from more, and cores may be few."""

import torch

torch.set_num_threads(1)
