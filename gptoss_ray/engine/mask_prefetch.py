"""What the grammars of a step allow next, worked out beside its forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from gptoss_ray.engine.draft import Draft
from gptoss_ray.engine.sequence import Sequence
from gptoss_ray.engine.token_constraint import Mask

NUM_THREADS = 4
"""That work out masks, started with the first ones. A mask takes tens of microseconds, now and then some
milliseconds: so many keep up with a batch of grammars."""

Masks = Mapping[Sequence, Future[list[Mask]]]
"""Of each sequence that has a grammar: next, and behind each token of its draft (`allowed_along`)."""


class MaskPrefetch:
    """A few threads that ask constraints what they allow, while the engine's own computes the logits.

    Masks live within a step: none is under way when a sequence advances, is aborted or preempted.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="mask")

    @contextmanager
    def of(self, sequences: Iterable[Sequence], drafts: Mapping[Sequence, Draft]) -> Iterator[Masks]:
        """Start the masks of all sequences that have a constraint; when the block ends, they have ended.

        A mask that cannot be worked out raises where its result is asked for, and nowhere else.
        """
        masks: dict[Sequence, Future[list[Mask]]] = {}
        try:
            for sequence in sequences:
                if sequence.constraint is not None:
                    draft = drafts.get(sequence, ())
                    masks[sequence] = self._threads.submit(sequence.constraint.allowed_along, draft)
            yield masks
        finally:
            for mask in masks.values():
                mask.cancel()  # those that no thread has begun
            wait(masks.values())

    def close(self) -> None:
        """End the threads; no mask can be started then."""
        self._threads.shutdown()
