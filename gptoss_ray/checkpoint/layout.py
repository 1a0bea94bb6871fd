"""The names and shapes of the two published layouts, and ours, to which both are mapped.

Our names (dimension letters: V vocabulary, H hidden, I intermediate, E experts, Q/K heads × head_dim)::

    embedding.weight [V, H]   unembedding.weight [V, H]   final_norm.weight [H]
    layers.{i}.attention.norm.weight [H]     .sinks [heads]
    layers.{i}.attention.{q,k,v}.weight [Q or K, H]   .bias     .out.weight [H, Q]   .bias [H]
    layers.{i}.moe.norm.weight [H]     .gate.weight [E, H]     .gate.bias [E]
    layers.{i}.experts.gate_up.blocks [E, 2I, H/32, 16]   .scales [E, 2I, H/32]   .bias [E, 2I]
    layers.{i}.experts.down.blocks [E, H, I/32, 16]       .scales [E, H, I/32]    .bias [E, H]

The rows of gate_up are interleaved as published: row 2j is gate j, row 2j + 1 is up j. Experts that are
stored unquantised (as `save_pretrained` of transformers writes a random model) appear as
`gate_up.weight` [E, 2I, H] and `down.weight` [E, H, I] in place of blocks and scales.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.checkpoint.model_config import MXFP4_BLOCK, Layout, ModelConfig

# Name in the file -> our names; several share one stored tensor, row after row. {i} is the layer.
_Names = dict[str, tuple[str, ...]]

_HUGGINGFACE: _Names = {
    "model.embed_tokens.weight": ("embedding.weight",),
    "model.norm.weight": ("final_norm.weight",),
    "lm_head.weight": ("unembedding.weight",),
}
_HUGGINGFACE_LAYER: _Names = {
    "input_layernorm.weight": ("attention.norm.weight",),
    "self_attn.sinks": ("attention.sinks",),
    **{
        f"self_attn.{projection}_proj.{part}": (f"attention.{ours}.{part}",)
        for projection, ours in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))
        for part in ("weight", "bias")
    },
    "post_attention_layernorm.weight": ("moe.norm.weight",),
    "mlp.router.weight": ("moe.gate.weight",),
    "mlp.router.bias": ("moe.gate.bias",),
    **{
        f"mlp.experts.{ours}_proj_{part}": (f"experts.{ours}.{part}",)
        for ours in ("gate_up", "down")
        for part in ("blocks", "scales", "bias")
    },
}
_ORIGINAL: _Names = {
    "embedding.weight": ("embedding.weight",),
    "norm.scale": ("final_norm.weight",),
    "unembedding.weight": ("unembedding.weight",),
}
_ORIGINAL_LAYER: _Names = {
    "attn.norm.scale": ("attention.norm.weight",),
    "attn.sinks": ("attention.sinks",),
    **{
        f"attn.qkv.{part}": (f"attention.q.{part}", f"attention.k.{part}", f"attention.v.{part}")
        for part in ("weight", "bias")
    },
    "attn.out.weight": ("attention.out.weight",),
    "attn.out.bias": ("attention.out.bias",),
    "mlp.norm.scale": ("moe.norm.weight",),
    "mlp.gate.weight": ("moe.gate.weight",),
    "mlp.gate.bias": ("moe.gate.bias",),
    **{
        f"mlp.{theirs}_{part}": (f"experts.{ours}.{part.removeprefix('weight.')}",)
        for theirs, ours in (("mlp1", "gate_up"), ("mlp2", "down"))
        for part in ("weight.blocks", "weight.scales", "bias")
    },
}


@dataclass(frozen=True)
class Part:
    """The rows of a stored tensor that are one of our tensors."""

    name: str
    first_row: int
    num_rows: int


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as a layout stores it, and which of ours it holds."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    parts: tuple[Part, ...]
    # Unquantised experts are stored [E, K, N]; ours are [E, N, K].
    is_transposed: bool = False


def canonical_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return our name → shape for every tensor of the model, in the order of the network."""
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.vocab_size, config.hidden_size)}
    layer_shapes = _layer_shapes(config)
    for layer in range(config.num_layers):
        shapes.update({f"layers.{layer}.{name}": shape for name, shape in layer_shapes.items()})
    shapes["final_norm.weight"] = (config.hidden_size,)
    shapes["unembedding.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def stored_tensors(config: ModelConfig, layout: Layout) -> list[StoredTensor]:
    """Return every tensor that a checkpoint of `layout` must hold, in the order of the network."""
    shapes = canonical_shapes(config)
    outer, per_layer, prefix = (
        (_HUGGINGFACE, _HUGGINGFACE_LAYER, "model.layers")
        if layout == "huggingface"
        else (_ORIGINAL, _ORIGINAL_LAYER, "block")
    )
    names = dict(outer)
    for layer in range(config.num_layers):
        for name, parts in per_layer.items():
            names[f"{prefix}.{layer}.{name}"] = tuple(f"layers.{layer}.{part}" for part in parts)
    if config.expert_format == "unquantized":
        names = dict(_unquantized(*item) for item in names.items() if not item[0].endswith("_scales"))
    stored = [_stored_tensor(name, parts, shapes) for name, parts in names.items()]
    order = {name: index for index, name in enumerate(shapes)}
    return sorted(stored, key=lambda tensor: order[tensor.parts[0].name])


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, experts = config.hidden_size, config.num_experts
    rows = {
        "q": config.num_attention_heads * config.head_dim,
        "k": config.num_key_value_heads * config.head_dim,
        "v": config.num_key_value_heads * config.head_dim,
    }
    shapes: dict[str, tuple[int, ...]] = {"attention.norm.weight": (hidden,)}
    for name, num_rows in rows.items():
        shapes[f"attention.{name}.weight"] = (num_rows, hidden)
        shapes[f"attention.{name}.bias"] = (num_rows,)
    shapes["attention.sinks"] = (config.num_attention_heads,)
    shapes["attention.out.weight"] = (hidden, rows["q"])
    shapes["attention.out.bias"] = (hidden,)
    shapes["moe.norm.weight"] = (hidden,)
    shapes["moe.gate.weight"] = (experts, hidden)
    shapes["moe.gate.bias"] = (experts,)
    matrices = {
        "gate_up": (2 * config.intermediate_size, hidden),
        "down": (hidden, config.intermediate_size),
    }
    for name, (num_rows, depth) in matrices.items():
        if config.expert_format == "mxfp4":
            num_groups = depth // MXFP4_BLOCK
            shapes[f"experts.{name}.blocks"] = (experts, num_rows, num_groups, MXFP4_BLOCK // 2)
            shapes[f"experts.{name}.scales"] = (experts, num_rows, num_groups)
        else:
            shapes[f"experts.{name}.weight"] = (experts, num_rows, depth)
        shapes[f"experts.{name}.bias"] = (experts, num_rows)
    return shapes


def _unquantized(name: str, parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    if not name.endswith("_blocks"):
        return name, parts
    return name.removesuffix("_blocks"), tuple(part.removesuffix("blocks") + "weight" for part in parts)


def _stored_tensor(name: str, parts_of: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> StoredTensor:
    parts: list[Part] = []
    first_row = 0
    for part in parts_of:
        parts.append(Part(part, first_row, shapes[part][0]))
        first_row += shapes[part][0]
    shape = (first_row, *shapes[parts_of[0]][1:])
    is_transposed = ".experts." in parts_of[0] and parts_of[0].endswith(".weight")
    is_packed = parts_of[0].endswith((".blocks", ".scales"))
    return StoredTensor(
        name=name,
        shape=(shape[0], shape[2], shape[1]) if is_transposed else shape,
        dtypes=("U8",) if is_packed else ("BF16", "F32"),
        parts=tuple(parts),
        is_transposed=is_transposed,
    )
