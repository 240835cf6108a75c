"""The npm package in Chromium: tabs, storage, networks that fail or forbid."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog

from tests.gateway import Gateway
from tests.pages import PATIENCE
from tests.proxy import Proxy
from tests.servers import Server, running
from tests.tabs import Tab

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

numbers = itertools.count(1)


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
        tab.open(site, **query)
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
