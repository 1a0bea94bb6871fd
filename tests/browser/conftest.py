"""Chromium, and the chat page of a scripted server in it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_tab import ChatTab
from tests.support.ingresses import http_server, make_ingress
from tests.support.page_script import answer
from tests.support.scripted_source import ScriptedSource
from tests.support.served_app import ROOT

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = ROOT / "build/browser/node_modules/axe-core/axe.min.js"


def chromium() -> str:
    """Return Chromium's path: of the variable, or where Debian has it."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not found:
        pytest.fail("Chromium is not installed: `apt-get install chromium`, or set CHROMIUM to its path.")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests; each has a profile of its own in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def expect() -> Any:
    """What waits until something is so."""
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    return expect


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core, as text."""
    assert AXE.is_file(), f"{AXE} is not there; `make test-browser` fetches it by npm"
    return AXE.read_text(encoding="utf-8")


@pytest.fixture
def source() -> ScriptedSource:
    """What the server plays; it keeps all requests."""
    return ScriptedSource(answer)


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., ChatTab]]:
    """Open a new tab with a profile of its own: `open_tab(url, color_scheme=...)`."""
    tabs = []

    def open_one(url: str, **options: Any) -> ChatTab:
        tab = ChatTab(browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options}), url)
        tabs.append(tab)
        return tab

    yield open_one
    for tab in tabs:
        tab.page.context.close()
        tab.check()


@pytest.fixture
def url(source: ScriptedSource) -> Iterator[str]:
    """Address of a server that asks for no key."""
    with http_server(make_ingress(source)) as url:
        yield url


@pytest.fixture
def tab(open_tab: Callable[..., ChatTab], url: str) -> ChatTab:
    """The page, ready for a question."""
    return open_tab(url).open()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Folder for pictures: SHOTS of the environment, else one that pytest throws away."""
    folder = Path(os.environ.get("SHOTS") or tmp_path)
    folder.mkdir(exist_ok=True)
    return folder
