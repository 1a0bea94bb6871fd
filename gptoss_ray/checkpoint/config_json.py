"""The config.json of the two published layouts ⇄ the fields of ModelConfig.

Sources: openai/gpt-oss-20b config.json (and what `save_pretrained` of transformers 5 writes in its place,
`rope_parameters` for `rope_scaling`); gpt_oss/torch/model.py of openai/gpt-oss for the original layout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from gptoss_ray.checkpoint.config_fields import ConfigFields
from gptoss_ray.errors import CheckpointError

if TYPE_CHECKING:
    from gptoss_ray.checkpoint.model_config import ModelConfig

Layout = Literal["huggingface", "original"]

_MAX_DIM = 1 << 24
_MAX_LAYERS = 1024
_MAX_EXPERTS = 1 << 14


def layout_of(document: Mapping[str, object]) -> Layout:
    """Tell the layout by its config.json: only the original one calls the expert count `num_experts`."""
    return "original" if "num_experts" in document and "model_type" not in document else "huggingface"


def parse_config(document: Mapping[str, object], file: str) -> dict[str, object]:
    """Return the ModelConfig fields that a config.json states; CheckpointError names field and value."""
    parse = _parse_huggingface if layout_of(document) == "huggingface" else _parse_original
    return parse(ConfigFields(document, file))


def format_config(config: ModelConfig, layout: Layout) -> dict[str, object]:
    """Return the config.json of `layout`; CheckpointError if that layout cannot express a field."""
    return _format_huggingface(config) if layout == "huggingface" else _format_original(config)


def _parse_shared(fields: ConfigFields) -> dict[str, object]:
    return {
        "vocab_size": fields.integer("vocab_size", _MAX_DIM),
        "hidden_size": fields.integer("hidden_size", _MAX_DIM),
        "intermediate_size": fields.integer("intermediate_size", _MAX_DIM),
        "num_layers": fields.integer("num_hidden_layers", _MAX_LAYERS),
        "num_attention_heads": fields.integer("num_attention_heads", _MAX_DIM),
        "num_key_value_heads": fields.integer("num_key_value_heads", _MAX_DIM),
        "head_dim": fields.integer("head_dim", _MAX_DIM),
        "sliding_window": fields.integer("sliding_window", _MAX_DIM),
        "swiglu_limit": fields.number("swiglu_limit", default=7.0),
    }


def _parse_huggingface(fields: ConfigFields) -> dict[str, object]:
    fields.require("model_type", ("gpt_oss",))
    fields.require("hidden_act", ("silu",), default="silu")
    fields.require("tie_word_embeddings", (False,), default=False)
    fields.require("attention_bias", (True,), default=True)
    quantization = fields.section("quantization_config")
    if quantization is not None:
        quantization.require("quant_method", ("mxfp4",))
    values = {
        **_parse_shared(fields),
        **_parse_rope(fields),
        "num_experts": fields.integer("num_local_experts", _MAX_EXPERTS),
        "num_experts_per_token": fields.integer("num_experts_per_tok", _MAX_EXPERTS),
        "max_context": fields.integer("max_position_embeddings", _MAX_DIM),
        "rms_norm_eps": fields.number("rms_norm_eps", default=1e-5),
        "swiglu_alpha": fields.number("swiglu_alpha", default=1.702),
        "eos_token_ids": fields.token_ids("eos_token_id"),
        "pad_token_id": next(iter(fields.token_ids("pad_token_id")), None),
        "expert_format": "unquantized" if quantization is None else "mxfp4",
    }
    if fields.get("layer_types") is not None:
        values["layer_types"] = fields.strings("layer_types")
    return values


def _parse_rope(fields: ConfigFields) -> dict[str, object]:
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    if rope is None:
        raise fields.error("rope_scaling", None, "a yarn section (or `rope_parameters`)")
    rope.require("rope_type", ("yarn",), default=rope.get("type"))
    # transformers rounds the correction bounds unless told not to; gpt-oss was trained unrounded.
    rope.require("truncate", (False,), default=True)
    for unsupported in ("attention_factor", "mscale", "mscale_all_dim"):
        rope.require(unsupported, (None,))
    theta_holder = fields if rope.get("rope_theta") is None else rope
    return {
        "rope_theta": theta_holder.number("rope_theta"),
        "rope_scaling_factor": rope.number("factor"),
        "rope_original_context": rope.integer("original_max_position_embeddings", _MAX_DIM),
        "rope_beta_fast": rope.number("beta_fast", default=32.0),
        "rope_beta_slow": rope.number("beta_slow", default=1.0),
    }


def _parse_original(fields: ConfigFields) -> dict[str, object]:
    original_context = fields.integer("initial_context_length", _MAX_DIM)
    factor = fields.number("rope_scaling_factor")
    return {
        **_parse_shared(fields),
        "num_experts": fields.integer("num_experts", _MAX_EXPERTS),
        "num_experts_per_token": fields.integer("experts_per_token", _MAX_EXPERTS),
        "max_context": int(original_context * factor),
        "rope_theta": fields.number("rope_theta"),
        "rope_scaling_factor": factor,
        "rope_original_context": original_context,
        "rope_beta_fast": fields.number("rope_ntk_beta"),
        "rope_beta_slow": fields.number("rope_ntk_alpha"),
    }


def _format_shared(config: ModelConfig) -> dict[str, object]:
    return {
        "num_hidden_layers": config.num_layers,
        "experts_per_token": config.num_experts_per_token,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "swiglu_limit": config.swiglu_limit,
        "head_dim": config.head_dim,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "sliding_window": config.sliding_window,
        "initial_context_length": config.rope_original_context,
        "rope_theta": config.rope_theta,
    }


def _format_huggingface(config: ModelConfig) -> dict[str, object]:
    document = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        **_format_shared(config),
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_token,
        "max_position_embeddings": config.max_context,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": config.rope_scaling_factor,
            "beta_fast": config.rope_beta_fast,
            "beta_slow": config.rope_beta_slow,
            "original_max_position_embeddings": config.rope_original_context,
            "truncate": False,
        },
        "rms_norm_eps": config.rms_norm_eps,
        "swiglu_alpha": config.swiglu_alpha,
        "layer_types": list(config.layer_types),
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "eos_token_id": _format_token_ids(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }
    if config.expert_format == "mxfp4":
        document["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    return document


def _format_token_ids(token_ids: tuple[int, ...]) -> int | list[int] | None:
    if len(token_ids) > 1:
        return list(token_ids)
    return token_ids[0] if token_ids else None


def _format_original(config: ModelConfig) -> dict[str, object]:
    implied = {
        "max_context": int(config.rope_original_context * config.rope_scaling_factor),
        "rms_norm_eps": 1e-5,
        "swiglu_alpha": 1.702,
        "expert_format": "mxfp4",
    }
    for field, value in implied.items():
        actual = getattr(config, field)
        is_same = math.isclose(actual, value) if isinstance(value, float) else actual == value
        if not is_same:
            raise CheckpointError(
                f"{field} is {actual!r}, but the original layout implies {value!r}", param=field
            )
    if not config.has_alternating_layers:
        raise CheckpointError(
            "layer_types do not alternate, as the original layout implies", param="layer_types"
        )
    return {
        **_format_shared(config),
        "num_experts": config.num_experts,
        "rope_scaling_factor": config.rope_scaling_factor,
        "rope_ntk_alpha": config.rope_beta_slow,
        "rope_ntk_beta": config.rope_beta_fast,
    }
