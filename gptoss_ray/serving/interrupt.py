"""Ctrl-C and SIGTERM as one exception, so that every way out of a start goes through its cleanup."""

from __future__ import annotations

import signal
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The user or the system asked this process to end."""


class Interruption:
    """Whether this process was asked to end.

    The first signal raises `Interrupted` in the main thread. Native code that is interrupted by it may
    turn it into an error of its own or lose it: hence `is_requested`.
    """

    is_requested = False

    def watch(self) -> None:
        """Handle the signals from now on; undoes what libraries installed."""
        for number in _SIGNALS:
            signal.signal(number, self._request)

    def ignore(self) -> None:
        """Let nothing interrupt the cleanup."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise `Interrupted` where a signal has come."""
        if self.is_requested:
            raise Interrupted

    def wait(self) -> NoReturn:
        """Sleep until a signal comes, and raise `Interrupted`."""
        while True:
            self.check()
            signal.pause()

    def _request(self, *_: object) -> None:
        self.is_requested = True
        raise Interrupted
