from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.threads import torch_threads


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks only lose by threads, by far on a busy machine."""
    with torch_threads(1):
        yield
