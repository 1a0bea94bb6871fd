"""What the engine knows of grammars: which tokens may come next, and that it tells which one came.

The engine speaks no harmony; `structured/` makes these for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
"""Which tokens may come next [vocab]."""


class TokenConstraint(Protocol):
    """The constraint of one output; nothing but `advance` changes what it allows.

    Its methods are called one at a time, but from different threads.
    """

    def allowed(self) -> Mask:
        """Return which tokens may come next, at least one; InvalidRequestError where none may."""
        ...

    def allowed_along(self, draft: Sequence[int]) -> list[Mask]:
        """Return which tokens may come next, and which behind each token of a draft.

        The masks end where the draft is not allowed, or nothing may come behind a part of it.
        InvalidRequestError where nothing may come next.
        """
        ...

    def advance(self, token_id: int) -> bool:
        """Take a token into account; False where it was not allowed."""
        ...


CompileGrammar = Callable[[str], TokenConstraint]
"""From the text of a grammar to the constraint of an output without tokens; called from any thread."""
