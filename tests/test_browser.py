"""Two people and a server: the demo page in Chromium."""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import pytest
from playwright.sync_api import Browser, expect

from tests.applications import EXAMPLE
from tests.applications import running as embedded
from tests.interop import Client, Clients, until
from tests.pages import Visit, Visitor, ensure_demo, visiting
from tests.peers import enter, presence
from tests.proxy import Proxy
from tests.servers import Server, running
from tests.test_tools import Tool

# One browser is enough for a machine.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

numbers = itertools.count(1)

STAYED = {"connecting", "loading", "online"}
"""What the page says of a connection that was never lost."""

DOOR = "tests.interop.door:authorize"


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    with visiting(browser) as visit:
        yield visit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    ensure_demo()
    with running(tmp_path_factory.mktemp("browser")) as server:
        yield server


@pytest.fixture
def name() -> str:
    return f"page-{next(numbers)}"


def same_text(*visitors: Visitor | Client) -> str | None:
    texts = {visitor.text for visitor in visitors}
    return texts.pop() if len(texts) == 1 else None


def letters(text: str, others: str) -> str:
    """A text without what others wrote."""
    return "".join(char for char in text if char not in others)


def test_two_people_write_at_the_same_time(
    visit: Visit, server: Server, name: str
) -> None:
    ann, bob = visit(), visit()
    ann.open(server.url, name)
    bob.open(server.url, name)
    by_ann, by_bob = "the quick brown fox ", "THE_LAZY_DOG_SLEEPS_"
    for mine, theirs in zip(by_ann, by_bob, strict=True):
        ann.type(mine)
        bob.type(theirs)
    until(lambda: len(same_text(ann, bob) or "") == len(by_ann + by_bob))
    assert letters(ann.text, by_bob) == by_ann
    assert letters(ann.text, by_ann) == by_bob
    for visitor in (ann, bob):
        visitor.see("saved", "saved")
        assert set(visitor.states("connection")) <= STAYED
    cleo = visit()
    cleo.open(server.url, name)
    until(lambda: same_text(ann, bob, cleo) is not None)


def test_people_see_each_other(visit: Visit, server: Server, name: str) -> None:
    ann, bob = visit(), visit()
    ann.open(server.url, name)
    bob.open(server.url, name)
    ann.rename("Ann")
    bob.rename("Bob 😀")
    until(lambda: ann.people == bob.people == ["Ann", "Bob 😀"])
    ann.type("hello")
    until(lambda: bob.text == "hello")
    until(lambda: bob.cursors == ["Ann"])
    bob.type("x")
    until(lambda: ann.cursors == ["Bob 😀"])
    at = ann.page.get_by_test_id("cursor")
    before = at.bounding_box()
    bob.page.keyboard.press("End")
    assert before is not None
    until(lambda: (at.bounding_box() or before)["x"] > before["x"])
    bob.page.close()
    until(lambda: ann.people == ["Ann"] and ann.cursors == [], patience=10)
    bob.page = bob.context.new_page()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_not_a_letter_is_lost_when_the_server_restarts(
    visit: Visit, tmp_path: Path, end: str
) -> None:
    with running(tmp_path) as server:
        ann, bob = visit(), visit()
        ann.open(server.url, "restart")
        bob.open(server.url, "restart")
        ann.type("before ")
        bob.type("BEFORE_")
        ann.see("saved", "saved")
        bob.see("saved", "saved")

        getattr(server, end)()
        ann.type("meanwhile ")
        bob.type("MEANWHILE_")
        for visitor in (ann, bob):
            visitor.see("connection", "waiting")
            saved = visitor.page.get_by_test_id("saved")
            expect(saved).to_have_text("10 edits wait; kept in this browser")
        server.start()
        ann.type("coming back ")
        bob.type("COMING_BACK_")
        for visitor in (ann, bob):
            visitor.see("connection", "online")
            visitor.see("saved", "saved")
        ann.type("after")
        bob.type("AFTER")

        by_ann = "before meanwhile coming back after"
        by_bob = by_ann.upper().replace(" ", "_")
        until(lambda: len(same_text(ann, bob) or "") == len(by_ann + by_bob))
        assert letters(ann.text, by_bob) == by_ann
        assert letters(ann.text, by_ann) == by_bob
        for visitor in (ann, bob):
            visitor.see("saved", "saved")
            connection = visitor.states("connection")
            assert connection.index("online") < connection.index("waiting")
            assert connection[-1] == "online"
            assert visitor.states("saved")[-2:] == ["saving", "saved"]
        server.restart()
        cleo = visit()
        cleo.open(server.url, "restart")
        until(lambda: cleo.text == ann.text)


def test_a_reload_shows_what_was_saved(visit: Visit, server: Server, name: str) -> None:
    ann = visit()
    ann.open(server.url, name)
    ann.type("# A heading")
    ann.page.keyboard.press("Enter")
    ann.type("and **more**")
    ann.see("saved", "saved")
    ann.page.reload()
    until(lambda: ann.text == "# A heading\nand **more**")


def test_undo_takes_back_only_what_is_ones_own(
    visit: Visit, server: Server, name: str
) -> None:
    ann, bob = visit(), visit()
    ann.open(server.url, name)
    bob.open(server.url, name)
    ann.type("mine")
    until(lambda: bob.text == "mine")
    bob.page.keyboard.press("End")
    bob.type(" and yours")
    until(lambda: ann.text == "mine and yours")
    ann.page.keyboard.press("Control+z")
    until(lambda: same_text(ann, bob) == " and yours")


def test_a_link_can_be_shared(visit: Visit, server: Server) -> None:
    ann = visit(permissions=["clipboard-read", "clipboard-write"])
    ann.visit(f"{server.url}/")
    assert re.search(r"\?doc=[a-z]+-[a-z]+-\d+$", ann.page.url)
    ann.type("shared")
    ann.page.get_by_test_id("share").click()
    expect(ann.page.get_by_test_id("share")).to_have_attribute("data-state", "copied")
    link = ann.page.evaluate("navigator.clipboard.readText()")
    assert link == ann.page.url
    bob = visit()
    bob.visit(link)
    until(lambda: bob.text == "shared")


def test_another_document_is_another(visit: Visit, server: Server, name: str) -> None:
    ann = visit()
    ann.open(server.url, name)
    ann.type("in the first")
    ann.see("saved", "saved")
    first = ann.page.url
    ann.page.get_by_test_id("document").click()
    ann.page.get_by_test_id("new").click()
    ann.page.wait_for_url(lambda url: url != first)
    ann.see("connection", "online")
    assert ann.text == ""
    ann.page.get_by_test_id("document").click()
    asked = ann.page.get_by_test_id("open-name")
    expect(asked).to_be_focused()  # The panel puts the name of this one there first.
    asked.fill(name)
    ann.page.get_by_test_id("open").click()
    ann.page.wait_for_url(first)
    until(lambda: ann.text == "in the first")


@pytest.mark.parametrize("name", ["a/b c", "😀 漢字", "constructor", "50% & more?#"])
def test_a_document_can_be_called_almost_anything(
    visit: Visit, server: Server, name: str
) -> None:
    ann = visit()
    ann.open(server.url, name)
    ann.type(name)
    ann.see("saved", "saved")
    expect(ann.page.get_by_test_id("document")).to_have_attribute("data-name", name)
    with Clients() as clients:
        # It is that very name that the server knows.
        reader = clients.open(server.ws_url, name.replace("%", "%25"))
        if not set(name) & set("?#"):
            until(lambda: reader.text == name)


def test_the_theme_can_be_changed(visit: Visit, server: Server, name: str) -> None:
    ann = visit(color_scheme="light")
    ann.open(server.url, name)
    page = ann.page.locator("html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = ann.page.evaluate(background)
    expect(page).to_have_attribute("data-theme", "light")
    ann.page.get_by_test_id("theme").click()
    expect(page).to_have_attribute("data-theme", "dark")
    until(lambda: ann.page.evaluate(background) != light)
    ann.page.reload()
    expect(page).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("width", [320, 390])
def test_the_page_fits_a_phone(
    visit: Visit, server: Server, name: str, width: int
) -> None:
    phone = {"width": width, "height": 700}
    ann = visit(viewport=phone, is_mobile=True, has_touch=True)
    bob = visit()
    ann.open(server.url, f"{name}-with-quite-a-long-name-that-needs-room")
    bob.open(server.url, f"{name}-with-quite-a-long-name-that-needs-room")
    bob.rename("Somebody with a very long name")
    bob.type("wide" * 100)
    until(lambda: len(ann.people) == 2 and len(ann.text) == 400)
    overflow = "(html) => html.scrollWidth - html.clientWidth"
    html = ann.page.locator("html")
    assert html.evaluate(overflow) <= 0
    for panel in ("document", "me", "status"):
        ann.page.get_by_test_id(panel).tap()
        assert html.evaluate(overflow) <= 0
        ann.page.keyboard.press("Escape")
    ann.cut_off()
    ann.type("x")
    expect(ann.page.get_by_test_id("saved")).to_contain_text("1 edit waits")
    assert html.evaluate(overflow) <= 0
    foot = ann.page.get_by_role("contentinfo")
    assert foot.evaluate(overflow) <= 0
    ann.page.get_by_test_id("online").tap()
    ann.see("saved", "saved")


def test_a_hostile_name_is_only_text(visit: Visit, server: Server, name: str) -> None:
    hostile = "<img src=x onerror=hacked=1>"
    with Clients() as clients:
        ann = visit()
        ann.open(server.url, name)
        ann.type("text")
        mallory = clients.open(server.ws_url, name)
        until(lambda: mallory.text == "text")
        mallory.run(
            """
            const at = Y.relativePositionToJSON(
              Y.createRelativePositionFromTypeIndex(doc.getText("text"), 2));
            const color = "red;background:url(//evil.example/x)";
            const user = { name, color, colorLight: color };
            awareness.setLocalState({ user, cursor: { anchor: at, head: at } });
            """,
            name=hostile,
        )
        until(lambda: hostile in ann.people and ann.cursors == [hostile])
        ann.page.get_by_test_id("me").click()
        expect(ann.page.get_by_test_id("people-panel")).to_contain_text(hostile)
        assert ann.page.locator("img:not(.cm-widgetBuffer)").count() == 0
        assert ann.page.evaluate("typeof hacked") == "undefined"
        assert "evil" not in ann.page.content()
        for nonsense in (
            {"user": None},
            {"user": {"name": ["x"], "color": {"a": 1}}, "cursor": {"anchor": 1}},
            {"user": {"name": "x" * 10_000}, "cursor": {"anchor": {}, "head": {}}},
            {"user": "x", "cursor": "y"},
        ):
            mallory.announce(nonsense)
        mallory.announce({"user": {"name": "Mallory"}})
        until(lambda: "Mallory" in ann.people)
        ann.page.keyboard.press("Escape")
        ann.page.get_by_test_id("editor").focus()
        ann.page.keyboard.press("End")
        ann.type(" still works")
        until(lambda: mallory.text == "text still works")


MARKUP = "<img src=x onerror=hacked=1>"

ALL_MARKUP = f"{MARKUP}<svg onload=hacked=1><b>\"'</b><script>hacked=1</script>"


def is_unharmed(visitor: Visitor) -> bool:
    """Whether nothing was made of markup, and nothing of it ran."""
    page = visitor.page
    made = "img:not(.cm-widgetBuffer), svg[onload], b, script:not([src]), iframe"
    assert page.locator(made).count() == 0
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.evaluate("typeof ({}).hacked") == "undefined"
    assert "evil.example" not in page.content()
    return True


def hostile_states() -> Iterator[object]:
    """What somebody may say of themselves who has no client of ours."""
    evil = f"red;background:url(//evil.example/x){MARKUP}"
    yield {"user": {"name": MARKUP, "color": evil, "colorLight": evil}}
    yield {"user": {"name": {"toString": MARKUP}, "color": [evil]}}
    yield {"user": {"name": [MARKUP], "color": "#12345g", "avatar": evil}}
    yield {"constructor": {"prototype": {"hacked": 1}}, "user": {"name": "x"}}
    yield {"user": {"name": "\u202e\u0000\u2028" + MARKUP}}
    yield {"user": {"name": MARKUP * 300}}
    yield {MARKUP: MARKUP, "user": MARKUP, "cursor": MARKUP}
    for anchor in (
        {"tname": MARKUP},
        {"type": {"client": 1, "clock": 2**31}, "tname": "text", "assoc": MARKUP},
        {"item": {"client": 1e308, "clock": -1}, "type": None, "tname": "text"},
        {"item": MARKUP, "type": MARKUP},
        [[[[MARKUP]]]],
    ):
        cursor = {"anchor": anchor, "head": anchor}
        yield {"user": {"name": MARKUP, "color": evil}, "cursor": cursor}


def test_markup_is_text_wherever_it_stands(visit: Visit, server: Server) -> None:
    name = f"{ALL_MARKUP} {next(numbers)}"
    ann, bob = visit(), visit()
    ann.open(server.url, name)
    ann.rename(MARKUP)
    bob.open(server.url, name)
    bob.rename("Bob")
    ann.type(ALL_MARKUP)
    until(lambda: bob.text == ALL_MARKUP and bob.cursors == [MARKUP])
    until(lambda: ann.people == bob.people == sorted([MARKUP, "Bob"]))
    for visitor in (ann, bob):
        shown = visitor.page.get_by_test_id("document")
        expect(shown).to_have_attribute("data-name", name)
        visitor.page.get_by_test_id("me").click()
        assert is_unharmed(visitor)
    ann.open(server.url, f"another {next(numbers)}")  # The first one is a recent one.
    ann.page.get_by_test_id("document").click()
    expect(ann.page.get_by_test_id("document-panel")).to_contain_text(name)
    assert is_unharmed(ann)


def test_whatever_somebody_says_of_themselves_runs_nowhere(
    visit: Visit, server: Server, name: str
) -> None:
    ann = visit()
    ann.open(server.url, name)
    ann.type("text")
    ann.see("saved", "saved")
    states = [json.dumps(state).encode() for state in hostile_states()]
    with ExitStack() as stack:
        for client, state in enumerate(states, 2):
            mallory = stack.enter_context(enter(server.port, f"/ws/{name}"))
            mallory.say(presence((client, 1, state)))
        mallory = stack.enter_context(enter(server.port, f"/ws/{name}"))
        mallory.say(presence((99, 1, b'{"user":{"name":"Mallory"}}')))
        until(lambda: "Mallory" in ann.people and len(ann.people) > len(states) / 2)
        ann.page.get_by_test_id("me").click()
        assert is_unharmed(ann)
        ann.page.keyboard.press("Escape")
        ann.page.get_by_test_id("editor").focus()
        ann.page.keyboard.press("End")
        ann.type(" goes on")
        ann.see("saved", "saved")
        assert ann.text == "text goes on"
        assert is_unharmed(ann)


def test_if_the_page_made_html_of_a_text_the_browser_would_refuse(
    visit: Visit, server: Server, name: str
) -> None:
    """So the tests before would notice: there is something to be seen if they fail."""
    ann = visit()
    ann.open(server.url, name)
    for attempt in (
        f"document.body.innerHTML = {MARKUP!r}",
        "document.body.setAttribute('onclick', 'hacked=1')",
        "await fetch('//evil.example/')",
    ):
        refused = ann.page.evaluate(
            f"async () => {{ try {{ {attempt} }} catch (error) {{ return true; }} }}"
        )
        assert refused, attempt
    assert ann.page.evaluate("typeof hacked") == "undefined"
    until(lambda: len(ann.page.evaluate("violations")) >= 3)
    kinds = {each.split()[0] for each in ann.page.evaluate("violations")}
    assert {"require-trusted-types-for", "connect-src"} <= kinds
    ann.page.evaluate("violations.length = 0")
    ann.complaints.clear()


def test_editors_with_other_clients_have_the_same_document_open(
    visit: Visit, server: Server, name: str
) -> None:
    with Clients() as clients:
        ann = visit()
        ann.open(server.url, name)
        others = [
            clients.open(server.ws_url, name, kind=kind)
            for kind in ("3.1", "hocuspocus-4")
        ]
        ann.type("one ")
        for number, other in enumerate(others):
            until(partial(same_text, ann, other))
            other.append(f"{number} ")
            until(partial(same_text, ann, other))
        assert ann.text == "one 0 1 "
        others[0].announce({"user": {"name": "Bob", "color": "#1d6fd8"}})
        until(lambda: "Bob" in ann.people)
        me = ann.page.get_by_test_id("me").get_attribute("title")
        assert me is not None
        until(lambda: me.removesuffix(" (you)") in str(others[0].people))
        ann.see("saved", "saved")


def test_who_worked_offline_is_merged_with_the_others(
    visit: Visit, server: Server, name: str
) -> None:
    with Clients() as clients:
        ann, bob = visit(), visit()
        ann.open(server.url, name)
        bob.open(server.url, name)
        cleo = clients.open(server.ws_url, name)
        ann.type("together")
        until(lambda: bob.text == cleo.text == "together")

        ann.cut_off()
        saved = ann.page.get_by_test_id("saved")
        ann.page.keyboard.press("Home")
        expect(saved).to_have_text("Saved")
        ann.type("ann ")
        expect(saved).to_have_text("4 edits wait; kept in this browser")
        bob.page.keyboard.press("End")
        bob.type(" bob")
        until(lambda: cleo.text == "together bob")
        cleo.append(" cleo")
        until(lambda: bob.text == "together bob cleo")
        until(lambda: len(bob.people) == 1)
        assert ann.text == "ann together"

        # It is the person who is offline, and not the page.
        ann.page.reload()
        ann.see("connection", "offline")
        until(lambda: ann.text == "ann together")
        expect(saved).to_have_text("4 edits wait; kept in this browser")
        ann.page.get_by_test_id("status").click()
        switch = ann.page.get_by_role("switch", name="Work offline")
        expect(switch).to_be_checked()
        switch.click()
        ann.see("connection", "online")
        ann.see("saved", "saved")
        until(lambda: ann.text == bob.text == cleo.text)
        assert ann.text == "ann together bob cleo"
        ann.page.reload()
        ann.see("connection", "online")
        assert ann.asked == []


def test_what_was_written_without_a_server_outlives_the_page(
    visit: Visit, tmp_path: Path, name: str
) -> None:
    with running(tmp_path) as server:
        ann = visit()
        ann.open(server.url, name)
        ann.type("before ")
        ann.see("saved", "saved")
        server.kill()
        ann.see("connection", "waiting")
        ann.type("meanwhile")
        saved = ann.page.get_by_test_id("saved")
        expect(saved).to_have_text("9 edits wait; kept in this browser")
        before = ann.turn_page()
        with before.expect_event("close"):
            before.close(run_before_unload=True)
        assert ann.asked == []
        server.start()
        with Clients() as clients:
            bob = clients.open(server.ws_url, name)
            until(lambda: bob.text == "before ")
            ann.open(server.url, name)
            ann.see("saved", "saved")
            until(lambda: bob.text == ann.text == "before meanwhile")


def test_the_browser_asks_before_a_page_is_left_that_alone_has_edits(
    visit: Visit, tmp_path: Path, name: str
) -> None:
    with running(tmp_path) as server:
        ann = visit()
        # As in private windows of some browsers.
        ann.context.add_init_script("indexedDB.open = () => { throw new Error('no'); }")
        ann.open(server.url, name)
        ann.page.get_by_test_id("status").click()
        expect(ann.page.get_by_test_id("copy")).to_have_text("Keeps no copy")
        ann.page.keyboard.press("Escape")
        server.kill()
        ann.see("connection", "waiting")
        ann.page.get_by_test_id("editor").focus()
        ann.type("x")
        saved = ann.page.get_by_test_id("saved")
        expect(saved).to_have_text("1 edit waits; keep this page open")
        before = ann.turn_page()
        with before.expect_event("close"):
            before.close(run_before_unload=True)
        assert ann.asked == ["beforeunload"]
        (complaint,) = ann.complaints
        assert "is not kept in this browser" in complaint
        ann.complaints.clear()


def test_the_page_counts_down_and_can_be_told_to_try_now(
    visit: Visit, server: Server, name: str
) -> None:
    with Proxy(server.port) as proxy:
        ann = visit()
        clock = ann.page.clock
        clock.install()
        ann.open(f"http://127.0.0.1:{proxy.port}", name)
        proxy.refuse()
        proxy.cut()
        # From now on, time goes on when we say so, and no attempt is made by itself.
        clock.pause_at(ann.page.evaluate("Date.now() + 100"))

        def seconds(later: int) -> int:
            clock.run_for(later)
            shown = ann.page.get_by_test_id("connection").inner_text()
            match = re.search(r"Retrying in (\d+) s", shown)
            return int(match[1]) if match else 0

        until(lambda: seconds(500) >= 4)
        tried = len(ann.sockets)
        first = seconds(500)
        assert seconds(1000) == first - 1
        assert seconds(1000) == first - 2
        assert len(ann.sockets) == tried
        proxy.mend()
        with ann.page.expect_websocket():
            ann.page.get_by_test_id("retry").click()
        clock.resume()
        ann.see("connection", "online")
        expect(ann.page.get_by_test_id("retry")).to_be_hidden()


def test_the_page_shows_how_much_of_a_large_document_is_here(
    visit: Visit, server: Server, name: str
) -> None:
    with Clients() as clients, Proxy(server.port) as proxy:
        author = clients.open(server.ws_url, name)
        until(lambda: author.synced)
        random = Random(name)
        for _ in range(8):
            author.insert(0, random.randbytes(40_000).hex())
        until(lambda: author.saved)

        ann = visit()
        ann.open(f"http://127.0.0.1:{proxy.port}", f"{name}-other")
        proxy.limit(100_000)
        address = f"http://127.0.0.1:{proxy.port}/?doc={name}"
        ann.page.goto(address, wait_until="commit")
        bar = ann.page.get_by_role("progressbar", name="Loading the document")
        part = re.compile(r"^[1-9]\d$")
        expect(bar).to_have_attribute("aria-valuenow", part)
        proxy.hang()
        connection = ann.page.get_by_test_id("connection")
        expect(connection).to_have_text(re.compile(r"Loading… [1-9]\d %"))
        expect(ann.page.get_by_test_id("count")).to_contain_text("0,000 characters")
        expect(bar).to_be_visible()
        proxy.mend()
        ann.see("connection", "online")
        expect(bar).to_be_hidden()
        expect(ann.page.get_by_test_id("count")).to_contain_text("640,000 characters")
        ann.see("saved", "saved")


def test_the_page_shows_how_it_is_connected_and_how_well(
    visit: Visit, server: Server, name: str
) -> None:
    with Proxy(server.port) as proxy:
        ann = visit()
        ann.open(f"http://127.0.0.1:{proxy.port}", name)
        ann.page.get_by_test_id("status").focus()
        ann.page.keyboard.press("Enter")
        panel = ann.page.get_by_role("dialog", name="Connection")
        expect(panel).to_be_visible()
        expect(panel.get_by_test_id("transport")).to_have_text("WebSocket")
        expect(panel.get_by_test_id("access")).to_have_text("You can edit")
        expect(panel.get_by_test_id("copy")).to_have_text("Keeps a copy")
        latency = panel.get_by_test_id("latency")
        expect(latency).to_have_text(re.compile(r"^\d+ ms$"))
        proxy.delay(to_server=0.6, to_client=0.6)
        expect(latency).to_have_text(re.compile(r"^[1-9]\.\d s$"))
        proxy.mend()
        expect(latency).to_have_text(re.compile(r"^\d+ ms$"))
        ann.page.get_by_role("switch", name="Work offline").click()
        expect(latency).to_have_text("–")
        expect(panel.get_by_test_id("transport")).to_have_text("–")


def test_who_may_only_read_is_told_so(visit: Visit, tmp_path: Path, name: str) -> None:
    door = tmp_path / "door.json"
    door.write_text('{"": "read:ann"}')
    environment = {"COLLAB_DOOR": str(door)}
    with (
        running(tmp_path, "--authorize", DOOR, environment=environment) as server,
        Clients() as clients,
    ):
        ann = visit()
        ann.open(server.url, name)
        banner = ann.page.get_by_test_id("banner")
        told = "You can read this document, but not change it."
        expect(banner).to_have_text(told, use_inner_text=True)
        editor = ann.page.get_by_test_id("editor")
        expect(editor).to_have_attribute("aria-readonly", "true")
        ann.type("x")
        bob = clients.open(server.ws_url, name, token="write:bob")
        until(lambda: bob.synced)
        bob.append("news")
        until(lambda: ann.text == "news")
        ann.see("saved", "saved")

        door.write_text('{"": "write:ann"}')
        server.restart()
        expect(banner).to_be_hidden()
        ann.page.keyboard.press("Control+End")
        ann.type("!")
        until(lambda: bob.text == "news!")
        ann.see("saved", "saved")


def test_who_may_not_come_in_is_told_why_and_can_try_again(
    visit: Visit, tmp_path: Path, name: str
) -> None:
    door = tmp_path / "door.json"
    door.write_text("{}")
    environment = {"COLLAB_DOOR": str(door)}
    with running(tmp_path, "--authorize", DOOR, environment=environment) as server:
        ann = visit()
        ann.host = f"127.0.0.1:{server.port}"
        ann.page.goto(f"{server.url}/?doc={name}")
        ann.see("connection", "closed")
        ann.see("saved", "refused")
        banner = ann.page.get_by_test_id("banner")
        expect(banner).to_contain_text("You don’t have access to this document.")
        door.write_text('{"": "write:ann"}')
        ann.page.get_by_test_id("again").click()
        ann.see("connection", "online")
        expect(banner).to_be_hidden()
        ann.page.get_by_test_id("editor").focus()
        ann.type("in")
        ann.see("saved", "saved")
        assert ann.text == "in"


def test_tabs_share_a_connection_unless_one_works_offline(
    visit: Visit, server: Server, name: str
) -> None:
    ann, bob = visit(), visit()
    bob.open(server.url, name)
    ann.open(server.url, name)
    first = ann.turn_page()
    ann.open(server.url, name)
    ann.type("second")
    until(lambda: bob.text == "second")
    assert len(ann.sockets) == 1

    ann.cut_off()
    first.bring_to_front()
    first.get_by_test_id("editor").focus()
    first.keyboard.press("End")
    first.keyboard.type(" first")
    until(lambda: bob.text == "second first")
    assert ann.text == "second"
    ann.page.bring_to_front()
    ann.page.get_by_test_id("online").click()
    until(lambda: ann.text == "second first")
    assert len(ann.sockets) == 1

    first.close()
    ann.page.get_by_test_id("editor").focus()
    ann.page.keyboard.press("Home")
    ann.type("and ")
    ann.see("saved", "saved")
    until(lambda: bob.text == "and second first")
    assert len(ann.sockets) == 2


def test_the_page_works_inside_an_application(visit: Visit, tmp_path: Path) -> None:
    ensure_demo()
    with embedded("main:app", EXAMPLE, tmp_path, "/collab") as server:
        ann, bob = visit(), visit()
        ann.host = f"127.0.0.1:{server.port}"
        ann.page.goto(f"http://{ann.host}/")
        ann.page.get_by_text("house rules").click()
        ann.see("connection", "online")
        bob.open(server.url, "notes/house rules")
        ann.type("be kind")
        until(lambda: bob.text == "be kind")
        ann.see("saved", "saved")
        assert len(bob.people) == 2


def test_the_page_says_what_is_not_saved_while_the_database_is_away(
    visit: Visit, tmp_path: Path, name: str
) -> None:
    with running(tmp_path) as server:
        ann, bob = visit(), visit()
        ann.open(server.url, name)
        bob.open(server.url, name)
        ann.type("before ")
        ann.see("saved", "saved")
        # Another program writes to the file, and doesn't end.
        other = sqlite3.connect(server.database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ann.type("meanwhile ")
        until(lambda: bob.text == "before meanwhile ")
        ann.see("saved", "late")
        bob.see("saved", "saved")
        other.execute("ROLLBACK")
        other.close()
        ann.see("saved", "saved")
        assert set(ann.states("connection")) <= STAYED


def test_the_page_says_that_its_document_was_deleted(
    visit: Visit, tmp_path: Path, name: str
) -> None:
    with running(tmp_path) as server:
        ann = visit()
        ann.open(server.url, name)
        ann.type("gone")
        ann.see("saved", "saved")
        tool = Tool(server.database_url, tmp_path)
        tool.run("docs", "delete", name)
        banner = ann.page.get_by_test_id("banner")
        expect(banner).to_contain_text("This document was deleted.")
        ann.see("connection", "closed")
        assert ann.text == "gone"
        ann.type("!")
        assert ann.text == "gone"
        assert tool.lines("docs", "list") == []
        tool.run("docs", "restore", name)
        ann.page.get_by_test_id("again").click()
        ann.see("connection", "online")
        assert ann.text == "gone"
        ann.page.get_by_test_id("editor").focus()
        ann.type("!")
        ann.see("saved", "saved")
