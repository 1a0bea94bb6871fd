from __future__ import annotations

import pytest

from gptoss_ray.demo_training.vocabulary import demo_encoding
from gptoss_ray.harmony.encoding import HarmonyEncoding


@pytest.fixture(scope="session")
def encoding() -> HarmonyEncoding:
    return demo_encoding()
