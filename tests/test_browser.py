"""Two people and a server: the demo page in Chromium."""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.applications import EXAMPLE
from tests.applications import running as embedded
from tests.interop import Clients, until
from tests.pages import Visit, Visitor, browsing, ensure_demo, visiting
from tests.servers import Server, running
from tests.test_tools import Tool

# One browser is enough for a machine.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


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


def same_text(*visitors: Visitor) -> str | None:
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
        assert visitor.states("connection") == ["connecting", "online"]
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
            visitor.see("connection", "offline")
            visitor.see("saved", "offline")
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
            assert visitor.lost
            connection = visitor.states("connection")
            assert connection[:3] == ["connecting", "online", "offline"]
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
    for panel in ("document", "me"):
        ann.page.get_by_test_id(panel).tap()
        assert html.evaluate(overflow) <= 0
        ann.page.keyboard.press("Escape")


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
        assert ann.states("connection") == ["connecting", "online"]


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
        ann.see("connection", "offline")
        assert tool.lines("docs", "list") == []
