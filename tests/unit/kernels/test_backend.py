from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.checkpoint.synthetic import tiny_config
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels import backend as backend_module
from gptoss_ray.kernels.backend import make_kernels, numerics_fingerprint, select_backend
from gptoss_ray.kernels.native.library import NativeLibrary
from tests.support.threads import torch_threads

MODEL = tiny_config()
LIBRARY = NativeLibrary(Path("_native.so"), "abc123", ("portable", "avx2"), functions=None)


@pytest.fixture
def built(monkeypatch):
    """As on a machine where the native library is built."""
    monkeypatch.setattr(backend_module, "find_library", lambda: LIBRARY)


@pytest.fixture
def not_built(monkeypatch):
    monkeypatch.setattr(backend_module, "find_library", lambda: "there is no compiler; install g++")


@pytest.mark.usefixtures("built")
def test_native_kernels_are_chosen_where_they_are_built_and_the_choice_is_explained():
    backend = select_backend(EngineConfig(), MODEL)
    assert (backend.name, backend.build, backend.is_native) == ("native-avx2", "abc123", True)
    assert "avx2" in backend.reason
    assert select_backend(EngineConfig(kernels="native", dense_weights="int8"), MODEL).is_native
    coded = select_backend(EngineConfig(dense_weights="int8", activations="int8"), MODEL)
    assert coded.is_native and "8-bit activations" in coded.reason
    assert "activations" not in backend.reason


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("model", "what"),
    [
        (tiny_config(hidden_size=48, expert_format="unquantized"), "hidden_size is 48"),
        (tiny_config(intermediate_size=80, expert_format="unquantized"), "intermediate_size is 80"),
        (tiny_config(num_attention_heads=3, num_key_value_heads=1, head_dim=16), r"head_dim is 48"),
        (tiny_config(head_dim=8), "head_dim .* is 8"),
        (tiny_config(head_dim=512), "head_dim .* is 512"),
    ],
)
def test_a_model_of_another_shape_runs_on_torch_which_says_why(model, what):
    backend = select_backend(EngineConfig(), model)
    assert backend.name == "torch-reference"
    with pytest.raises(ConfigError, match=what) as caught:
        select_backend(EngineConfig(kernels="native"), model)
    assert caught.value.param == "kernels"


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("engine", "reason"),
    [(EngineConfig(dtype="float32"), "float32"), (EngineConfig(kernels="torch"), "kernels is 'torch'")],
)
def test_torch_runs_where_the_configuration_wants_it(engine, reason):
    backend = select_backend(engine, MODEL)
    assert (backend.name, backend.is_native) == ("torch-reference", False)
    assert reason in backend.reason


@pytest.mark.usefixtures("not_built")
@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"kernels": "native"}, "kernels"),
        ({"dense_weights": "int8"}, "dense_weights"),
        ({"activations": "int8"}, "activations"),
    ],
)
def test_what_needs_native_kernels_is_refused_with_the_remedy_where_they_are_missing(choice, param):
    assert select_backend(EngineConfig(), MODEL).reason == "there is no compiler; install g++"
    with pytest.raises(ConfigError, match="there is no compiler; install g") as caught:
        select_backend(EngineConfig(**choice), MODEL)
    assert caught.value.param == param


@pytest.mark.usefixtures("built")
def test_8_bit_activations_demand_8_bit_dense_weights():
    with pytest.raises(ConfigError, match="set dense_weights to int8") as caught:
        select_backend(EngineConfig(activations="int8"), MODEL)
    assert caught.value.param == "activations"


def test_a_device_without_kernels_is_refused_by_name():
    with pytest.raises(ConfigError, match="'tpu' has no kernels"):
        select_backend(EngineConfig(), MODEL, "tpu")


@pytest.mark.parametrize("kernels", ["auto", "triton"])
@pytest.mark.parametrize("dense_weights", ["bfloat16", "int8"])
def test_gpus_run_triton(kernels, dense_weights):
    backend = select_backend(EngineConfig(kernels=kernels, dense_weights=dense_weights), MODEL, "cuda")
    assert (backend.name, backend.is_triton, backend.is_native, backend.is_reference) == (
        "triton",
        True,
        False,
        False,
    )
    assert "triton=" in backend.build


@pytest.mark.parametrize(
    ("engine", "model", "device", "what"),
    [
        ({"kernels": "native"}, {}, "cuda", "computes on CPUs"),
        ({"kernels": "torch"}, {}, "cuda", "computes on CPUs"),
        ({"kernels": "triton"}, {}, "cpu", "or parallel.device to 'cuda'"),
        ({"dtype": "float32"}, {}, "cuda", "dtype is 'float32'"),
        ({"dense_weights": "int8", "activations": "int8"}, {}, "cuda", "activations is 'int8'"),
        ({"dense_weights": "int8"}, {"expert_format": "unquantized"}, "cuda", "experts are not in MXFP4"),
        ({}, {"head_dim": 24}, "cuda", "head_dim"),
        ({"dense_matmuls": "cublas"}, {}, "cpu", "set it to 'batch_invariant', or parallel.device"),
        ({"dense_matmuls": "cublas", "dense_weights": "int8"}, {}, "cuda", "dense_weights is 'int8': set it"),
        ({"dense_matmuls": "cublas", "speculation": "ngram"}, {}, "cuda", "speculation is 'ngram': set it"),
    ],
)
def test_what_gpus_cannot_run_is_refused_by_name(engine, model, device, what):
    with pytest.raises(ConfigError, match=what):
        select_backend(EngineConfig(**engine), MODEL.replace(**model), device)


@pytest.mark.parametrize("kernels", ["auto", "native", "torch"])
def test_a_kv_cache_in_8_bits_is_for_gpus(kernels):
    with pytest.raises(ConfigError, match=r"kv_cache_dtype is 'fp8'.*set it to 'auto'") as caught:
        select_backend(EngineConfig(kernels=kernels, kv_cache_dtype="fp8"), MODEL)
    assert caught.value.param == "kv_cache_dtype"
    assert select_backend(EngineConfig(kv_cache_dtype="fp8"), MODEL, "cuda").is_triton


@pytest.mark.parametrize("speculation", ["auto", "off"])
def test_gpus_have_a_faster_mode_that_is_not_batch_invariant(monkeypatch, speculation):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    triton_kernels = pytest.importorskip("gptoss_ray.kernels.triton.triton_kernels", exc_type=ImportError)
    made = []
    monkeypatch.setattr(triton_kernels, "TritonKernels", lambda *_, **options: made.append(options))
    for choice in ("cublas", "batch_invariant"):
        engine = EngineConfig(dense_matmuls=choice, speculation=speculation)
        make_kernels(select_backend(engine, MODEL, "cuda"), engine, unpacks_mxfp4=False)
    assert [options["dense_matmuls"] for options in made] == ["cublas", "batch_invariant"]


def test_triton_that_is_not_installed_is_named_with_its_remedy(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match="torch's builds for CUDA bring it"):
        select_backend(EngineConfig(), MODEL, "cuda")


@pytest.mark.parametrize(
    ("is_there", "capability", "what"), [(False, (9, 0), "finds no GPU"), (True, (8, 9), "architecture 8.9")]
)
def test_kernels_for_gpus_want_one_of_their_architecture(monkeypatch, is_there, capability, what):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    backend = select_backend(EngineConfig(), MODEL, "cuda")
    with pytest.raises(ConfigError, match=what):
        make_kernels(backend, EngineConfig(), unpacks_mxfp4=False)


def test_the_fingerprint_of_a_gpu_names_its_architecture_and_tritons_version(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backend = select_backend(EngineConfig(), MODEL, "cuda")
    prints = set()
    for capability in ((9, 0), (10, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        prints.add(numerics_fingerprint(backend, EngineConfig()))
        prints.add(numerics_fingerprint(dataclasses.replace(backend, build="1;triton=9"), EngineConfig()))
        prints.add(numerics_fingerprint(backend, EngineConfig(kv_block_size=16)))
        prints.add(numerics_fingerprint(backend, EngineConfig(kv_cache_dtype="fp8")))
        prints.add(numerics_fingerprint(backend, EngineConfig(dense_weights="int8")))
        prints.add(numerics_fingerprint(backend, EngineConfig(dense_matmuls="cublas")))
    assert len(prints) == 12
    assert any("sm_90" in each for each in prints)


def test_the_published_models_fit_the_native_kernels():
    for name in ("gpt-oss-20b", "gpt-oss-120b"):
        assert backend_module._misfit(ModelConfig.published(name)) is None


def test_the_reference_computes_in_the_dtype_of_the_engine():
    engine = EngineConfig(dtype="float32")
    kernels = make_kernels(select_backend(engine, MODEL), engine, unpacks_mxfp4=True)
    (weight,) = kernels.pack(torch.ones(16, 32, dtype=torch.bfloat16)).values()
    assert weight.dtype == torch.float32


def test_the_fingerprint_changes_with_whatever_changes_bits_and_not_with_threads():
    def fingerprint(**changes):
        return numerics_fingerprint(backend, EngineConfig(kernels="torch", **changes))

    backend = select_backend(EngineConfig(kernels="torch"), MODEL)
    first = fingerprint()
    assert torch.__version__ in first
    others = {fingerprint(dtype="float32"), fingerprint(kv_block_size=16)}
    for name, build in (("native-avx2", "2"), ("native-avx512", "2"), ("native-avx512", "3")):
        backend = dataclasses.replace(backend, name=name, build=build, library=LIBRARY)
        others |= {fingerprint(), fingerprint(dense_weights="int8")}
        others.add(fingerprint(dense_weights="int8", activations="int8"))
    assert len(others | {first}) == 2 + 9 + 1
    backend = select_backend(EngineConfig(kernels="torch"), MODEL)
    with torch_threads(2):
        assert first == fingerprint(num_threads=2)


def test_choosing_kernels_does_not_import_torch():
    """The processes that only plan memory choose too."""
    code = """
import sys
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.kernels.backend import select_backend

select_backend(EngineConfig(), ModelConfig.published("gpt-oss-20b"))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
