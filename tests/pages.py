"""The demo page in Chromium, as people use it, for tests."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import (
    Browser,
    BrowserType,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    expect,
    sync_playwright,
)

from scripts.browser import from_playwright, installed
from tests.node import BIN, ensure_modules, environment

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "web" / "demo"
BUILT = ROOT / "collab" / "static" / "demo" / "index.html"

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""What keeps Chromium working as root, and quiet."""

PATIENCE = 30_000
"""Milliseconds that something may take on a busy machine."""

expect.set_options(timeout=PATIENCE)

WATCH = """
window.violations = [];
window.states = { connection: [], saved: [] };
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
document.addEventListener("DOMContentLoaded", () => {
  for (const name of ["connection", "saved"]) {
    const element = document.querySelector(`[data-testid=${name}]`);
    if (element === null) continue;
    const note = () => {
      const { state } = element.dataset;
      if (states[name].at(-1) !== state) states[name].push(state);
    };
    note();
    new MutationObserver(note).observe(element, { attributeFilter: ["data-state"] });
  }
});
"""
"""Notes what the page says and what its policy forbids."""

TEXT = "(editor) => [...editor.querySelectorAll('.cm-line')]"
TEXT += ".map((line) => line.textContent).join('\\n')"


def ensure_demo() -> None:
    """Build the demo page, unless it is built."""
    with (SOURCE / "package.json").open() as manifest:
        fcntl.flock(manifest, fcntl.LOCK_EX)
        if BUILT.exists():
            return
    ensure_modules(SOURCE)
    command = [str(BIN / "npm"), "run", "build"]
    subprocess.run(command, cwd=SOURCE, env=environment(), check=True, stdout=2)


def chromium() -> str:
    """The path of a Chromium."""
    path = installed() or from_playwright()
    assert path is not None, "no Chromium; set COLLAB_CHROMIUM to its path"
    return path


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium without a window."""
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium)
        yield browser
        browser.close()


def launch(kind: BrowserType) -> Browser:
    """Start a Chromium without a window."""
    return kind.launch(executable_path=chromium(), args=ARGUMENTS)


class Visitor:
    """Somebody with a browser of their own and one page in it."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.host = ""
        self.complaints: list[str] = []
        self.lost: list[str] = []
        """What the browser says about connections that failed."""
        self.asked: list[str] = []
        """What kinds of dialogs there were; all are accepted."""
        self.sockets: list[str] = []
        """The addresses of the WebSockets that were opened, or tried."""
        self._attend(self.page)

    def _attend(self, page: Page) -> None:
        page.set_default_timeout(PATIENCE)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._follow)
        page.on("websocket", lambda socket: self.sockets.append(socket.url))
        page.on("dialog", self._accept)

    def _accept(self, dialog: Dialog) -> None:
        self.asked.append(dialog.type)
        dialog.accept()

    def turn_page(self) -> Page:
        """Have another page, a tab beside the one before, which is returned."""
        before = self.page
        self.page = self.context.new_page()
        self._attend(self.page)
        return before

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        unreachable = message.text.startswith("Failed to load resource: net::")
        if message.text.startswith("WebSocket connection to") or (
            # Where there is no WebSocket, the page tries HTTP.
            unreachable and "/api/sync/" in message.location["url"]
        ):
            self.lost.append(message.text)
        else:
            self.complaints.append(message.text)

    def _follow(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self.host:
            self.complaints.append(f"request to {request.url}")

    def open(self, url: str, name: str) -> None:
        """Open a document and wait until it is there."""
        self.visit(f"{url}/?doc={quote(name)}")

    def visit(self, address: str) -> None:
        """Open an address of the page."""
        self.host = urlsplit(address).netloc
        self.page.goto(address)
        self.see("connection", "online")

    def see(self, what: str, state: str) -> None:
        """Wait until ``connection`` or ``saved`` shows a state."""
        expect(self.page.get_by_test_id(what)).to_have_attribute("data-state", state)

    def states(self, what: str) -> list[str]:
        """The states that it has shown, in order."""
        states: list[str] = self.page.evaluate("(what) => states[what]", what)
        return states

    @property
    def text(self) -> str:
        """What is in the editor."""
        text: str = self.page.get_by_test_id("editor").evaluate(TEXT)
        return text

    def type(self, text: str) -> None:
        """Press keys."""
        self.page.keyboard.type(text)

    def cut_off(self) -> None:
        """Work offline, by the switch."""
        self.page.get_by_test_id("status").click()
        self.page.get_by_role("switch", name="Work offline").click()
        self.page.keyboard.press("Escape")
        self.see("connection", "offline")
        self.page.get_by_test_id("editor").focus()

    def rename(self, name: str) -> None:
        """Say who one is."""
        self.page.get_by_test_id("me").click()
        self.page.get_by_test_id("name").fill(name)
        self.page.get_by_test_id("name").press("Enter")
        self.page.get_by_test_id("editor").focus()

    @property
    def people(self) -> list[str]:
        """The names of those who are here."""
        people = self.page.get_by_test_id("person")
        names: list[str] = people.evaluate_all(
            "(all) => all.map((p) => p.dataset.name)"
        )
        return sorted(names)

    @property
    def cursors(self) -> list[str]:
        """The names at the cursors of others."""
        cursors = self.page.get_by_test_id("cursor")
        names: list[str] = cursors.evaluate_all(
            "(all) => all.map((c) => c.dataset.name)"
        )
        return sorted(names)

    def leave(self) -> None:
        """Close the browser; nothing bad may have happened in it."""
        complaints = self.complaints + self.page.evaluate("window.violations")
        self.context.close()
        assert not complaints, complaints


Visit = Callable[..., Visitor]


@contextmanager
def visiting(browser: Browser) -> Iterator[Visit]:
    """Makes visitors. They leave at the end, and nothing bad may have happened."""
    visitors: list[Visitor] = []

    def visit(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.leave()
