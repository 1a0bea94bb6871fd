from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest
import torch

from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.model.weight_loader import WeightLoader
from tests.support.resident_memory import mapped_kib


class WatchingStore:
    """Looks at the memory that the checkpoint's files take when it has what was built."""

    def __init__(self, files):
        self.files, self.kib = files, []

    def get(self, name, build):
        tensors = build()
        self.kib.append(sum(map(mapped_kib, self.files)))
        return tensors

    def reading_ahead(self, names):
        return nullcontext()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is resident")
def test_the_pages_that_were_packed_are_given_back_before_the_store_copies_them(open_checkpoint):
    reader = open_checkpoint()
    files = list(reader.folder.glob("*.safetensors"))
    resident = reader.read("unembedding.weight").sum(), sum(map(mapped_kib, files))
    assert resident[1] > 0
    store = WatchingStore(files)
    loader = WeightLoader(reader, ReferenceKernels(torch.bfloat16), store, torch.device("cpu"))
    shard = ExpertShard.load(loader, 0, [0, 1])
    assert store.kib == [0, 0]
    assert all(expert.down.weight.any() for expert in shard.experts)
