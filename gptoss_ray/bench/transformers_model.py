"""transformers' GptOssForCausalLM with the weights of any checkpoint, built on a device without a file.

transformers is a development dependency: nothing here imports it before it is asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gptoss_ray.bench.transformers_memory import PeerExperts
from gptoss_ray.checkpoint.layout import StoredTensor, stored_tensors
from gptoss_ray.checkpoint.mxfp4 import dequantize
from gptoss_ray.checkpoint.weight_source import WeightSource
from gptoss_ray.errors import ConfigError


def check_installed(experts: PeerExperts) -> str:
    """Return the version of transformers.

    Raises:
        ConfigError: It is missing, or `experts` need its hub's kernels and the package for these is missing.
    """
    try:
        from transformers import GptOssForCausalLM, __version__  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            f"--transformers needs the package transformers ({error}); install the development tools, "
            "`pip install 'gptoss-ray[dev]'`, or leave the option out.",
            param="transformers",
        ) from None
    if experts == "mxfp4" and not has_hub_kernels():
        raise ConfigError(
            "--transformers mxfp4 needs the package kernels, which fetches MXFP4 kernels from the hub; "
            "`pip install 'transformers[kernels]'`, or ask for --transformers bfloat16.",
            param="transformers",
        )
    return str(__version__)


def has_hub_kernels() -> bool:
    """Whether transformers can take kernels from its hub."""
    from transformers.utils import is_kernels_available  # noqa: PLC0415

    return bool(is_kernels_available())


def build(
    source: WeightSource,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    experts: PeerExperts = "bfloat16",
) -> Any:
    """Return a GptOssForCausalLM that holds the weights which an engine of ours would read from `source`.

    It has no stop tokens: whoever generates with it gets as many tokens as were asked for.

    Args:
        source: The weights.
        device: Where the network is made, without a copy elsewhere.
        dtype: Of all weights but packed experts and their biases.
        experts: "bfloat16": in `dtype`, dequantised if need be. "mxfp4": packed, for the kernels of
            transformers' hub, which are fetched now. Never run.

    Raises:
        OSError: The kernels cannot be fetched.
    """
    from transformers import GptOssConfig, GptOssForCausalLM  # noqa: PLC0415
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding  # noqa: PLC0415

    shape = source.config.replace(expert_format="unquantized", eos_token_ids=(), pad_token_id=None)
    config = GptOssConfig(**shape.to_json("huggingface"))
    with torch.device("meta"):
        network = GptOssForCausalLM(config).to(dtype)
    is_packed = experts == "mxfp4"
    if is_packed:
        _take_hub_experts(network)
    network = network.to_empty(device=device)
    # Its tables are buffers, which have no values after that.
    network.model.rotary_emb = GptOssRotaryEmbedding(config).to(device)
    network.requires_grad_(False)
    parameters = dict(network.named_parameters())
    for stored in stored_tensors(shape, "huggingface"):
        if is_packed and stored.is_transposed:
            _pack_experts(network, source, stored, device)
        else:
            _fill(parameters[stored.name], source, stored)
        source.release()
    return network.eval()


def _fill(target: Tensor, source: WeightSource, stored: StoredTensor) -> None:
    """Copy a tensor; experts one by one, as ours are read."""
    (part,) = stored.parts
    if ".experts." not in part.name:
        target.copy_(source.read(part.name))
        return
    for expert in range(part.num_rows):
        tensor = _read_expert(source, part.name, expert)
        target[expert].copy_(tensor.T if stored.is_transposed else tensor)


def _read_expert(source: WeightSource, name: str, expert: int) -> Tensor:
    rows = slice(expert, expert + 1)
    if source.has(name):
        return source.read(name, rows)[0]
    prefix = name.removesuffix("weight")
    return dequantize(source.read(f"{prefix}blocks", rows)[0], source.read(f"{prefix}scales", rows)[0])


def _take_hub_experts(network: Any) -> None:
    """Put modules for packed experts in the place of dense ones, still without memory."""
    from transformers import Mxfp4Config  # noqa: PLC0415
    from transformers.integrations import mxfp4  # noqa: PLC0415

    mxfp4.replace_with_mxfp4_linear(network, quantization_config=Mxfp4Config())


def _pack_experts(network: Any, source: WeightSource, stored: StoredTensor, device: torch.device) -> None:
    """Hand one matrix of all experts of a layer to the hub's kernels, which lay it out anew."""
    from transformers.integrations import mxfp4  # noqa: PLC0415

    (part,) = stored.parts
    prefix = part.name.removesuffix("weight")
    module, _, matrix = stored.name.rpartition(".")
    experts = [slice(expert, expert + 1) for expert in range(part.num_rows)]
    blocks, scales = (
        torch.cat([source.read(f"{prefix}{kind}", rows) for rows in experts]) for kind in ("blocks", "scales")
    )
    mxfp4.swizzle_mxfp4_convertops(
        blocks, scales, network.get_submodule(module), matrix, device, mxfp4.triton_kernels_hub
    )
