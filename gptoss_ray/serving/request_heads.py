"""The one place that bounds how long a request's head may be, and how long it may take to come.

Serve 2.60 serves HTTP by uvicorn over httptools, which collects headers without end, and waits for them
without end. Our configuration files have Serve's proxies, and ingress replicas behind HAProxy, call
`bound_heads` first (`proxy_setup.py`): every connection is then one of these.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Request line and headers; as uvicorn's other parser has it."""

HEAD_TIMEOUT_S = 30.0
"""From a head's first byte, and on a new connection from its beginning, to the end of the head."""

_TOO_LARGE = "The request's headers are too large."


class BoundedHttpProtocol(HttpToolsProtocol):
    """A connection that is closed where a head is too long or too slow; idle ones are uvicorn's to close."""

    _reads_head = True
    _num_head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give a new connection its time."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the timer go with the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what has come of a head."""
        super().data_received(data)
        if not self._reads_head or self.transport.is_closing():
            return
        self._num_head_bytes += len(data)
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._reads_head, self._num_head_bytes = True, 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Cease to count."""
        self._reads_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bound_heads() -> None:
    """Make uvicorn in this process serve by `BoundedHttpProtocol` where nobody chose another."""
    module: Any = importlib.import_module("uvicorn.protocols.http.auto")
    module.AutoHTTPProtocol = BoundedHttpProtocol
