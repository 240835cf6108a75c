"""What is damaged costs itself, and nothing else.

Somebody writes, the server stops, a disk or another program spoils something, and the
server starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc
from sqlalchemy import text
from websockets.exceptions import WebSocketException

from collab.compaction import compact
from collab.databases import open_database
from collab.store import Store, checksum
from tests import servers
from tests.databases import DatabaseServer
from tests.peers import Editor
from tests.test_tools import Tool

WORDS = ["one ", "two ", "three ", "four "]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'collab.db'}"
    server: DatabaseServer = request.getfixturevalue(request.param)
    return server.create_database()


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[servers.Server]:
    with servers.running(tmp_path, database=url) as server:
        yield server


def write(server: servers.Server, name: str, words: list[str] = WORDS) -> Doc[Any]:
    """Have somebody write words, each in an edit of its own; return their document."""
    with Editor(f"{server.ws_url}/{name}") as editor:
        for word in words:
            editor.type(word)
        editor.save()
        return editor.doc


def read(server: servers.Server, name: str) -> str:
    with Editor(f"{server.ws_url}/{name}") as editor:
        return str(editor.text)


def spoil(url: str, statement: str, **values: object) -> None:
    database = open_database(url)
    with database.writing() as connection:
        result = connection.execute(text(statement), values)
        assert result.rowcount
    database.close()


def document_id(url: str, name: str) -> int:
    store = Store(url)
    found = store.load(name).document_id
    store.close()
    assert found is not None
    return found


def test_a_row_with_a_flipped_bit_is_left_out_until_somebody_brings_it_back(
    server: servers.Server, url: str, tmp_path: Path
) -> None:
    doc = write(server, "bad")
    write(server, "good")
    assert server.terminate() == 0
    spoil(
        url,
        "UPDATE updates SET crc = crc + 1 WHERE document_id = :id AND position = 2",
        id=document_id(url, "bad"),
    )
    server.start()
    # What was written behind it builds upon it, and waits for it.
    assert read(server, "bad") == "one "
    assert read(server, "good") == "".join(WORDS)
    said = "bad: update 2 has a wrong CRC-32; opening the rest"
    assert server.log().count(said) == 1

    # It is in quarantine, and complained about once.
    server.restart()
    assert read(server, "bad") == "one "
    assert server.log().count(said) == 1
    tool = Tool(url, tmp_path)
    [shown] = tool.lines("docs", "show", "bad")
    assert shown["quarantine"] == ["update 2 has a wrong CRC-32"]

    with Editor(f"{server.ws_url}/bad", doc=doc) as editor:
        editor.save()
    assert read(server, "bad") == "".join(WORDS)
    server.restart()
    assert read(server, "bad") == "".join(WORDS)
    assert "0 damaged" in tool.run("check")


def test_behind_a_snapshot_with_a_flipped_bit_stand_the_rows(
    server: servers.Server, url: str, tmp_path: Path
) -> None:
    write(server, "bad")
    assert server.terminate() == 0
    store = Store(url)
    compact(store, "bad")
    store.close()
    spoil(url, "UPDATE snapshots SET crc = crc + 1")
    server.start()
    assert read(server, "bad") == "".join(WORDS)
    assert "bad: snapshot 4 has a wrong CRC-32; opening the rest" in server.log()
    assert "0 damaged" in Tool(url, tmp_path).run("check")


def test_a_row_that_is_no_update_is_left_out(
    server: servers.Server, url: str, tmp_path: Path
) -> None:
    write(server, "bad")
    assert server.terminate() == 0
    id = document_id(url, "bad")
    poison = bytes.fromhex("01010501000000")  # pycrdt takes it, and never recovers.
    spoil(
        url,
        "UPDATE updates SET data = :data, crc = :crc"
        " WHERE document_id = :id AND position = 4",
        data=poison,
        crc=checksum(id, 4, poison),
        id=id,
    )
    server.start()
    assert read(server, "bad") == "one two three "
    assert "bad: update 4 is no update (update rejected: empty-struct" in server.log()
    with Editor(f"{server.ws_url}/bad") as editor:
        editor.type("five ")
        editor.save()
    server.restart()
    assert read(server, "bad") == "one two three five "
    assert "0 damaged" in Tool(url, tmp_path).run("check")


DEADLY = """
import os, pathlib

armed = pathlib.Path({armed!r})
try:
    from collab.document import Document
except ImportError:
    pass
else:
    merge = Document._merge

    def _merge(self, update):
        if b"deadly" in update and armed.exists():
            os.abort()  # At once; a signal would let it go on for a moment.
        merge(self, update)

    Document._merge = _merge
"""
"""A defect of pycrdt that nobody knows yet: a module that each Python imports."""


def test_a_row_that_ends_the_process_does_so_at_most_twice(tmp_path: Path) -> None:
    """The gate lets nothing through of which pycrdt dies, as far as we know."""
    armed = tmp_path / "armed"
    (tmp_path / "sitecustomize.py").write_text(DEADLY.format(armed=str(armed)))
    environment = {"PYTHONPATH": str(tmp_path)}
    with servers.running(tmp_path, environment=environment) as server:
        doc = write(server, "bad", ["one ", "two ", "deadly ", "four "])
        write(server, "good")
        assert server.terminate() == 0
        armed.touch()
        deaths = 0
        while True:
            if not server.alive:
                server.start()
            assert read(server, "good") == "".join(WORDS)
            try:
                found = read(server, "bad")
                break
            except (WebSocketException, OSError):
                server.process.wait(20)
                server.kill()
                deaths += 1
        assert found == "one two "
        assert deaths == 2
        assert "bad: a process may have died of it; trying it first" in server.log()
        said = "bad: update 3 ends the process that reads it; opening the rest"
        assert server.log().count(said) == 1
        # The next one isn't wary of it any more.
        server.restart()
        assert read(server, "bad") == "one two "
        assert server.log().count(said) == 1
        armed.unlink()
        with Editor(f"{server.ws_url}/bad", doc=doc) as editor:
            editor.save()
        assert read(server, "bad") == "one two deadly four "
