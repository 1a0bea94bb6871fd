"""Constraints without a grammar, and their masks worked out where they are asked for."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from gptoss_ray.engine.mask_prefetch import MaskPrefetch


class HashedConstraint:
    """Allows tokens by a hash of all before; fails where two threads use it at once.

    Args:
        grammar: Starts the hash.
        vocab_size: Tokens there are.
        before_mask: Called in the thread that works a mask out.
    """

    def __init__(
        self, grammar: str, vocab_size: int, before_mask: Callable[[], object] = lambda: None
    ) -> None:
        self._key = [zlib.crc32(grammar.encode())]
        self._vocab_size = vocab_size
        self._before_mask = before_mask
        self._in_use = threading.Lock()

    @property
    def is_in_use(self) -> bool:
        return self._in_use.locked()

    def allowed(self) -> np.ndarray:
        with self._alone():
            self._before_mask()
            time.sleep(0)  # lets another thread come in between
            return self._mask()

    def allowed_along(self, draft) -> list[np.ndarray]:
        masks = [self.allowed()]
        ahead = HashedConstraint("", self._vocab_size)
        ahead._key = [*self._key]
        for token_id in draft:
            if not ahead.advance(token_id):
                break
            masks.append(ahead.allowed())
        return masks

    def advance(self, token_id: int) -> bool:
        with self._alone():
            was_allowed = bool(self._mask()[token_id])
            self._key.append(token_id)
            return was_allowed

    def _mask(self) -> np.ndarray:
        rng = np.random.default_rng(self._key)
        mask = rng.random(self._vocab_size) < 0.5
        mask[rng.integers(self._vocab_size)] = True
        return mask

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert self._in_use.acquire(blocking=False), "two threads use one constraint"
        try:
            yield
        finally:
            self._in_use.release()


class InlineMasks(MaskPrefetch):
    """The reference: no threads."""

    @contextmanager
    def of(self, sequences, drafts):
        yield {
            each: _InlineMask(each.constraint, drafts.get(each, ()))
            for each in sequences
            if each.constraint is not None
        }


class _InlineMask:
    def __init__(self, constraint, draft) -> None:
        self.result = partial(constraint.allowed_along, draft)
