"""What a model thought before it called tools, for clients that do not send it back with the results.

The openai SDKs, LangChain and others keep only content and calls of an assistant's message. A model that
finds its own calls without the thought that led to them answers worse with every round of a tool loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class ReasoningCache:
    """Analysis by tenant and call id; the least recently used is dropped first.

    Args:
        max_entries: Most calls remembered; 0 remembers none.
        max_bytes: Most UTF-8 bytes of analysis, each call's counted by itself.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[tuple[str, str], str] = OrderedDict()

    def __len__(self) -> int:
        """How many calls are remembered."""
        return len(self._entries)

    def keep(self, tenant: str, call_ids: Iterable[str], reasoning: str) -> None:
        """Remember what was thought before these calls."""
        if not reasoning:
            return
        for call_id in call_ids:
            self._drop((tenant, call_id))
            self._entries[tenant, call_id] = reasoning
            self._num_bytes += _size(reasoning)
        while self._num_bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))

    def find(self, tenant: str, call_ids: Iterable[str]) -> str | None:
        """Return what was thought before the first of these calls that is remembered."""
        for call_id in call_ids:
            key = (tenant, call_id)
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        return None

    def _drop(self, key: tuple[str, str]) -> None:
        reasoning = self._entries.pop(key, None)
        if reasoning is not None:
            self._num_bytes -= _size(reasoning)


def _size(text: str) -> int:
    return len(text.encode())
