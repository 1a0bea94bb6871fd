"""Who may ask: API keys, demanded everywhere but where `PUBLIC_PATHS` and `PUBLIC_RPCS` say otherwise.

The chat page's own files are public too (`Pages.paths`): they hold no secret, and a browser has to load
them before anyone can type a key. What the page asks for is the API's, and needs one.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gptoss_ray.config import QuotaConfig
from gptoss_ray.errors import AuthenticationError
from gptoss_ray.serving.deadline import TIMEOUT_HEADER, set_deadline
from gptoss_ray.serving.key_file import KeyEntry, KeyFile
from gptoss_ray.serving.quotas import Quotas

# Health only: load balancers and kubelets probe it without a key.
PUBLIC_PATHS = frozenset({"/health", "/live", "/ping", "/ready"})
PUBLIC_RPCS = frozenset({"Check", "Watch", "List"})

_UNLIMITED = QuotaConfig()


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that opens: its name, its SHA-256, and what it may use."""

    name: str
    digest: bytes
    quota: QuotaConfig

    @property
    def tenant(self) -> str:
        """What sets its requests apart from those of others; it depends on the key alone, not on the name."""
        return self.digest.hex()[:16]


class ApiKeys:
    """The keys that open the server; without any, it is open to all.

    Args:
        keys: Keys without name or quota.
        file: Path of a file with more; see `KeyFile`.
        clock: Seconds that only grow.

    Raises:
        ConfigError: The file is wrong.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        file: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._given = tuple(
            KnownKey(f"key-{number}", _digest(key), _UNLIMITED) for number, key in enumerate(keys, 1)
        )
        self._file = None if file is None else KeyFile(file, clock)
        self._entries: Mapping[str, KeyEntry] = {}
        self._known = self._given
        self._by_tenant = {key.tenant: key for key in self._given}
        self.quotas = Quotas(clock)

    @property
    def are_needed(self) -> bool:
        """Whether any path demands a key."""
        return bool(self._given) or self._file is not None

    @contextmanager
    def admitted(self, headers: Mapping[str, str]) -> Iterator[str]:
        """Let a request in for the length of the block, and yield its tenant.

        Its deadline counts from here; its key's quotas of requests are held.

        Args:
            headers: HTTP headers or gRPC metadata, names in lower case.

        Raises:
            AuthenticationError: No key was given, or none of ours.
            InvalidRequestError: The timeout is no number of seconds.
            RateLimitError: The key has used up what it may.
        """
        tenant = self.tenant(headers.get("authorization"), headers.get("x-api-key"))
        set_deadline(headers.get(TIMEOUT_HEADER))
        with self.quotas.request(tenant, self.quota(tenant)):
            yield tenant

    def tenant(self, authorization: str | None, x_api_key: str | None) -> str:
        """Return the caller's tenant: a short digest of its key, or "" where no key is needed.

        Takes the values of the headers (or gRPC metadata) `authorization` and `x-api-key`.

        Raises:
            AuthenticationError: No key was given, or none of ours.
        """
        if not self.are_needed:
            return ""
        presented = _bearer(authorization) or x_api_key
        if presented is None:
            raise AuthenticationError("No API key was given; send it as 'Authorization: Bearer <key>'.")
        digest = _digest(presented)
        # Every key is compared, so that the time taken does not tell which one was near.
        matches = [key for key in self._keys() if hmac.compare_digest(digest, key.digest)]
        if not matches:
            raise AuthenticationError("The API key is not valid here.")
        return matches[0].tenant

    def quota(self, tenant: str) -> QuotaConfig:
        """Return what a tenant may use; without limit where it has no key in the file."""
        key = self._by_tenant.get(tenant)
        return _UNLIMITED if key is None else key.quota

    def name(self, tenant: str) -> str:
        """Return the name of a tenant's key, for the log; "-" where there is none."""
        key = self._by_tenant.get(tenant)
        return "-" if key is None else key.name

    def _keys(self) -> tuple[KnownKey, ...]:
        entries = self._entries if self._file is None else self._file.entries()
        if entries is not self._entries:
            self._entries = entries
            in_file = [KnownKey(name, bytes.fromhex(entry.sha256), entry) for name, entry in entries.items()]
            # A key that stands in both has the quota of the file.
            self._known = (*in_file, *self._given)
            self._by_tenant = {key.tenant: key for key in reversed(self._known)}
        return self._known


def key_digest(key: str) -> str:
    """Return what the file keeps of a key."""
    return _digest(key).hex()


def _bearer(authorization: str | None) -> str | None:
    """Return the token of `Bearer <token>`; None for any other scheme."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _digest(key: str) -> bytes:
    # Digests are of one length, which compare_digest needs in order not to tell the key's.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
