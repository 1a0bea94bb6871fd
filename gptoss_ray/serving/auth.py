"""Who may ask: API keys, demanded everywhere but where `PUBLIC_PATHS` and `PUBLIC_RPCS` say otherwise.

The chat page's own files are public too (`ChatPage.paths`): they hold no secret, and a browser has to load
them before anyone can type a key. What the page asks for is the API's, and needs one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from gptoss_ray.errors import AuthenticationError

# Health only: load balancers and kubelets probe it without a key.
PUBLIC_PATHS = frozenset({"/health", "/live", "/ping", "/ready"})
PUBLIC_RPCS = frozenset({"Check", "Watch", "List"})


class ApiKeys:
    """The keys that open the server; without any, it is open to all."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Take the keys; only their digests are kept."""
        self._digests = tuple(_digest(key) for key in keys)

    @property
    def are_needed(self) -> bool:
        """Whether any path demands a key."""
        return bool(self._digests)

    def tenant(self, authorization: str | None, x_api_key: str | None) -> str:
        """Return the caller's name: a short digest of its key, or "" where no key is needed.

        Takes the values of the headers (or gRPC metadata) `authorization` and `x-api-key`.

        Raises:
            AuthenticationError: No key was given, or none of ours.
        """
        if not self._digests:
            return ""
        presented = _bearer(authorization) or x_api_key
        if presented is None:
            raise AuthenticationError("No API key was given; send it as 'Authorization: Bearer <key>'.")
        digest = _digest(presented)
        # Every key is compared, so that the time taken does not tell which one was near.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise AuthenticationError("The API key is not valid here.")
        return digest.hex()[:16]


def _bearer(authorization: str | None) -> str | None:
    """Return the token of `Bearer <token>`; None for any other scheme."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _digest(key: str) -> bytes:
    # Digests are of one length, which compare_digest needs in order not to tell the key's.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
