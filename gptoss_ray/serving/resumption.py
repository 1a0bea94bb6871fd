"""Going on with an answer whose stream broke: nothing that the client has comes again, nothing is missing.

The client sends the tokens that it has of each choice. They are replayed through the choice's assembler,
whose deltas it has too, and are the forced prefix of the request for tokens (law 2). Where log probabilities
of the last tokens have not left yet, because their text is held back, those tokens are drawn once more: they
are the same (law 1), and their deltas up to what the client has are dropped.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.serving.answer import Assembler, Usage
from gptoss_ray.serving.chat_prompt import Recall
from gptoss_ray.serving.models import ServedModel
from gptoss_ray.serving.openai_types import SamplingFields
from gptoss_ray.serving.resumption_types import ResumedChoice, Resumption
from gptoss_ray.serving.sampling import check_ids

DeltaT = TypeVar("DeltaT")
DeltaT_co = TypeVar("DeltaT_co", covariant=True)


class ReplayableAssembler(Assembler[DeltaT_co], Protocol[DeltaT_co]):
    """An assembler that can be brought to where another one was."""

    def replay(self, token_ids: Sequence[int]) -> int:
        """Take the first tokens of the choice, whose deltas the client has.

        Returns how many of them have nothing left to tell: all, or all before the first one whose log
        probability is asked for and has not left.
        """
        ...


class RecallLog:
    """Finds what the model thought before its calls, and notes it: a resumed answer has the same prompt.

    Attributes:
        found: The first call id of a message to what was found for it.
    """

    def __init__(self, find: Recall, resumption: Resumption | None) -> None:
        """Ask `find`; for a resumed answer only what was found at first counts."""
        self.found = dict(resumption.recalled_reasoning) if resumption else {}
        self._find = find if resumption is None else self._found_before

    def __call__(self, call_ids: Iterable[str]) -> str | None:
        """Return what the model thought before these calls, None where it is not known."""
        ids = list(call_ids)
        reasoning = self._find(ids)
        if reasoning is not None and ids:
            self.found[ids[0]] = reasoning
        return reasoning

    def _found_before(self, call_ids: Iterable[str]) -> str | None:
        return next((self.found[id_] for id_ in call_ids if id_ in self.found), None)


class ResumedAssembler(Generic[DeltaT]):
    """Drops the deltas of tokens that are drawn again, up to what the client has.

    Args:
        assembler: Has replayed what comes before these tokens.
        known: The tokens that are drawn again.
    """

    def __init__(self, assembler: Assembler[DeltaT], known: Sequence[int]) -> None:
        self._assembler = assembler
        self._known = tuple(known)

    @property
    def finish_reason(self) -> str | None:
        """Why the choice ended; None while it has not."""
        return self._assembler.finish_reason

    @property
    def repairs(self) -> Mapping[str, int]:
        """How often the output was not well-formed, by kind."""
        return self._assembler.repairs

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of reasoning so far."""
        return self._assembler.num_reasoning_tokens

    def feed(self, output: TokenOutput) -> Sequence[DeltaT]:
        """Return what is new; InvalidRequestError where other tokens are drawn than the client has."""
        num_known = min(len(self._known), len(output.token_ids))
        if num_known:
            known, self._known = self._known[:num_known], self._known[num_known:]
            if output.token_ids[:num_known] != known:
                raise InvalidRequestError(
                    "The tokens of resumption.choices are not those that this server draws for the request.",
                    param="resumption.choices",
                )
            self._assembler.feed(
                output._replace(token_ids=known, logprobs=output.logprobs[:num_known], finish_reason=None)
            )
            output = output._replace(
                position=output.position + num_known,
                token_ids=output.token_ids[num_known:],
                logprobs=output.logprobs[num_known:],
                prompt_logprobs=(),
            )
        if not output.token_ids and output.finish_reason is None:
            return ()
        return self._assembler.feed(output)


def attempt_id(answer_id: str, resumption: Resumption | None) -> str:
    """Return the name of an answer's requests for tokens: those of the broken stream may still be live."""
    return answer_id if resumption is None else f"{answer_id}-{uuid.uuid4().hex[:8]}"


def check_resumption(request: SamplingFields, model: ServedModel, num_choices: int, max_tokens: int) -> None:
    """Raise InvalidRequestError where what the client has cannot be of this request."""
    resumption = request.resumption
    if resumption is None:
        return
    if not request.stream:
        raise InvalidRequestError("Only a stream can be resumed; set stream to true.", param="resumption")
    indices = [choice.index for choice in resumption.choices]
    if len(set(indices)) < len(indices) or any(index >= num_choices for index in indices):
        raise InvalidRequestError(
            f"resumption.choices must have different indices below {num_choices}, the number of choices.",
            param="resumption.choices",
        )
    for number, choice in enumerate(resumption.choices):
        param = f"resumption.choices[{number}].token_ids"
        if len(choice.token_ids) > max_tokens:
            raise InvalidRequestError(
                f"{param} has {len(choice.token_ids)} tokens; the request allows {max_tokens}.", param=param
            )
        check_ids(choice.token_ids, model, param)


async def start_choices(
    requests: Sequence[GenerationRequest],
    make_assembler: Callable[[int], ReplayableAssembler[DeltaT]],
    resumption: Resumption | None,
    usage: Usage,
) -> list[tuple[GenerationRequest, Assembler[DeltaT]]]:
    """Return what is left to do: a request for tokens and its assembler for each choice that has not ended.

    What the client has counts in `usage`. To replay a long answer takes a while, so that is done in a thread.
    """
    if resumption is None:
        return [(request, make_assembler(index)) for index, request in enumerate(requests)]
    known = {choice.index: choice for choice in resumption.choices}
    started = await asyncio.to_thread(
        lambda: [
            _resumed(request, index, make_assembler, known.get(index), usage)
            for index, request in enumerate(requests)
        ]
    )
    return [choice for choice in started if choice is not None]


def _resumed(
    request: GenerationRequest,
    index: int,
    make_assembler: Callable[[int], ReplayableAssembler[DeltaT]],
    known: ResumedChoice | None,
    usage: Usage,
) -> tuple[GenerationRequest, Assembler[DeltaT]] | None:
    assembler = make_assembler(index)
    if known is None:
        return request, assembler
    num_settled = assembler.replay(known.token_ids)
    if known.has_ended:
        usage.completion_tokens += len(known.token_ids)
        usage.reasoning_tokens += assembler.num_reasoning_tokens
        return None
    drawn_again = known.token_ids[num_settled:]
    if drawn_again:
        assembler = make_assembler(index)
        assembler.replay(known.token_ids[:num_settled])
    usage.completion_tokens += num_settled
    request = replace(request, emitted_token_ids=tuple(known.token_ids[:num_settled]))
    if not drawn_again:
        return request, assembler
    return request, ResumedAssembler(assembler, drawn_again)
