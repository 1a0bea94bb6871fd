"""Engine configurations of every backend; those of native kernels are skipped where these are not built."""

from __future__ import annotations

import pytest

from gptoss_ray.config import EngineConfig
from gptoss_ray.kernels.native.library import find_library

FLOAT32 = EngineConfig(dtype="float32")
TORCH = EngineConfig(kernels="torch")
NATIVE = EngineConfig(kernels="native")
NATIVE_INT8 = EngineConfig(kernels="native", dense_weights="int8")
NATIVE_INT8_ACTIVATIONS = EngineConfig(kernels="native", dense_weights="int8", activations="int8")

needs_native = pytest.mark.skipif(isinstance(find_library(), str), reason="the native kernels are not built")

EACH_BACKEND = [
    pytest.param(FLOAT32, id="torch-float32"),
    pytest.param(TORCH, id="torch-bfloat16"),
    pytest.param(NATIVE, id="native", marks=needs_native),
    pytest.param(NATIVE_INT8, id="native-int8", marks=needs_native),
    pytest.param(NATIVE_INT8_ACTIVATIONS, id="native-int8-activations", marks=needs_native),
]
EACH_BFLOAT16_BACKEND = EACH_BACKEND[1:3]
