"""How far one output has got in its grammar, and which tokens may come next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from gptoss_ray.errors import InvalidRequestError


class GrammarState:
    """Satisfies the engine's `TokenConstraint`; a function of the grammar and the tokens taken so far."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return which tokens may come next [vocab]; of a complete output only the model's end of answer.

        Raises:
            InvalidRequestError: The grammar leads nowhere, or is too complex to go on with.
        """
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            reason = self._matcher.get_error().split("\n")[0]
            raise InvalidRequestError(
                f"The grammar of this request allows no next token ({reason}); simplify it.", param="grammar"
            )
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def advance(self, token_id: int) -> bool:
        """Take a token of the output into account; False where it was not allowed."""
        return self._matcher.consume_token(token_id)
