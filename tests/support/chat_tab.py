"""The chat page in a browser's tab, used as a person uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


class ChatTab:
    """A tab with the page of the server at `url`; `check` finds what else went wrong."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note_console)
        self.page.on("dialog", self._note_dialog)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _note_console(self, message: Any) -> None:
        # The browser tells each answer that is an error by itself.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource:"):
            self.faults.append(message.text)

    def _note_dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def check(self) -> None:
        """No script failed, no policy was broken, and nothing was asked of another origin."""
        assert self.faults == []
        origin = urlsplit(self.url).netloc
        assert {urlsplit(url).netloc for url in self.requests} <= {origin}

    def open(self) -> ChatTab:
        """Load the page and wait until it knows a model."""
        self.page.goto(f"{self.url}/")
        self.page.locator("#model:enabled").wait_for()
        return self

    def ask(self, text: str) -> None:
        """Type a question and send it with Enter."""
        self.message.fill(text)
        self.message.press("Enter")

    def ask_to_end(self, text: str) -> None:
        """Ask, and wait for the end of the answer."""
        self.ask(text)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        self.page.locator("#send").wait_for()

    def set(self, **fields: str) -> None:
        """Fill fields of the settings."""
        self.button("Settings").click()
        for name, value in fields.items():
            self.page.locator(f"#settings-{name}").fill(value)
        self.page.keyboard.press("Escape")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def message(self) -> Locator:
        return (
            self.page.get_by_label("Message", exact=True)
            .locator("visible=true")
            .and_(self.page.locator("textarea"))
        )

    @property
    def answers(self) -> Locator:
        return self.page.locator(".answer")

    @property
    def content(self) -> Locator:
        """What the last answer says."""
        return self.answers.last.locator(".markdown")

    @property
    def questions(self) -> list[str]:
        return self.page.locator(".bubble").all_inner_texts()

    @property
    def error(self) -> Locator:
        return self.page.locator(".error")

    def focused(self) -> str:
        """Return what has the focus: its label, text or id."""
        return self.page.evaluate("(e => e.ariaLabel || e.id || e.innerText.trim())(document.activeElement)")

    def announced(self) -> list[str]:
        """Return what a screen reader was told."""
        return self.page.locator("#announcements p").all_inner_texts()

    def violations(self, axe: str) -> list[str]:
        """Return what axe-core finds against WCAG A and AA, with the elements."""
        self.page.evaluate(axe)
        results = self.page.evaluate(
            "tags => axe.run(document, {runOnly: {type: 'tag', values: tags}})", WCAG
        )
        return [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in results["violations"]
            for node in violation["nodes"]
        ]
