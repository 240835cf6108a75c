"""The table in ARCHITECTURE.md is the truth, and the code follows it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "collab"
LINES = 600
"""A module longer than this does more than one thing."""

IO = {"asyncio", "logging", "socket", "sqlalchemy", "time"}
"""What a pure module does without: I/O, the clock, the logger."""

UNSAFE = {
    # They read what comes from the network without bounds.
    "Awareness",
    "Decoder",
    "Encoder",
    "Provider",
    "YMessageType",
    "YSyncMessageType",
    "_sync",
    "create_awareness_message",
    "create_sync_message",
    "create_update_message",
    "handle_sync_message",
    "is_awareness_disconnect_message",
    "read_message",
    "write_message",
    "write_var_uint",
    # They decode values and encode others.
    "get_update",
    "merge_updates",
    # They restore another text than the one that was saved.
    "Snapshot",
    "from_snapshot",
}
"""Names of pycrdt 0.14.13 that are used nowhere."""

MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "static" not in p.parts)


def table() -> list[tuple[str, str]]:
    """The modules of ARCHITECTURE.md in their order, each with its part's title."""
    rows: list[tuple[str, str]] = []
    title = ""
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        if heading := re.match(r"\| \*\*(.+?)\*\*", line):
            title = heading[1]
        elif title and (row := re.match(r"\| (`.+?`) \|", line)):
            rows += [(name, title) for name in re.findall(r"`([^`]+)`", row[1])]
    return rows


ORDER = [name for name, _ in table()]
PURE = {name for name, title in table() if title.startswith("pure")}


def row(path: Path) -> str:
    """The name under which a module stands in the table."""
    first, *rest = path.relative_to(PACKAGE).parts
    return f"{first}/" if rest else first


def imported(path: Path) -> Iterator[str]:
    """The full names of what a module imports, wherever in it."""
    here = ("collab", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            source = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def rows_imported(path: Path) -> Iterator[str]:
    """The names in the table of what a module imports of this package."""
    for name in imported(path):
        if name.startswith("collab.") and name != "collab.__version__":
            part = name.split(".")[1]
            yield f"{part}/" if (PACKAGE / part).is_dir() else f"{part}.py"


def taken_from_pycrdt(path: Path) -> Iterator[str]:
    """What a module imports from pycrdt, and the attributes that it asks for."""
    for name in imported(path):
        if name.split(".")[0] == "pycrdt":
            yield from name.split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and (
            ast.unparse(node.value) == "pycrdt" or node.attr == "from_snapshot"
        ):
            yield node.attr


def each(modules: list[Path]) -> pytest.MarkDecorator:
    names = [str(path.relative_to(PACKAGE)) for path in modules]
    return pytest.mark.parametrize("path", modules, ids=names)


def test_every_module_stands_in_the_table_and_nothing_else_does() -> None:
    assert {row(path) for path in MODULES} - {"__init__.py"} == set(ORDER)


def test_no_module_stands_in_the_table_twice() -> None:
    assert len(ORDER) == len(set(ORDER))


# The package itself names what it offers, wherever that stands.
@each([path for path in MODULES if row(path) != "__init__.py"])
def test_a_module_imports_only_what_stands_above_it(path: Path) -> None:
    here = ORDER.index(row(path))
    below = [name for name in rows_imported(path) if name not in ORDER[: here + 1]]
    assert below == []


@each([path for path in MODULES if row(path) in PURE])
def test_a_pure_module_does_no_io(path: Path) -> None:
    assert {name.split(".")[0] for name in imported(path)} & IO == set()


@each(MODULES)
def test_a_module_uses_nothing_of_pycrdt_that_is_unsafe(path: Path) -> None:
    assert set(taken_from_pycrdt(path)) & UNSAFE == set()


@each(MODULES)
def test_a_module_is_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LINES


SECRET = re.compile(r"secret|signature|digest|password|credential|bearer|token$")
"""Names of what must not be compared byte by byte: how long that takes says how many
bytes of a guess were right."""


def words(node: ast.expr) -> str:
    """The name of a value: of a variable, an attribute, or what is called."""
    match node:
        case ast.Name(name) | ast.Attribute(_, name):
            return name  # Constants are kinds of messages.
        case ast.Call(called) | ast.Await(ast.Call(called)):
            return words(called)
        case ast.Subscript(value):
            return words(value)
        case _:
            return ""


def compared(source: str) -> Iterator[str]:
    """The secrets that are compared with anything but a constant."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            plain = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
            if plain and not any(isinstance(side, ast.Constant) for side in sides):
                yield from (name for name in map(words, sides) if SECRET.search(name))


def test_no_secret_is_compared_byte_by_byte() -> None:
    assert list(compared("if sent == self.secret: pass")) == ["secret"]
    assert list(compared("ok = hook.digest() != given_signature")) == [
        "digest",
        "given_signature",
    ]
    assert list(compared("if token == '': pass")) == []
    found = {path.name: list(compared(path.read_text())) for path in MODULES}
    assert {name: names for name, names in found.items() if names} == {}
