"""The npm package in tabs of Chromium, for tests: a page that opens a document.

::

    with serving_page(tmp_path) as site:
        tab = Tab(context.new_page())
        tab.open(site, url=url, name="doc")

A :class:`Writer` is somebody who types words there and notes what they are told;
:func:`meet` looks whether all of it was true.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from playwright.sync_api import Browser, Error, Page
from playwright.sync_api import TimeoutError as TookTooLong

from tests.databases import wait_for
from tests.node import BIN, ensure_modules, environment
from tests.people import Report, believe, describe, read_texts
from tests.typists import read_log, words

PACKAGE = Path(__file__).parents[1] / "web" / "client"

NUMBERS = count(1)
"""Nobody has a number that somebody had before."""


class Site(SimpleHTTPRequestHandler):
    """Serves files, and what is in databases, and says nothing about it."""

    def do_GET(self) -> None:
        """Answer a request; ``/kept?database=URL&name=...`` is the words in there."""
        parts = urlsplit(self.path)
        if parts.path != "/kept":
            super().do_GET()
            return
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        text = read_log(query["database"], query["name"]).text
        body = json.dumps([f"<{word}>" for word in words(text.encode())]).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_page(folder: Path) -> Iterator[str]:
    """Build the page into a folder, and serve it at the address that is returned."""
    ensure_modules(PACKAGE)
    config = PACKAGE / "tests" / "page" / "vite.config.ts"
    command = [str(BIN / "npx"), "vite", "build"]
    command += ["--config", str(config), "--outDir", str(folder), "--emptyOutDir"]
    subprocess.run(command, cwd=PACKAGE, env=environment(), check=True, stdout=2)
    handler = partial(Site, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{files.server_port}"
        files.shutdown()


class Tab:
    """A page of somebody's, with a document."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, site: str, **options: str) -> None:
        """Open the page; its options stand in ``page.ts``."""
        self.page.goto(f"{site}/?{urlencode(options)}")
        self.wait("window.collab")
        self.ask("collab.whenLoaded")

    def type(self, words: str) -> None:
        self.page.evaluate("(words) => type(words)", words)

    @property
    def text(self) -> str:
        return str(self.page.evaluate("read()"))

    def ask(self, what: str) -> Any:
        return self.page.evaluate(what)

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(condition)

    def close(self) -> None:
        self.page.close()


class Writer(Tab):
    """Somebody who types words in a document."""

    def __init__(self, page: Page, site: str, **options: str) -> None:
        super().__init__(page)
        self.complaints: list[str] = []
        page.on("pageerror", self._complain)
        self.open(site, person=str(next(NUMBERS)), **options)

    def begin(self, pause: int) -> None:
        """Type a word each ``pause`` milliseconds, about; none if it is 0."""
        self.ask(f"person.pause({pause})")

    def type_word(self) -> None:
        self.ask("person.type()")

    def report(self) -> Report:
        """What they have to tell."""
        return Report(**self.ask("person.report()"))

    def leave(self) -> None:
        """Leave the page for somebody else, and print what they had to tell."""
        told = asdict(self.report())
        print({what: told[what] for what in told if what != "text"})
        self.page.remove_listener("pageerror", self._complain)
        self.page.context.set_offline(False)
        self.page.goto("about:blank")

    def _complain(self, error: Error) -> None:
        self.complaints.append(str(error))


@contextmanager
def sleeping(browser: Browser) -> Iterator[None]:
    """Stop a browser, as if somebody had closed the machine: nothing of it runs."""
    tools = browser.new_browser_cdp_session()
    processes = tools.send("SystemInfo.getProcessInfo")["processInfo"]
    pids = [process["id"] for process in processes]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            wait_for(pid, "T")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def begin(writers: Sequence[Writer], pause: int) -> None:
    """Let all type a word each ``pause`` milliseconds, about; none if it is 0."""
    for writer in writers:
        writer.begin(pause)


def advance(writers: Sequence[Writer]) -> None:
    """Let all stop typing; what they typed is saved then, and all of them see it."""
    begin(writers, 0)
    for writer in writers:
        writer.type_word()
    for writer in writers:
        writer.wait("person.acked === person.typed")
    for report in [writer.report() for writer in writers]:
        for writer in writers:
            writer.wait(f"read().includes('<{report.id}-{report.typed}>')")


def meet(writers: Sequence[Writer], database: str) -> list[Report]:
    """Let nobody type, wait until all is saved, and all see what is in the database.

    Each word is there exactly once then, and nobody was lied to.
    """
    begin(writers, 0)
    for writer in writers:
        writer.wait("collab.synced && collab.saved && collab.status === 'connected'")
    reports = [writer.report() for writer in writers]
    texts = read_texts(reports, database)
    for writer, report in zip(writers, reports, strict=True):
        expected = json.dumps(texts[report.name])
        try:
            writer.wait(f"read() === {expected}")
        except TookTooLong:
            raise AssertionError(describe([writer.report()], texts)) from None
        assert not writer.complaints, writer.complaints
    reports = [writer.report() for writer in writers]
    for report in reports:
        assert (report.status, report.saved, report.synced) == ("connected", True, True)
        assert (report.error, report.acked) == (None, report.typed)
    believe(reports)
    return reports
