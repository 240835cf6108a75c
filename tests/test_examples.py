"""Editors over the providers they come with: the pages of ``examples/editors``."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, expect

from tests.interop import until
from tests.node import BIN, ensure_modules, environment
from tests.pages import Visit, Visitor, visiting
from tests.servers import Server, running

# One browser is enough for a machine.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

SOURCE = Path(__file__).parents[1] / "examples" / "editors"

START, END = range(-20, 20), range(100, 1000)
"""Where the cursor is in a line, in pixels from its beginning."""

ADA, BORIS = ("Ada", "rgb(216, 27, 96)"), ("Boris", "rgb(29, 111, 216)")
"""Names that the pages know, and their colours."""


@dataclass(frozen=True)
class Editor:
    """A page, and where it shows what: as CSS selectors."""

    name: str
    line: str
    """Each line or block of the text."""
    label: str
    """The name at the cursor of somebody else."""
    inside: str = "none"
    """What is in a line and not of the text."""
    saved: str = "In sync"
    """What it says when the server has everything."""


EDITORS = [
    Editor(
        "tiptap",
        ".tiptap > *",
        ".collaboration-carets__label",
        ".collaboration-carets__caret",
        "All changes saved",
    ),
    Editor(
        "blocknote",
        ".bn-block-content",
        ".bn-collaboration-cursor__label",
        ".bn-collaboration-cursor__base",
        "All changes saved",
    ),
    Editor("lexical", "[data-lexical-editor] > *", ".cursor-name"),
    Editor("quill", ".ql-editor > *", ".ql-cursor-flag", ".ql-cursor"),
    Editor("monaco", ".view-line", ".yRemoteSelectionHead"),
    Editor(
        "prosemirror",
        ".ProseMirror > *",
        ".ProseMirror-yjs-cursor > div",
        ".ProseMirror-yjs-cursor",
    ),
]

# Monaco keeps its lines in any order, with spaces that don't break.
LINES = """([line, inside]) => [...document.querySelectorAll(line)]
  .sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)
  .map((line) => {
    const copy = line.cloneNode(true);
    for (const element of copy.querySelectorAll(inside)) element.remove();
    return copy.textContent.replaceAll("\\u00a0", " ");
  })"""

# Monaco has no elements for names: they are in its styles.
CURSORS = """([line, label]) => [...document.querySelectorAll(label)].map((label) => {
  const name = label.textContent.trim();
  const style = getComputedStyle(label, name === "" ? "::after" : null);
  const { left } = document.querySelector(line).getBoundingClientRect();
  const x = label.getBoundingClientRect().x - left;
  return [name || JSON.parse(style.content), style.backgroundColor, x];
})"""


@dataclass(frozen=True)
class Cursor:
    """The cursor of somebody else."""

    name: str
    color: str
    x: float
    """Pixels from the beginning of the lines."""


class Writer:
    """Somebody who has the page of an editor open."""

    def __init__(self, visitor: Visitor, editor: Editor) -> None:
        self.visitor = visitor
        self.page = visitor.page
        self.editor = editor

    @property
    def lines(self) -> list[str]:
        """The text that they see."""
        where = [self.editor.line, self.editor.inside]
        lines: list[str] = self.page.evaluate(LINES, where)
        return lines

    @property
    def cursor(self) -> Cursor | None:
        """The cursor of the other one who is here."""
        cursors = self.page.evaluate(CURSORS, [self.editor.line, self.editor.label])
        return Cursor(*cursors[0]) if len(cursors) == 1 else None

    def sees(self, person: tuple[str, str], where: range) -> bool:
        """Whether the cursor is that of a person, and where it should be."""
        cursor = self.cursor
        if cursor is None or int(cursor.x) not in where:
            return False
        return (cursor.name, cursor.color) == person

    def click(self, text: str) -> None:
        """Click into the line that has a text; beside it, if that is short."""
        self.page.locator(self.editor.line).filter(has_text=text).click()

    def press(self, key: str) -> None:
        """Press a key that has a name."""
        self.page.keyboard.press(key)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing about it."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def files(folder: Path) -> Iterator[str]:
    """An HTTP server of a folder's files; its URL, without a slash at the end."""
    handler = partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The pages, built from what is there now, and served."""
    ensure_modules(SOURCE)
    built = tmp_path_factory.mktemp("editors")
    command: list[str | Path] = [BIN / "npm", "run", "build", "--"]
    command += ["--outDir", built, "--emptyOutDir", "--logLevel", "warn"]
    subprocess.run(command, cwd=SOURCE, env=environment(), check=True, stdout=2)
    with files(built) as url:
        yield url


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    with visiting(browser) as visit:
        yield visit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: editor.name)
def test_two_people_write_in_one_editor(
    editor: Editor, visit: Visit, server: Server, pages: str
) -> None:
    # Each has a browser of their own: nothing but the server can bring them together.
    def opened(name: str) -> Writer:
        writer = Writer(visit(), editor)
        query = urlencode({"server": server.ws_url, "name": name})
        writer.visitor.visit(f"{pages}/{editor.name}/?{query}")
        expect(writer.page.locator(editor.line).first).to_be_visible()
        return writer

    ada = opened("Ada")
    ada.page.locator(editor.line).first.click()
    ada.visitor.type("The first line.")
    ada.press("Enter")
    ada.visitor.type("The second line.")

    boris = opened("Boris")
    until(lambda: boris.lines == ["The first line.", "The second line."])
    boris.click("The first line.")
    boris.press("End")
    for by_ada, by_boris in zip(" Ada was here", " BORIS WAS TO", strict=True):
        ada.visitor.type(by_ada)
        boris.visitor.type(by_boris)
    both = ["The first line. BORIS WAS TO", "The second line. Ada was here"]
    until(lambda: ada.lines == boris.lines == both)

    # Without a pause, and first where the cursor of the other one is.
    ada.click("BORIS WAS TO")
    ada.press("Home")
    ada.visitor.type("Dear Boris. ")
    both[0] = f"Dear Boris. {both[0]}"
    until(lambda: ada.lines == boris.lines == both)

    for writer, other, person in ((ada, boris, ADA), (boris, ada, BORIS)):
        writer.press("End")
        until(partial(other.sees, person, END))
        writer.press("Home")
        until(partial(other.sees, person, START))

    for writer in (ada, boris):
        writer.visitor.see("saved", "saved")
        expect(writer.page.get_by_test_id("saved")).to_have_text(editor.saved)
        assert writer.visitor.states("connection") == ["connecting", "online"]
    cleo = opened("Cleo")
    until(lambda: cleo.lines == both)


def test_the_list_of_editors_leads_to_them(
    visit: Visit, server: Server, pages: str
) -> None:
    ada = visit()
    ada.host = pages.removeprefix("http://")
    ada.page.goto(f"{pages}/?{urlencode({'server': server.ws_url})}")
    links = ada.page.get_by_role("link")
    expect(links).to_have_count(len(EDITORS))
    for link, editor in zip(links.all(), EDITORS, strict=True):
        url: str = link.evaluate("(link) => link.href")
        assert url.startswith(f"{pages}/{editor.name}/?")
        boris = visit()
        boris.visit(url)


def test_the_pages_follow_the_system_into_the_dark(
    visit: Visit, server: Server, pages: str
) -> None:
    # Monaco has themes of its own: the page has to change them.
    url = f"{pages}/monaco/?{urlencode({'server': server.ws_url})}"
    color = "getComputedStyle(document.querySelector('.monaco-editor')).color"
    ada = visit(color_scheme="light")
    ada.visit(url)
    light = ada.page.evaluate(color)
    ada.page.emulate_media(color_scheme="dark")
    until(lambda: ada.page.evaluate(color) != light)
