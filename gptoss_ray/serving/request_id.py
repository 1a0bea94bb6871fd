"""Names of requests: the client's own where they can be, and the key by which it may abort them."""

from __future__ import annotations

import hashlib
import re
import uuid

REQUEST_ID_HEADER = "x-request-id"
"""Header of HTTP, metadata of gRPC."""

_SAFE_REQUEST_ID = re.compile(r"[!-~]{1,128}")


def request_id(given: str | None) -> str:
    """Return the client's id if it is short printable ASCII without spaces, else a new one."""
    return given if given and _SAFE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def abort_key(tenant: str, request_id: str) -> str:
    """Return the name of a tenant's requests of an id; another tenant cannot have the same."""
    return hashlib.sha256(f"{tenant}\n{request_id}".encode()).hexdigest()[:32] if request_id else ""
