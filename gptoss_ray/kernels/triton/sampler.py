"""TritonSampler: greedy and keyed draws of whole batches, on the device and without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from gptoss_ray.kernels.device_sampler import DrawInputs
from gptoss_ray.kernels.triton.sampling_kernels import (
    chunk_best_kernel,
    draw_kernel,
    filter_kernel,
    kept_sums_kernel,
    row_best_kernel,
    weigh_kernel,
)

_CHUNK = 1024
_TILE = 1024
_MAX_CANDIDATES = 8192
MAX_VOCAB_SIZE = 1 << 20


class TritonSampler:
    """A `DeviceSampler`: draws a token for each row of logits.

    Args:
        vocab_size: Columns of the logits.
        suppressed_token_ids: Never drawn.
        device: Of the logits.
    """

    def __init__(self, vocab_size: int, suppressed_token_ids: Sequence[int], device: torch.device) -> None:
        assert vocab_size < MAX_VOCAB_SIZE, "ids are searched bit by bit"
        self._vocab_size = vocab_size
        self._device = device
        suppressed = torch.zeros(vocab_size, dtype=torch.uint8)
        suppressed[list(suppressed_token_ids)] = 1
        self._suppressed = suppressed.to(device)

    def draw(self, logits: Tensor, inputs: DrawInputs) -> Tensor:
        """Return a token id a row, int64 [L], or `NO_TOKEN` where the largest logit is not finite.

        Six launches, of which rows without filters leave two at once.

        Args:
            logits: float32 [L, vocab], contiguous.
            inputs: Of the same L rows.
        """
        num_rows = len(logits)
        num_chunks = triton.cdiv(self._vocab_size, _CHUNK)
        drawn = torch.empty(num_rows, dtype=torch.int64, device=self._device)
        if num_rows == 0:
            return drawn
        new = _Scratch.of(num_rows, num_chunks, self._device)
        vocab = {"VOCAB": self._vocab_size}
        chunks = {"NUM_CHUNKS": num_chunks, "CHUNKS": triton.next_power_of_2(num_chunks)}
        by_chunk, by_row = (num_rows, num_chunks), (num_rows,)
        source = (logits, self._suppressed)
        row = (new.best_of_row, drawn, inputs.temperature)
        chunk_best_kernel[by_chunk](*source, new.bests, new.best_ids, **vocab, CHUNK=_CHUNK)
        row_best_kernel[by_row](
            new.bests,
            new.best_ids,
            inputs.top_k,
            new.best_of_row,
            drawn,
            new.floors,
            new.thresholds,
            new.num_candidates,
            **vocab,
            **chunks,
        )
        weigh_kernel[by_chunk](
            *source,
            *row,
            inputs.top_k,
            inputs.top_p,
            new.floors,
            new.sums,
            new.candidates,
            new.num_candidates,
            **vocab,
            CHUNK=_CHUNK,
            MAX_CANDIDATES=_MAX_CANDIDATES,
        )
        filter_kernel[by_row](
            *source,
            *row,
            inputs.top_k,
            inputs.top_p,
            new.sums,
            new.candidates,
            new.num_candidates,
            new.thresholds,
            **vocab,
            **chunks,
            TILE=_TILE,
            MAX_CANDIDATES=_MAX_CANDIDATES,
        )
        kept_sums_kernel[by_chunk](
            *source,
            *row,
            inputs.top_k,
            inputs.top_p,
            inputs.min_p,
            new.thresholds,
            new.sums,
            **vocab,
            CHUNK=_CHUNK,
        )
        draw_kernel[by_row](
            *source,
            *row,
            inputs.min_p,
            inputs.uniform,
            new.thresholds,
            new.sums,
            **vocab,
            **chunks,
            CHUNK=_CHUNK,
        )
        return drawn


@dataclass(frozen=True)
class _Scratch:
    """What the launches of a draw tell each other; see there."""

    bests: Tensor
    best_ids: Tensor
    best_of_row: Tensor
    floors: Tensor
    thresholds: Tensor
    sums: Tensor
    candidates: Tensor
    num_candidates: Tensor

    @classmethod
    def of(cls, num_rows: int, num_chunks: int, device: torch.device) -> _Scratch:
        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(
            bests=empty(num_rows, num_chunks, dtype=torch.float32),
            best_ids=empty(num_rows, num_chunks, dtype=torch.int32),
            best_of_row=empty(num_rows, dtype=torch.float32),
            floors=empty(num_rows, dtype=torch.int64),
            thresholds=empty(num_rows, 4, dtype=torch.int64),
            sums=empty(num_rows, num_chunks, dtype=torch.int64),
            candidates=empty(num_rows, _MAX_CANDIDATES, dtype=torch.int32),
            num_candidates=empty(num_rows, dtype=torch.int32),
        )
