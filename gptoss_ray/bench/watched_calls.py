"""Watches calls of functions where they stand, without a word in the code that is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Watch = Callable[[str, tuple[Any, ...], float], None]
"""Told of a call that returned: the function's name, its arguments, and the seconds inside."""


@contextmanager
def watching_calls(owner: object, names: Iterable[str], watch: Watch) -> Iterator[None]:
    """Watch every call, inside the block, of the functions that are attributes of `owner` by these names."""
    originals = {name: getattr(owner, name) for name in names}
    try:
        for name, function in originals.items():
            setattr(owner, name, _watched(name, function, watch))
        yield
    finally:
        for name, function in originals.items():
            setattr(owner, name, function)


def _watched(name: str, function: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        began = time.perf_counter()
        result = function(*args)
        watch(name, args, time.perf_counter() - began)
        return result

    return call
