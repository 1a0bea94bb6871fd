"""Errors of the chat that a response is made of, told in the words of the response's request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gptoss_ray.errors import InvalidRequestError

_MESSAGE = re.compile(r"messages\[(\d+)\][\w.\[\]]*")
_TOOL = re.compile(r"tools\[(\d+)\]\.function")
_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
}


class FieldNames:
    """Knows where in the request each message and tool of the chat came from.

    Args:
        messages: A path for each message, such as "input[3].output".
        tools: A path for each tool, such as "tools[1].tools[0]".
    """

    def __init__(self, messages: Sequence[str], tools: Sequence[str]) -> None:
        self._messages = messages
        self._tools = tools

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise InvalidRequestErrors of the block with the request's own names."""
        try:
            yield
        except InvalidRequestError as error:
            if error.param is None:
                raise
            old, new = self._renamed(error.param)
            message = error.message.replace(old, new, 1)
            param = error.param.replace(old, new, 1)
            raise type(error)(message, param=param, code=error.code) from None

    def _renamed(self, param: str) -> tuple[str, str]:
        """Return the beginning of a path that has another name, and that name."""
        for pattern, paths in ((_MESSAGE, self._messages), (_TOOL, self._tools)):
            if found := pattern.match(param):
                return found[0], paths[int(found[1])]
        return param, _NAMES.get(param, param)
