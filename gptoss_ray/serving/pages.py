"""The chat page and the dashboard: files read once at start, which a browser may load without a key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
DOCUMENTS = {"index.html": "/", "dashboard.html": "/dashboard"}
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What a model writes can neither load nor run anything, even if the page's own care should fail.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    # Kept by the browser, but asked for each time: a new server never meets the modules of an old one.
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class PageFile:
    """One file as it is sent; `path` is its route."""

    path: str
    body: bytes
    content_type: str

    @property
    def etag(self) -> str:
        """Its strong validator."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


class Pages:
    """A fixed table of files: no path of a request ever reaches the disk."""

    def __init__(self, files: Iterable[PageFile]) -> None:
        self._files = tuple(files)

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Pages:
        """Read all files; a document has a path of its own, every other `name` is `/page/name`."""
        return cls(
            PageFile(
                path=DOCUMENTS.get(path.name, f"/page/{path.name}"),
                body=path.read_bytes(),
                content_type=CONTENT_TYPES[path.suffix],
            )
            for path in sorted(folder.iterdir())
        )

    @property
    def paths(self) -> frozenset[str]:
        """The routes, for which no key is asked."""
        return frozenset(file.path for file in self._files)

    @property
    def routes(self) -> list[Route]:
        """What answers each path; no part of the API, so `/openapi.json` leaves them out."""
        return [_route(file) for file in self._files]


def _route(file: PageFile) -> Route:
    headers = {**HEADERS, "etag": file.etag}

    async def send(request: Request) -> Response:
        if _is_known(request.headers.get("if-none-match", ""), file.etag):
            return Response(status_code=304, headers=headers)
        return Response(file.body, headers={**headers, "content-type": file.content_type})

    return Route(file.path, send, methods=["GET"], include_in_schema=False)


def _is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client has this very file; RFC 9110, 13.1.2."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(","))
