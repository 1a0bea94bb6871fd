#!/usr/bin/env python3
"""Write a GGUF of a published gpt-oss shape with random weights, for llama.cpp's benchmarks.

Experts are MXFP4, as in the published files: blocks of 17 bytes, one e8m0 scale and 16 bytes of codes.
Attention, embedding and unembedding are Q8_0 (the size of the published ggml-org file) or BF16 (what
llama.cpp's converter writes); gates, norms, biases and sinks are float32. Names and metadata are those of
llama.cpp's converter. Tensors are made and written one at a time: the peak of memory is about twice the
embedding. Merges are one a token, which is enough for benchmarks: they send token ids, not text.

Needs the packages gguf and numpy, and gptoss_ray on PYTHONPATH (only its parts without dependencies).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.harmony import byte_alphabet
from gptoss_ray.harmony.vocabulary import control_tokens, shipped_ranks

_BLOCK = 32
_MXFP4_BYTES = 17
_Q8_0_BYTES = 34
# Root mean squares: of the 16 e2m1 values, and of uniform int8 codes.
_E2M1_RMS = math.sqrt(8.5625)
_INT8_RMS = 73.9


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: its shape as numpy sees the bytes (or float32 values), and how to make it."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    make: Callable[[np.random.Generator], np.ndarray]


def random_bytes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return uniform bytes; 64 bits a draw, which is several times faster than a byte a draw."""
    return rng.integers(0, 1 << 64, size=-(-count // 8), dtype=np.uint64).view(np.uint8)[:count]


def mxfp4(rng: np.random.Generator, num_values: int, deviation: float) -> np.ndarray:
    """Return MXFP4 blocks with uniform codes and scales of two neighbouring exponents."""
    blocks = random_bytes(rng, num_values // _BLOCK * _MXFP4_BYTES).reshape(-1, _MXFP4_BYTES)
    exponent = 127 + round(math.log2(deviation / _E2M1_RMS) + 0.5)
    blocks[:, 0] = exponent - (blocks[:, 0] & 1)
    return blocks


def q8_0(rng: np.random.Generator, num_values: int, deviation: float) -> np.ndarray:
    """Return Q8_0 blocks: a float16 scale, 32 uniform int8 codes."""
    blocks = random_bytes(rng, num_values // _BLOCK * _Q8_0_BYTES).reshape(-1, _Q8_0_BYTES)
    blocks[:, :2] = np.array([deviation / _INT8_RMS], np.float16).view(np.uint8)
    return blocks


def bf16(rng: np.random.Generator, num_values: int, deviation: float) -> np.ndarray:
    """Return bfloat16 values as bytes, uniform about 0."""
    out = np.empty(num_values, np.uint16)
    for begin in range(0, num_values, 1 << 24):
        part = out[begin : begin + (1 << 24)]
        values = random_bytes(rng, 2 * len(part)).view(np.int16).astype(np.float32)
        values *= np.float32(deviation * math.sqrt(3) / (1 << 15))
        part[:] = (values.view(np.uint32) >> 16).astype(np.uint16)
    return out.view(np.uint8)


def plan_tensors(model: ModelConfig, dense: str) -> Iterator[Tensor]:
    """Yield all tensors of a model in the order in which they are written."""
    hidden, inner, num_experts = model.hidden_size, model.intermediate_size, model.num_experts
    q_size = model.num_attention_heads * model.head_dim
    kv_size = model.num_key_value_heads * model.head_dim
    deviation = 1 / math.sqrt(hidden)

    def matrix(name: str, rows: int, columns: int, deviation: float) -> Tensor:
        if dense == "q8_0":
            shape = (rows, columns // _BLOCK * _Q8_0_BYTES)
            return Tensor(name, shape, Kind.Q8_0, lambda rng: q8_0(rng, rows * columns, deviation))
        return Tensor(name, (rows, 2 * columns), Kind.BF16, lambda rng: bf16(rng, rows * columns, deviation))

    def experts(name: str, rows: int, columns: int) -> Tensor:
        shape = (num_experts, rows, columns // _BLOCK * _MXFP4_BYTES)
        num_values = num_experts * rows * columns
        return Tensor(name, shape, Kind.MXFP4, lambda rng: mxfp4(rng, num_values, deviation))

    def values(name: str, *shape: int, deviation: float, mean: float = 0.0) -> Tensor:
        def make(rng: np.random.Generator) -> np.ndarray:
            return rng.standard_normal(shape, np.float32) * np.float32(deviation) + np.float32(mean)

        return Tensor(name, shape, Kind.F32, make)

    yield matrix("token_embd.weight", model.vocab_size, hidden, 1.0)
    for layer in range(model.num_layers):
        block = f"blk.{layer}"
        yield values(f"{block}.attn_norm.weight", hidden, deviation=0.1, mean=1.0)
        for name, rows, columns in (
            ("attn_q", q_size, hidden),
            ("attn_k", kv_size, hidden),
            ("attn_v", kv_size, hidden),
            ("attn_output", hidden, q_size),
        ):
            yield matrix(f"{block}.{name}.weight", rows, columns, deviation)
            yield values(f"{block}.{name}.bias", rows, deviation=0.02)
        yield values(f"{block}.attn_sinks.weight", model.num_attention_heads, deviation=1.0)
        yield values(f"{block}.post_attention_norm.weight", hidden, deviation=0.1, mean=1.0)
        yield values(f"{block}.ffn_gate_inp.weight", num_experts, hidden, deviation=deviation)
        yield values(f"{block}.ffn_gate_inp.bias", num_experts, deviation=0.02)
        for name, rows, columns in (
            ("ffn_gate_exps", inner, hidden),
            ("ffn_up_exps", inner, hidden),
            ("ffn_down_exps", hidden, inner),
        ):
            yield experts(f"{block}.{name}.weight", rows, columns)
            yield values(f"{block}.{name}.bias", num_experts, rows, deviation=0.02)
    yield values("output_norm.weight", hidden, deviation=0.1, mean=1.0)
    yield matrix("output.weight", model.vocab_size, hidden, deviation)


def add_metadata(writer: gguf.GGUFWriter, model: ModelConfig, name: str) -> None:
    """Write what llama.cpp wants to know of the shape."""
    writer.add_name(name)
    writer.add_block_count(model.num_layers)
    writer.add_context_length(model.max_context)
    writer.add_embedding_length(model.hidden_size)
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_expert_feed_forward_length(model.intermediate_size)
    writer.add_head_count(model.num_attention_heads)
    writer.add_head_count_kv(model.num_key_value_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(model.rope_scaling_factor)
    writer.add_rope_scaling_orig_ctx_len(model.rope_original_context)
    writer.add_rope_scaling_yarn_beta_fast(model.rope_beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(model.rope_beta_slow)
    writer.add_expert_count(model.num_experts)
    writer.add_expert_used_count(model.num_experts_per_token)
    writer.add_sliding_window(model.sliding_window)
    writer.add_vocab_size(model.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE)
    writer.add_quantization_version(2)


def add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """Write the o200k vocabulary that gptoss_ray ships, cut or filled up to `vocab_size` ids."""
    ranks = shipped_ranks()
    num_control = min(1090, vocab_size // 2)
    ranks = {token: rank for token, rank in ranks.items() if rank < vocab_size - num_control}
    ids = control_tokens(len(ranks), vocab_size)
    tokens = [byte_alphabet.to_text(token) for token in ranks] + sorted(ids, key=lambda name: ids[name])
    kinds = [gguf.TokenType.NORMAL] * len(ranks) + [gguf.TokenType.CONTROL] * len(ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge for token in ranks for merge in merges(token, ranks)])
    writer.add_bos_token_id(ids["<|startoftext|>"])
    writer.add_eos_token_id(ids["<|return|>"])
    writer.add_pad_token_id(ids["<|endoftext|>"])


def merges(token: bytes, ranks: dict[bytes, int]) -> Iterator[str]:
    """Yield the pair that makes a token: the one whose later part is the oldest."""
    splits = [(token[:middle], token[middle:]) for middle in range(1, len(token))]
    known = [
        (max(ranks[left], ranks[right]), left, right)
        for left, right in splits
        if {left, right} <= ranks.keys()
    ]
    if known:
        _, left, right = min(known)
        yield f"{byte_alphabet.to_text(left)} {byte_alphabet.to_text(right)}"


def write(path: Path, model: ModelConfig, *, dense: str, name: str, seed: int = 0) -> int:
    """Write the file; return the bytes of its tensors."""
    writer = gguf.GGUFWriter(path, "gpt-oss")
    add_metadata(writer, model, name)
    add_tokenizer(writer, model.vocab_size)
    tensors = list(plan_tensors(model, dense))
    for tensor in tensors:
        size = math.prod(tensor.shape)
        if tensor.kind == Kind.F32:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), 4 * size)
        else:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.uint8), size, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    num_bytes = 0
    for number, tensor in enumerate(tensors):
        data = tensor.make(np.random.default_rng((seed, number)))
        num_bytes += data.nbytes
        writer.write_tensor_data(data)
    writer.close()
    return num_bytes


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the file to write, 12 GB for gpt-oss-20b")
    parser.add_argument("--shape", default="gpt-oss-20b", choices=["gpt-oss-20b", "gpt-oss-120b"])
    parser.add_argument("--layers", type=int, help="number of layers, if not the model's own")
    parser.add_argument("--dense", choices=["q8_0", "bf16"], default="q8_0", help="format of dense matrices")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same weights")
    args = parser.parse_args()
    model = ModelConfig.published(args.shape)
    if args.layers is not None:
        model = model.replace(num_layers=args.layers)
    began = time.perf_counter()
    num_bytes = write(
        args.out, model, dense=args.dense, name=f"{args.shape} random {args.dense}", seed=args.seed
    )
    print(f"{args.out}: {num_bytes / 1e9:.2f} GB of tensors in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
