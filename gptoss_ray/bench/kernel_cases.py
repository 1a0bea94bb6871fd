"""The calls of kernels that are measured: random weights, and the work that no call can avoid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gptoss_ray.bench.step_bytes import ActivationFormat, DenseFormat, dense_bytes, expert_bytes, kv_bytes
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.kernels.kernels import (
    AttentionPlan,
    AttentionRows,
    Expert,
    ExpertTable,
    Gate,
    HeadShape,
    Matrix,
    Mxfp4,
    Norm,
    StoredMatrix,
    SwiGLU,
)
from gptoss_ray.kernels.native.native_kernels import NativeKernels
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kvcache.kv_cache import KVCache

AnyKernels = NativeKernels | ReferenceKernels
"""Both offer the parts of a layer, too, which are measured one by one."""

MatrixFormats = tuple[DenseFormat, ActivationFormat]
"""Of dense weights, and of the activations that all matrices multiply."""

_PREFILL_CHUNK = 512
# Of 1024 keys each, half a GB.
_MAX_SEQUENCES = 256
# Values that are drawn; larger matrices repeat them.
_NUM_VALUES = 1 << 22
_FLOAT32_BYTES = 4
_OUT = "out and residual"
_MOST_STREAMS = 16


@dataclass(frozen=True)
class KernelWork:
    """What a kernel is asked for.

    Attributes:
        kernel: What it computes.
        weights: Their format, or that of keys and values.
        activations: Their format as they are multiplied.
        num_rows: Tokens; of experts, the rows of each.
        detail: What else tells the case from others.
        num_bytes: Weights, keys and values that a call must read.
        num_flops: Products and sums that it must compute.
    """

    kernel: str
    weights: str
    activations: ActivationFormat
    num_rows: int
    detail: str
    num_bytes: float
    num_flops: float


@dataclass(frozen=True)
class KernelCase:
    """Work, and a call that does it once; its number chooses among weights that are alike."""

    work: KernelWork
    call: Callable[[int], object]


def expert_cases(
    kernels: AnyKernels,
    model: ModelConfig,
    activations: ActivationFormat,
    rows: Sequence[int],
    cycle_bytes: int,
) -> Iterator[KernelCase]:
    """Yield the experts that one token chooses, each with so many rows; `activations` are the kernels'."""
    num_chosen = model.num_experts_per_token
    num_bytes = num_chosen * expert_bytes(model)
    tables = _expert_tables(kernels, model, _num_copies(cycle_bytes, num_bytes))
    swiglu = SwiGLU(model.swiglu_alpha, model.swiglu_limit)
    flops_per_row = 2.0 * 3 * model.hidden_size * model.intermediate_size

    def case(num_rows: int) -> KernelCase:
        x = _activations(num_chosen * num_rows, model.hidden_size)
        counts = [num_rows] * num_chosen
        detail = f"of each of {num_chosen}"
        num_flops = num_chosen * num_rows * flops_per_row
        work = KernelWork("experts", "mxfp4", activations, num_rows, detail, num_bytes, num_flops)
        return KernelCase(
            work, lambda number: kernels.experts(x, counts, tables[number % len(tables)], swiglu)
        )

    yield from map(case, rows)


def dense_cases(
    kernels: AnyKernels,
    model: ModelConfig,
    formats: MatrixFormats,
    rows: Sequence[int],
    cycle_bytes: int,
) -> Iterator[KernelCase]:
    """Yield the dense matrices: norm and qkv, attention's output and residual, norm and unembedding.

    `formats` are the kernels'.
    """
    dense, activations = formats
    hidden = model.hidden_size
    q_size = model.num_attention_heads * model.head_dim
    qkv_size = q_size + 2 * model.num_key_value_heads * model.head_dim
    norm = Norm(torch.ones(hidden), model.rms_norm_eps)

    def cases(kernel: str, n: int, k: int, rows: Sequence[int], *, is_wide: bool) -> Iterator[KernelCase]:
        num_bytes = dense_bytes(n, k, dense)
        matrices = _matrices(kernels, n, k, _num_copies(cycle_bytes, num_bytes), is_wide=is_wide)
        for num_rows in rows:
            num_flops = 2.0 * num_rows * n * k
            work = KernelWork(kernel, dense, activations, num_rows, f"{n} x {k}", num_bytes, num_flops)
            x, residual = _activations(num_rows, k), _activations(num_rows, n)
            if kernel == _OUT:
                call = _cycled(matrices, partial(kernels.linear_add, x), residual)
            else:
                call = _cycled(matrices, partial(kernels.norm_linear, x, norm))
            yield KernelCase(work, call)

    yield from cases("norm and qkv", qkv_size, hidden, rows, is_wide=False)
    yield from cases(_OUT, hidden, q_size, rows, is_wide=False)
    # Of a prompt only the last row meets the unembedding: many rows are many streams there.
    few_rows = sorted({min(num_rows, _MOST_STREAMS) for num_rows in rows})
    yield from cases("norm and unembedding", model.vocab_size, hidden, few_rows, is_wide=True)


def _cycled(
    matrices: Sequence[Matrix], call: Callable[..., object], *more: object
) -> Callable[[int], object]:
    return lambda number: call(matrices[number % len(matrices)], *more)


def attention_cases(
    kernels: AnyKernels, model: ModelConfig, contexts: Sequence[int], cycle_bytes: int, block_size: int
) -> Iterator[KernelCase]:
    """Yield one decoded row behind each context, and a chunk of a prompt, on full and on sliding layers."""
    cache = _AttentionCache(kernels, model, max(*contexts, _PREFILL_CHUNK), cycle_bytes, block_size)
    for context in contexts:
        yield cache.case("decode", context, 1, None)
    yield cache.case("decode", contexts[-1], 1, model.sliding_window)
    yield cache.case("prompt", _PREFILL_CHUNK, _PREFILL_CHUNK, None)
    # A chunk at the end of the longest would take seconds a call, and tell nothing more.
    context = contexts[len(contexts) // 2]
    yield cache.case("prompt", context, min(_PREFILL_CHUNK, context), None)
    yield cache.case("prompt", context, min(_PREFILL_CHUNK, context), model.sliding_window)


class _AttentionCache:
    """Keys and values of several sequences, in blocks that follow each other."""

    def __init__(
        self, kernels: AnyKernels, model: ModelConfig, longest: int, cycle_bytes: int, block_size: int
    ) -> None:
        self._kernels = kernels
        self._heads = HeadShape(model.num_attention_heads, model.num_key_value_heads, model.head_dim)
        self._block_size = block_size
        token_bytes = kv_bytes(1, model.num_key_value_heads, model.head_dim)
        num_blocks = -(-max(longest, cycle_bytes // token_bytes) // block_size)
        shape = (block_size, model.num_key_value_heads, model.head_dim)
        cache = KVCache(num_blocks, *shape, layer_types=["full_attention"], dtype=torch.bfloat16)
        self._keys, self._values = cache.keys(0), cache.values(0)
        for part in (self._keys, self._values):
            part.copy_(_activations(*part.shape))
        self._sinks = torch.zeros(model.num_attention_heads)
        self._num_blocks = num_blocks

    def case(self, kind: str, context: int, num_rows: int, window: int | None) -> KernelCase:
        """Return the last `num_rows` rows of a sequence of `context` tokens."""
        heads = self._heads
        blocks_per_sequence = -(-context // self._block_size)
        firsts = range(0, self._num_blocks - blocks_per_sequence + 1, blocks_per_sequence)
        plans = [self._plan(first, context, num_rows, window) for first in firsts[:_MAX_SEQUENCES]]
        qkv = _activations(num_rows, (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim)
        reach = window or context
        pairs = sum(min(position + 1, reach) for position in range(context - num_rows, context))
        num_keys = min(context, reach + num_rows - 1)
        work = KernelWork(
            kernel=f"attention, {kind}",
            weights="bfloat16",
            activations="bfloat16",
            num_rows=num_rows,
            detail=f"{context} keys" + (f", window {window}" if window else ""),
            num_bytes=kv_bytes(num_keys, heads.num_kv_heads, heads.head_dim),
            num_flops=4.0 * pairs * heads.num_heads * heads.head_dim,
        )

        def call(number: int) -> object:
            plan = plans[number % len(plans)]
            return self._kernels.attention(qkv, plan, self._keys, self._values, self._sinks)

        return KernelCase(work, call)

    def _plan(self, first_block: int, context: int, num_rows: int, window: int | None) -> AttentionPlan:
        positions = torch.arange(context - num_rows, context)
        num_blocks = -(-context // self._block_size)
        table = torch.arange(first_block, first_block + num_blocks, dtype=torch.int32)[None]
        angles = torch.rand(num_rows, self._heads.head_dim // 2)
        rows = AttentionRows(
            positions=positions,
            sequence_index=torch.zeros(num_rows, dtype=torch.int64),
            slot_mapping=first_block * self._block_size + positions,
            block_table=table,
            cos=angles.cos(),
            sin=angles.sin(),
            window=window,
        )
        return self._kernels.plan_attention(rows, self._heads, self._block_size)


def small_cases(kernels: AnyKernels, model: ModelConfig, rows: Sequence[int]) -> Iterator[KernelCase]:
    """Yield what has few weights: norm and gate, and the sum over experts."""
    hidden, num_experts, num_chosen = model.hidden_size, model.num_experts, model.num_experts_per_token
    norm = Norm(torch.ones(hidden), model.rms_norm_eps)
    gate = Gate(
        0.02 * torch.randn(num_experts, hidden), torch.zeros(num_experts), experts_per_token=num_chosen
    )

    def gate_case(num_rows: int) -> KernelCase:
        x = _activations(num_rows, hidden)
        num_bytes = num_experts * hidden * _FLOAT32_BYTES + x.nbytes
        num_flops = 2.0 * num_rows * num_experts * hidden
        detail = f"{num_experts} experts"
        work = KernelWork("norm and gate", "float32", "bfloat16", num_rows, detail, num_bytes, num_flops)
        return KernelCase(work, lambda _: kernels.gate(x, norm, gate))

    def combine_case(num_rows: int) -> KernelCase:
        x, slots = _activations(num_rows, hidden), _activations(num_rows, num_chosen, hidden)
        weights = torch.full((num_rows, num_chosen), 1 / num_chosen)
        num_bytes, num_flops = slots.nbytes + x.nbytes, 2.0 * num_rows * num_chosen * hidden
        work = KernelWork("combine", "", "bfloat16", num_rows, f"{num_chosen} a token", num_bytes, num_flops)
        return KernelCase(work, lambda _: kernels.combine(x, slots, weights))

    yield from map(gate_case, rows)
    yield from map(combine_case, rows)


def _num_copies(cycle_bytes: int, num_bytes: float) -> int:
    return max(1, -(-cycle_bytes // int(num_bytes)))


def _activations(*shape: int) -> Tensor:
    return torch.randn(shape).to(torch.bfloat16)


def _matrices(kernels: AnyKernels, n: int, k: int, num_copies: int, *, is_wide: bool) -> list[Matrix]:
    """Return equal matrices, each in memory of its own."""
    values = (torch.randn(_NUM_VALUES) * k**-0.5).to(torch.bfloat16)
    weight = values.repeat(-(-n * k // _NUM_VALUES))[: n * k].view(n, k)
    return [_packed(kernels, weight, (n, k), is_wide=is_wide) for _ in range(num_copies)]


def _expert_tables(kernels: AnyKernels, model: ModelConfig, num_copies: int) -> list[ExpertTable]:
    """Return tables of the experts that a token chooses; all experts are equal, in memory of their own."""
    hidden, inner = model.hidden_size, model.intermediate_size
    shapes = (2 * inner, hidden), (hidden, inner)
    gate_up, down = (_random_mxfp4(n, k) for n, k in shapes)

    def expert() -> Expert:
        return Expert(_packed(kernels, gate_up, shapes[0]), _packed(kernels, down, shapes[1]))

    return [
        kernels.expert_table([expert() for _ in range(model.num_experts_per_token)])
        for _ in range(num_copies)
    ]


def _random_mxfp4(n: int, k: int) -> Mxfp4:
    # Exponents about -7: weights of the size that keeps activations of order one.
    return Mxfp4(
        torch.randint(256, (n, k // 32, 16), dtype=torch.uint8),
        torch.randint(119, 121, (n, k // 32), dtype=torch.uint8),
    )


def _packed(
    kernels: AnyKernels, weight: StoredMatrix, shape: tuple[int, int], *, is_wide: bool = False
) -> Matrix:
    bias = torch.zeros(shape[0], dtype=torch.bfloat16)
    return kernels.matrix(kernels.pack(weight, bias, is_wide=is_wide), shape, is_wide=is_wide)
