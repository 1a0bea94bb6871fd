"""`truncation: "auto"`: a conversation that is too long loses its oldest turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gptoss_ray.harmony.prompt import Message

OUTPUT_SHARE = 8
"""Of the context so much (an eighth) is left for an output that names no limit of its own."""


def room_for_prompt(max_context: int, max_output_tokens: int | None) -> int:
    """Return how many tokens a truncated prompt may have: at least half of the context."""
    wanted = max_context // OUTPUT_SHARE if max_output_tokens is None else max_output_tokens
    return max_context - min(wanted, max_context // 2)


def fitting_prompt(
    render: Callable[[Sequence[Message]], list[int]], messages: Sequence[Message], max_tokens: int
) -> list[int]:
    """Return the prompt of as many of the last turns as fit; of the last one alone, whether it fits or not.

    A turn begins with a message of the user; the instructions at the beginning stay. Renders the conversation
    once if it fits, else once more for every doubling of its turns.
    """
    prompt = render(messages)
    num_leading = next(
        (index for index, message in enumerate(messages) if message.role not in ("system", "developer")),
        len(messages),
    )
    starts = [i for i, message in enumerate(messages) if message.role == "user" and i > num_leading]
    if len(prompt) <= max_tokens or not starts:
        return prompt

    def render_from(start: int) -> list[int]:
        return render([*messages[:num_leading], *messages[start:]])

    first, last = 0, len(starts) - 1
    while first < last:
        middle = (first + last) // 2
        if len(render_from(starts[middle])) <= max_tokens:
            last = middle
        else:
            first = middle + 1
    return render_from(starts[first])
