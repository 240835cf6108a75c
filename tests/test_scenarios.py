"""Attacks on servers that run, and what is answered: what no other module tests.

``docs/security.md`` has a table of all of them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from collab.auth import Access, Attempt, Grant
from collab.limits import Limits
from tests import applications, servers
from tests.native import HELLO, opening, read_frame
from tests.native import edit as native_edit
from tests.peers import (
    CLOSE,
    PING,
    PONG,
    Raw,
    data,
    edit,
    enter,
    insert,
    presence,
    step1,
    step2,
    uint,
)
from tests.polls import head, on, post
from tests.servers import Server, Serving

NATIVE = ("Sec-WebSocket-Protocol", "collab.v1")


@pytest.fixture(params=[True, False], ids=["fast", "asgi"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Whether there is our own WebSocket or that of the server that runs us."""
    return bool(request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("scenarios")
    with servers.running(folder, "--log-level", "debug") as server:
        yield server


# Ways in: each says something, and returns all that it hears before it is sent away, or
# told something that is an answer.


def by_y_websocket(port: int, name: str, token: str) -> bytes:
    with Raw(port) as raw:
        response = raw.ask(f"/ws/{quote(name, safe='')}?token={quote(token, safe='')}")
        heard = f"{response.status} {response.body!r}".encode()
        if response.status == 101:
            raw.say(step1(), edit(insert(1, "x")))
            heard += _hear(raw, until=edit(insert(1, "x")))
    return heard


def by_hocuspocus(port: int, name: str, token: str) -> bytes:
    address = data(name.encode())
    with Raw(port) as raw:
        raw.open("/ws")
        raw.say(address + b"\2\0" + data(token.encode()))
        raw.say(address + edit(insert(1, "x")))
        heard = _hear(raw, until=address + b"\2\1", also=address + b"\x08")
    return heard.replace(address, b"")


def by_our_own(port: int, name: str, token: str) -> bytes:
    with Raw(port) as raw:
        raw.open("/ws", NATIVE)
        update = native_edit(1, insert(1, "x"))
        raw.say(HELLO + on(1, opening(name, token=token.encode()), update))
        while True:
            received = raw.read_frame()
            if received.opcode == CLOSE:
                return received.payload
            for channel, message in read_frame(received.payload):
                if channel and message[0] in ("Closed", "Saved"):
                    return repr(message).encode()


def by_push(port: int, name: str, token: str) -> bytes:
    said = on(1, opening(name, token=token.encode()), native_edit(1, insert(1, "x")))
    answer = asyncio.run(post(port, "push", head(), said))
    return f"{answer.status} ".encode() + answer.body


def _hear(raw: Raw, until: bytes, also: bytes | None = None) -> bytes:
    """Messages, up to one that begins like this, or the end."""
    heard = []
    with suppress(EOFError):
        while True:
            received = raw.read_frame()
            heard.append(received.payload)
            if received.opcode == CLOSE:
                break
            if received.payload.startswith((until, also or until)):
                break
    return b"|".join(heard)


Way = Callable[[int, str, str], bytes]

WAYS: dict[str, Way] = {
    "y-websocket": by_y_websocket,
    "Hocuspocus": by_hocuspocus,
    "collab.v1": by_our_own,
    "push": by_push,
}

each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def rows(server: Server) -> list[str]:
    """The documents that its database has."""
    with sqlite3.connect(server.database) as database:
        found = database.execute("SELECT name FROM documents").fetchall()
    return sorted(name for (name,) in found)


# Names.

TRICKS = {
    "a relative path": "../x",
    "a relative path within": "a/../../x",
    "an encoded one": "%2e%2e%2fx/..",
    "a dot": "a/./b",
    # What follows one is, in Hocuspocus' dialect, the session of a client.
    "NUL": "a\0",
    "10 KB": "x" * 10_000,
    "the other direction": "a\u202eb",
    "a line break": "a\nb",
    "an escape": "a\x1b[2Jb",
    "a separator of lines": "a\u2028b",
}


@pytest.mark.parametrize("trick", TRICKS)
@each_way
def test_a_name_that_is_a_trick_opens_nothing_and_leaves_nothing(
    server: Server, way: Way, trick: str
) -> None:
    before = rows(server)
    heard = way(server.port, TRICKS[trick], "")
    assert re.search(rb"bad document name|414 ", heard), heard
    assert rows(server) == before
    found = {path.name for path in server.database.parent.iterdir()}
    assert found <= {
        *("collab.db", "collab.db-wal", "collab.db-shm", "server.log"),
    }


@each_way
def test_a_name_that_only_looks_like_a_path_is_a_name(server: Server, way: Way) -> None:
    name = f"etc/%2e%2e/passwd;rm -rf ~'--{way.__name__}"
    way(server.port, name, "")
    assert name in rows(server)


# What is told of what may not be opened.


async def members_only(attempt: Attempt) -> Grant | None:
    if attempt.token != "member":
        return None
    return Grant("ann", Access.WRITE if attempt.document == "known" else Access.READ)


@each_way
async def test_nobody_learns_which_documents_there_are(
    tmp_path: Path, fast: bool, way: Way
) -> None:
    """The answer is given before the database is asked: it doesn't matter what it has,
    or whether it answers at all. So there is no difference in time either."""
    async with servers.serving(tmp_path, fast=fast, authorize=members_only) as server:
        await to_thread(way, server.port, "known", "member")
        known = await to_thread(way, server.port, "known", "")
        missing = await to_thread(way, server.port, "missing", "")
        assert known == missing
        assert b"permission-denied" in known
        with sqlite3.connect(tmp_path / "collab.db") as database:
            assert database.execute("SELECT count(*) FROM documents").fetchone() == (1,)
            database.execute("ALTER TABLE documents RENAME TO elsewhere")
        assert await to_thread(way, server.port, "missing", "") == missing
        assert "missing" not in server.hub.rooms


# Who says nothing of what they want.


async def test_who_never_says_who_they_are_goes_however_much_they_say(
    tmp_path: Path, fast: bool
) -> None:
    async def talk(port: int) -> tuple[int, str]:
        def run() -> tuple[int, str]:
            with Raw(port) as raw:
                raw.open("/ws")
                raw.socket.settimeout(0.1)
                while True:
                    try:
                        received = raw.read_frame()
                    except TimeoutError:
                        raw.say(b"\x0a")  # A sign of life.
                        continue
                    if received.opcode == PING:
                        raw.send_frame(PONG, received.payload)
                    if received.opcode == CLOSE:
                        code = int.from_bytes(received.payload[:2], "big")
                        return code, received.payload[2:].decode()

        return await to_thread(run)

    limits = Limits(heartbeat=1, unadmitted_time=3)
    async with servers.serving(
        tmp_path, fast=fast, limits=limits, authorize=members_only
    ) as server:
        assert await talk(server.port) == (4408, "no document was opened")


# What only a server says.


def test_what_only_a_server_says_is_not_passed_on(server: Server) -> None:
    address = data(b"server's")
    said = {
        "BroadcastStateless": b"\x06" + data(b"evil"),
        "Stateless": b"\x05" + data(b"evil"),
        "SyncStatus, saved": b"\x08\x01",
        "SyncStatus, refused": b"\x08\x00",
        "a kind of tomorrow": b"\x2a" + data(b"evil"),
        "Close": b"\x07" + data(b"evil"),
    }
    with Raw(server.port) as bob, enter(server.port, "/ws/server's") as cleo:
        bob.open("/ws")
        bob.say(address + b"\2\0" + data(b""), address + step1())
        bob.hear_until(address + step2(b"\0\0"))
        for number, message in enumerate(said.values()):
            update = insert(number + 2, "x")
            with Raw(server.port) as mallory:
                mallory.open("/ws")
                mallory.say(address + b"\2\0" + data(b""))
                mallory.say(address + message)
                if message[0] == 7:  # It has left, and comes again.
                    mallory.say(address + b"\2\0" + data(b""))
                mallory.say(address + edit(update))
                mallory.hear_until(address + b"\x08\x01")
            heard = bob.hear_until(address + edit(update))
            heard += cleo.hear_until(edit(update))
            assert len(heard) == 2, heard
        for forged in (b"\2\2" + data(b"read-write"), b"\2\1" + data(b"evil")):
            with Raw(server.port) as mallory:
                mallory.open("/ws")
                mallory.say(address + b"\2\0" + data(b""), address + forged)
                assert mallory.read_close() == (4400, "malformed message")
        update = insert(99, "x")
        with Raw(server.port) as mallory:
            mallory.open("/ws/server's")
            for message in (b"\2\0" + data(b"evil"), b"\2\1" + data(b"evil")):
                mallory.say(message)
            mallory.say(edit(update))
            with suppress(EOFError):
                mallory.hear_until(edit(update))
        with enter(server.port, "/ws/server's") as honest:
            honest.say(edit(insert(100, "x")))
        assert b"evil" not in b"".join(bob.hear_until(address + edit(insert(100, "x"))))
        assert b"evil" not in b"".join(cleo.hear_until(edit(insert(100, "x"))))


def test_what_only_our_server_says_is_not_passed_on(server: Server) -> None:
    opened = HELLO + on(1, opening("ours"))
    with Raw(server.port) as bob:
        bob.open("/ws", NATIVE)
        bob.say(opened)
        while not any(m[0] == "Synced" for _, m in read_frame(bob.hear())):
            pass
        with Raw(server.port) as mallory:
            mallory.open("/ws", NATIVE)
            mallory.say(opened)
            for kind in (7, 8, 9, 10, 11, 42):
                mallory.say(on(1, uint(kind) + data(b"evil")))
            for kind in (3, 42):  # Of the connection.
                mallory.say(b"\0" + uint(kind) + data(b"evil"))
            mallory.say(on(1, native_edit(1, insert(7, "x"))))
            heard: list[tuple[int, tuple[Any, ...]]] = []
            while not any(message[0] == "Update" for _, message in heard):
                heard += read_frame(bob.hear())
        assert [m[0] for _, m in heard if m[0] not in ("Pong", "Synced")] == ["Update"]


# The log.

FORGED = "x\r\n2026-01-01 00:00:00,000 ERROR collab: owned\x1b[2J\u202e"

ENTRY = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [a-z][a-z.]*: |    ")


def test_nobody_else_writes_lines_into_the_log(server: Server) -> None:
    for way in WAYS.values():
        way(server.port, FORGED, FORGED)
        way(server.port, "log", FORGED)
    with Raw(server.port) as raw:
        raw.open("/ws", NATIVE)
        raw.say(b"\0\0" + data(FORGED.encode()) + b"\xff")
        raw.read_close()
    with enter(server.port, "/ws/log") as raw:
        state = b'{"user":{"name":"\\u001b[2J\\r\\n2026-01-01 ERROR owned"}}'
        raw.say(presence((9, 1, state)), b"\x63" + FORGED.encode())
        raw.read_close()
    with enter(server.port, "/ws/log") as raw:
        raw.send_frame(CLOSE, b"\x03\xe8" + FORGED.encode())
    for headers in [
        [("User-Agent", "\x1b[2J"), ("X-Forwarded-For", "\x1b[2J")],
        [("Origin", "http://\x1b[2J")],
        [("Sec-WebSocket-Key", "\x9b2J")],
        [("Sec-WebSocket-Protocol", "\x1b[2J")],
    ]:
        with Raw(server.port) as raw:
            raw.send(raw.request("/ws/log", *headers))
            raw.read_response()
    raw_bytes = server.log_file.read_bytes()
    assert b"\x1b" not in raw_bytes
    lines = server.log().splitlines()
    assert len(lines) > 5
    assert [line for line in lines if not ENTRY.match(line)] == []
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith("2026-01-01")] == []


APPLICATION = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from collab import Attempt, Collab, Grant

async def authorize(attempt: Attempt) -> Grant:
    raise ValueError(f"what is this: {attempt.query['who']}")

collab = Collab(os.environ["DATABASE"], authorize=authorize)

@asynccontextmanager
async def lifespan(app):
    async with collab:
        yield

app = FastAPI(lifespan=lifespan)
app.mount("/collab", collab)
"""


def test_nor_into_that_of_the_server_that_runs_an_application(tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(APPLICATION)
    who = quote(FORGED.replace("2026-01-01", "INFO:     owned"))
    with applications.running("web:app", tmp_path, tmp_path, "/collab") as server:
        with Raw(server.port) as raw:
            raw.open(f"/collab/ws/d?who={who}")
            raw.say(step1())
            raw.read_close()
        for path in ("ws", f"ws/{who}", f"nowhere/{who}"):
            with Raw(server.port) as raw:
                raw.ask(f"/collab/{path}?who={who}", ("X-Forwarded-For", "\x1b[2J"))
        with urlopen(f"{server.url}/livez?who={who}") as answer:
            assert answer.status == 200
        server.end()
    assert "what is this" in server.log
    assert "\x1b" not in server.log
    assert "\u202e" not in server.log
    lines = server.log.splitlines()
    assert not [line for line in lines if line.startswith("INFO:     owned")]
    assert sum("what is this: x" in line for line in lines) == 1


# What is told of what failed.

WORDS = re.compile(
    rb"SEKRET|Traceback|Error\b|sqlite|SQL|no such|table|\.py\b|/srv|panicked|yrs",
    re.IGNORECASE,
)
"""What would be from the text of an error, or from a log."""


@pytest.fixture
async def failing(
    tmp_path: Path, fast: bool, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Serving]:
    """A server whose application fails, and whose database will."""
    caplog.set_level(logging.INFO)

    async def authorize(attempt: Attempt) -> Grant:
        if attempt.document == "decision":
            raise RuntimeError("SEKRET in /srv/app.py")
        return Grant("ann")

    async with servers.serving(tmp_path, fast=fast, authorize=authorize) as server:
        yield server


@each_way
async def test_an_application_that_fails_is_told_to_its_log_alone(
    failing: Serving, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    heard = await to_thread(way, failing.port, "decision", "t")
    assert b"try again later" in heard or b"permission-denied" in heard, heard
    assert not WORDS.search(heard), heard
    assert "SEKRET in /srv/app.py" in caplog.text


@each_way
async def test_so_is_a_database_that_fails(
    failing: Serving, tmp_path: Path, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(tmp_path / "collab.db") as database:
        database.execute("ALTER TABLE documents RENAME TO elsewhere")
    heard = await to_thread(way, failing.port, "d", "t")
    assert b"try again later" in heard, heard
    assert not WORDS.search(heard), heard
    assert "no such table" in caplog.text
