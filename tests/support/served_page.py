"""What holds of the chat page behind any proxy."""

from __future__ import annotations

import httpx

from gptoss_ray.serving.pages import FOLDER


def check_chat_page(base_url: str) -> None:
    """Check a server that has API keys: page and files come as they are, without one, and no others."""
    with httpx.Client(base_url=base_url) as http:
        page = http.get("/")
        assert page.status_code == 200
        assert page.content == (FOLDER / "index.html").read_bytes()
        assert page.headers["content-security-policy"].startswith("default-src 'none'; ")
        etag = page.headers["etag"]
        assert http.head("/").headers["etag"] == etag
        assert http.get("/", headers={"if-none-match": etag}).status_code == 304
        assert http.get("/page/main.mjs").headers["content-type"].startswith("text/javascript")
        assert http.get("/page/other.mjs").status_code == 401
