"""How far one output has got in its grammar, and which tokens may come next."""

from __future__ import annotations

from collections.abc import Sequence

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
        return self._allowed_by(self._matcher)

    def allowed_along(self, draft: Sequence[int]) -> list[npt.NDArray[np.bool_]]:
        """See `TokenConstraint`; a copy of the matcher goes along the draft."""
        masks = [self.allowed()]
        ahead = self._matcher.deep_copy() if draft else self._matcher
        for token_id in draft:
            if not masks[-1][token_id]:
                break
            ahead.consume_token(token_id)
            try:
                masks.append(self._allowed_by(ahead))
            except InvalidRequestError:
                break  # it comes again where it counts: once the output has got there
        return masks

    def _allowed_by(self, matcher: LLMatcher) -> npt.NDArray[np.bool_]:
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            reason = matcher.get_error().split("\n")[0]
            raise InvalidRequestError(
                f"The grammar of this request allows no next token ({reason}); simplify it.", param="grammar"
            )
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=self._vocab_size, bitorder="little")
        return bits.view(np.bool_)

    def advance(self, token_id: int) -> bool:
        """Take a token of the output into account; False where it was not allowed."""
        return self._matcher.consume_token(token_id)
