"""The npm package in Chromium: tabs, storage, sleep, networks that fail or forbid."""

from __future__ import annotations

import itertools
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, sync_playwright

from tests.gateway import Gateway
from tests.node import BIN, ensure_modules, environment
from tests.pages import ARGUMENTS, PATIENCE, chromium
from tests.proxy import Proxy
from tests.servers import Server, running

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

PACKAGE = Path(__file__).parents[1] / "web" / "client"

numbers = itertools.count(1)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is that opens a document."""
    folder = tmp_path_factory.mktemp("page")
    ensure_modules(PACKAGE)
    config = PACKAGE / "tests" / "page" / "vite.config.ts"
    command = [str(BIN / "npx"), "vite", "build"]
    command += ["--config", str(config), "--outDir", str(folder), "--emptyOutDir"]
    subprocess.run(command, cwd=PACKAGE, env=environment(), check=True, stdout=2)
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{files.server_port}"
        files.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running(tmp_path) as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def person(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody with a browser, in which nothing is stored."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


class Tab:
    """A page of somebody's, with a document."""

    def __init__(self, page: Page) -> None:
        self.page = page

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


Open = Callable[..., Tab]


def opener(
    site: str, person: BrowserContext, port: int, default: dict[str, str]
) -> Open:
    """Opens the test's document in a new tab, through a port."""
    name = f"doc-{next(numbers)}"

    def open_tab(*options: str, synced: bool = True, **values: str) -> Tab:
        query = {"url": f"ws://127.0.0.1:{port}/ws", "name": name, **default}
        query |= dict.fromkeys(options, "") | values
        tab = Tab(person.new_page())
        tab.page.goto(f"{site}/?{urlencode(query)}")
        tab.wait("window.collab")
        tab.ask("collab.whenLoaded")
        if synced:
            tab.wait("collab.synced")
        return tab

    return open_tab


@pytest.fixture
def open_tab(site: str, person: BrowserContext, proxy: Proxy) -> Open:
    """Opens the test's document in a new tab, through the proxy."""
    return opener(site, person, proxy.port, {})


@pytest.fixture(params=["websocket", "http-stream", "events", "polling"])
def open_by(request: pytest.FixtureRequest, site: str, person: Any, proxy: Any) -> Open:
    """The same, by one transport alone."""
    return opener(site, person, proxy.port, {"transport": request.param})


@pytest.fixture
def gateway(server: Server) -> Iterator[Gateway]:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    with Gateway(server.port, seed) as gateway:
        yield gateway


@pytest.fixture
def open_behind(site: str, person: BrowserContext, gateway: Gateway) -> Open:
    """Opens the test's document in a new tab, through the gateway."""
    return opener(site, person, gateway.port, {})


def test_an_edit_is_saved_and_reaches_others(open_by: Open) -> None:
    one, two = open_by(), open_by()
    one.type("hello")
    one.wait("collab.saved")
    two.wait("read() === 'hello'")


def test_people_see_each_other_and_are_gone_when_they_leave(open_by: Open) -> None:
    one, two = open_by(), open_by()
    one.ask("collab.awareness.setLocalState({ name: 'Ada' })")
    identity = one.ask("collab.awareness.clientID")
    two.wait(f"collab.awareness.getStates().get({identity})?.name === 'Ada'")
    one.close()
    two.wait(f"!collab.awareness.getStates().has({identity})")


def test_a_cut_line_loses_nothing(open_by: Open, proxy: Proxy) -> None:
    one, two = open_by(), open_by()
    one.type("before ")
    one.wait("collab.saved")
    proxy.refuse()
    proxy.cut()
    one.wait("collab.status === 'waiting'")
    one.type("offline")
    assert not one.ask("collab.saved")
    proxy.mend()
    one.wait("collab.saved")
    two.wait("read() === 'before offline'")


def test_tabs_share_a_connection_and_another_takes_over(
    open_tab: Open, proxy: Proxy
) -> None:
    alone, one, two = open_tab("tabs"), open_tab("tabs"), open_tab("tabs")
    one.type("hello")
    one.wait("collab.saved")
    two.wait("read() === 'hello'")
    assert proxy.connections == 1

    alone.close()
    one.type(" again")
    one.wait("collab.saved")
    two.wait("collab.synced && read() === 'hello again'")
    assert proxy.connections == 2
    assert proxy.open == 1


def test_tabs_tell_each_other_without_a_server(open_tab: Open, proxy: Proxy) -> None:
    one, two = open_tab("tabs"), open_tab("tabs")
    proxy.refuse()
    proxy.cut()
    one.wait("!collab.synced")
    one.type("offline")
    two.wait("read() === 'offline'")
    assert not two.ask("collab.saved")
    one.close()
    proxy.mend()
    two.wait("collab.saved")


def test_what_was_written_offline_outlives_the_page(
    open_tab: Open, proxy: Proxy
) -> None:
    first = open_tab("keep")
    first.type("a")
    first.wait("collab.saved")
    proxy.refuse()
    proxy.cut()
    first.wait("!collab.synced")
    first.type("b")
    first.page.wait_for_timeout(500)
    first.close()

    second = open_tab("keep", synced=False)
    assert second.text == "ab"
    assert not second.ask("collab.saved")
    assert second.ask("collab.unsaved") == 1
    second.close()
    third = open_tab("keep", synced=False)
    assert not third.ask("collab.saved")
    proxy.mend()
    third.wait("collab.saved")
    assert open_tab().text == "ab"
    # And a page that is loaded now knows that.
    proxy.refuse()
    proxy.cut()
    assert open_tab("keep", synced=False).ask("collab.saved")


def test_a_connection_that_passes_nothing_is_given_up(
    open_tab: Open, proxy: Proxy
) -> None:
    tab = open_tab()
    proxy.hang()
    tab.type("into the void")
    # As when the network changes: the browser says so, and we look.
    tab.ask("window.dispatchEvent(new Event('online'))")
    tab.wait("!collab.synced")
    assert not tab.ask("collab.saved")
    proxy.mend()
    tab.wait("collab.saved")
    assert open_tab().text == "into the void"


def test_being_online_again_ends_the_wait(
    open_tab: Open, person: BrowserContext
) -> None:
    tab = open_tab()
    person.set_offline(True)
    tab.wait("collab.status === 'waiting'")
    tab.type("offline")
    person.set_offline(False)
    tab.wait("collab.saved")


def test_whoever_leaves_with_unsaved_edits_is_asked(
    open_tab: Open, proxy: Proxy
) -> None:
    def leave(tab: Tab) -> list[str]:
        asked: list[str] = []
        # Who has not touched a page is not asked.
        tab.page.mouse.click(10, 10)

        def accept(dialog: Dialog) -> None:
            asked.append(dialog.type)
            dialog.accept()

        tab.page.on("dialog", accept)
        tab.page.goto("about:blank")
        return asked

    saved, unsaved, kept = open_tab(), open_tab(), open_tab("keep")
    saved.type("a")
    saved.wait("collab.saved")
    proxy.hang()
    unsaved.type("b")
    kept.type("c")
    kept.page.wait_for_timeout(500)
    assert leave(saved) == []
    assert leave(unsaved) == ["beforeunload"]
    assert leave(kept) == []


def test_storage_that_is_cleared_loses_nothing_that_is_open(
    open_tab: Open, proxy: Proxy
) -> None:
    tab = open_tab("keep")
    tab.type("a")
    tab.wait("collab.saved")
    proxy.refuse()
    proxy.cut()
    tab.wait("!collab.synced")
    tab.type("b")
    session = tab.page.context.new_cdp_session(tab.page)
    origin = tab.ask("location.origin")
    session.send(
        "Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "indexeddb"}
    )
    tab.type("c")
    proxy.mend()
    tab.wait("collab.saved")
    assert open_tab().text == "abc"


def test_a_slow_line_shows_progress(open_tab: Open, proxy: Proxy) -> None:
    writer = open_tab()
    # Of letters that can't be compressed, each time in front, so that they stay apart.
    writer.ask(
        """for (let part = 0; part < 100; part++) {
          const letters = Array.from({ length: 999 }, () => Math.random().toString(36));
          collab.doc.getText("text").insert(0, letters.join(""));
        }"""
    )
    writer.wait("collab.saved")
    proxy.limit(200_000)
    reader = open_tab(synced=False)
    reader.wait("collab.progress > 0.1 && collab.progress < 0.9")
    reader.wait("collab.progress === 1 && collab.synced")
    assert len(reader.text) == len(writer.text)


def test_a_page_that_is_left_says_goodbye(open_by: Open) -> None:
    one, two = open_by(), open_by()
    one.ask("collab.awareness.setLocalState({ name: 'Ada' })")
    identity = one.ask("collab.awareness.clientID")
    two.wait(f"collab.awareness.getStates().has({identity})")
    one.type("last words")
    one.page.goto("about:blank")
    two.wait("read() === 'last words'")
    two.wait(f"!collab.awareness.getStates().has({identity})")


def test_a_network_without_websockets_is_no_obstacle(
    open_behind: Open, gateway: Gateway
) -> None:
    gateway.sockets = "refused"
    one, two = open_behind(), open_behind()
    one.type("hello")
    one.wait("collab.saved")
    two.wait("read() === 'hello'")
    assert one.ask("client.transportName") == "http-stream"
    # Chromium asks for nothing more while all is quiet.
    asked = gateway.asked("/ws")
    one.type(" again")
    one.wait("collab.saved")
    assert gateway.asked("/ws") == asked == 2


def test_a_websocket_that_brings_nothing_is_gone_around(
    open_behind: Open, gateway: Gateway
) -> None:
    gateway.sockets = "mute"
    tab = open_behind()
    tab.type("hello")
    tab.wait("collab.saved")
    assert tab.ask("client.transportName") == "http-stream"


def test_the_websocket_is_taken_again_when_it_is_possible(
    open_behind: Open, gateway: Gateway
) -> None:
    gateway.sockets = "refused"
    tab = open_behind(probe="300")
    tab.ask("window.lost = 0")
    tab.ask("void collab.on('synced', () => lost++)")
    tab.type("a")
    tab.wait("collab.saved")
    gateway.sockets = "open"
    tab.wait("client.transportName === 'websocket'")
    tab.type("b")
    tab.wait("collab.saved")
    assert tab.ask("names") == ["http-stream", "websocket"]
    assert tab.ask("lost") == 0
    assert open_behind().text == "ab"


def test_a_websocket_that_is_cut_again_and_again_is_gone_around(
    open_behind: Open, gateway: Gateway
) -> None:
    tab = open_behind()
    assert tab.ask("client.transportName") == "websocket"
    gateway.sockets = "refused"
    gateway.cut_sockets()
    tab.type("a")
    tab.wait("client.transportName === 'http-stream' && collab.saved")


@pytest.mark.parametrize(
    ("keeping", "name"), [({"stream"}, "events"), ({"stream", "events"}, "polling")]
)
def test_responses_that_are_kept_back_are_gone_around(
    open_behind: Open, gateway: Gateway, keeping: set[str], name: str
) -> None:
    gateway.sockets = "refused"
    gateway.keeping = frozenset(keeping)
    one, two = open_behind(), open_behind()
    assert one.ask("client.transportName") == name
    one.type("hello")
    one.wait("collab.saved")
    two.wait("read() === 'hello'")


@pytest.mark.parametrize("transport", ["http-stream", "events", "polling"])
def test_requests_that_are_lost_repeated_and_late_lose_nothing(
    open_behind: Open, gateway: Gateway, transport: str
) -> None:
    tabs = [open_behind(transport=transport) for _ in range(2)]
    gateway.loss = 0.2
    words = [f"<{number}>" for number in range(60)]
    for number, word in enumerate(words):
        tabs[number % 2].type(word)
        tabs[0].page.wait_for_timeout(gateway.random.random() * 200)
    gateway.loss = 0.0
    for tab in tabs:
        tab.wait("collab.saved && collab.synced")
    texts = [open_behind(transport=transport).text]
    for tab in tabs:
        tab.wait(f"read().length === {len(texts[0])}")
        texts.append(tab.text)
    assert len(set(texts)) == 1
    assert sorted(texts[0].replace(">", "> ").split()) == sorted(words)
    assert gateway.asked("/push") > 10
