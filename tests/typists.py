"""Clients for load, and what they may rely on: that what they were told is so.

::

    with Desk(server) as desk:
        desk.advance()          # everybody has something acknowledged
        database.kill()         # or whatever else may happen
        database.start()
        desk.settle()           # all is acknowledged, and everybody heard everything
        desk.verify()

Each types a word every few milliseconds. It takes a word for saved when the server
repeats the update that holds it. Who loses its connection comes again, and sends in
order what was not acknowledged.
"""

from __future__ import annotations

import re
import select
import threading
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic, sleep
from types import TracebackType
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from pycrdt import Doc, Text
from sqlalchemy.pool import NullPool
from websockets.exceptions import InvalidStatus

from collab.schema import Name
from tests.peers import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Editor,
    Raw,
    Received,
    edit,
    frame,
    insert,
    step1,
    uint,
)
from tests.servers import Server

PATIENCE = 120.0
"""Seconds to wait for something: a busy machine is slow, not wrong."""

BACK_OFF = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before connecting again; the last one repeats."""

FULL = 128 * 1024
"""Bytes that the server has not taken, with which somebody types no more."""

ROOMS = ("one", "two", "three")

WORD = re.compile(rb"<(\d+-\d+)x*>")

CLIENTS = count(1)
"""Nobody has an id that somebody had before."""


def until(happened: Callable[[], object], what: str = "") -> None:
    """Wait until something is so."""
    deadline = monotonic() + PATIENCE
    while not happened():
        assert monotonic() < deadline, f"it never came to that: {what}"
        sleep(0.02)


def words(content: bytes) -> set[str]:
    """The words in a text, or in an update."""
    return {word.decode() for word in WORD.findall(content)}


class Typist:
    """Somebody who types at the end of a line of its own, in a thread."""

    def __init__(self, port: int, room: str, pause: float, padding: int) -> None:
        self.port = port
        """Where it connects, the next time that it does."""
        self.room = room
        self.client = next(CLIENTS)
        self.pause = pause
        """Seconds between two words."""
        self.padding = padding
        """Bytes that each has in addition."""
        self.clock = 0
        self.typed = 0
        self.unsaved: dict[bytes, str] = {}
        """Messages that were not acknowledged, and their words, in order."""
        self.acked: list[str] = []
        """Words that were acknowledged, in that order."""
        self.disorder: list[str] = []
        """Those that were before earlier ones."""
        self.heard: set[str] = set()
        """The words of others."""
        self.refusals: list[int] = []
        """HTTP statuses with which it was not let in."""
        self.closes: list[tuple[int, str]] = []
        """Codes and reasons with which it was sent away."""
        self.connected = False
        self.typing = True
        self.waiting = b""
        """What the server has not taken."""
        self.failure: BaseException | None = None
        self._here = True
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def last(self) -> str:
        """The word that it typed last."""
        return f"{self.client}-{self.typed}"

    def leave(self) -> None:
        """Go, whatever is unsaved."""
        self._here = False
        self._thread.join()

    def _live(self) -> None:
        try:
            failures = 0
            while self._here:
                known = len(self.acked)
                try:
                    with Raw(self.port) as raw:
                        self._visit(raw)
                except (OSError, EOFError):
                    pass
                self.connected = False
                failures = 0 if len(self.acked) > known else failures + 1
                until = monotonic() + BACK_OFF[min(failures, len(BACK_OFF) - 1)]
                while self._here and monotonic() < until:
                    sleep(0.02)
        except BaseException as exc:
            self.failure = exc

    def _visit(self, raw: Raw) -> None:
        response = raw.ask(f"/ws/{self.room}")
        if response.status != 101:
            self.refusals.append(response.status)
            return
        raw.socket.setblocking(False)
        # It isn't empty-handed: who is, is told of updates that are not saved yet.
        mine = uint(1) + uint(self.client) + uint(self.clock)
        greeting = step1(mine if self.clock else b"\x00")
        messages = [greeting, *self.unsaved]
        self.waiting = b"".join(frame(BINARY, message) for message in messages)
        self.connected = True
        due = monotonic()
        while self._here:
            now = monotonic()
            if self.typing and now >= due and len(self.waiting) < FULL:
                self.waiting += frame(BINARY, self._type())
                due = now + self.pause
            patience = min(max(due - now, 0.0), 0.05) if self.typing else 0.05
            writers = [raw.socket] if self.waiting else []
            readable, writable, _ = select.select([raw.socket], writers, [], patience)
            if writable:
                self.waiting = self.waiting[raw.socket.send(self.waiting) :]
            if readable:
                received = raw.socket.recv(1 << 20)
                if not received:
                    raise EOFError
                raw.buffer += received
                self._read(raw)

    def _type(self) -> bytes:
        self.typed += 1
        text = f"<{self.last}{'x' * self.padding}>"
        message = edit(insert(self.client, text, self.clock))
        self.clock += len(text)
        self.unsaved[message] = self.last
        return message

    def _read(self, raw: Raw) -> None:
        frames, raw.buffer = split(raw.buffer)
        for received in frames:
            payload = received.payload
            if received.opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
                self.closes.append((code, payload[2:].decode()))
                raise EOFError
            if received.opcode == PING:
                self.waiting += frame(PONG, payload)
            elif payload in self.unsaved:
                if next(iter(self.unsaved)) != payload:
                    self.disorder.append(self.unsaved[payload])
                self.acked.append(self.unsaved.pop(payload))
            elif payload[:2] in (b"\x00\x01", b"\x00\x02"):
                self.heard |= words(payload)


def split(buffer: bytes) -> tuple[list[Received], bytes]:
    """The frames of a server that are complete, and what is behind them."""
    frames = []
    at = 0
    while len(buffer) >= at + 2:
        first, size = buffer[at], buffer[at + 1]
        start = at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(buffer[start : start + width], "big")
            start += width
            if len(buffer) < start:
                break
        if len(buffer) < start + size:
            break
        payload = buffer[start : start + size]
        frames.append(Received(bool(first & 128), 0, first & 15, False, payload))
        at = start + size
    return frames, buffer[at:]


class Log(NamedTuple):
    """What a database has of a document."""

    head: int
    positions: list[int]
    updates: list[bytes]

    @property
    def words(self) -> set[str]:
        """The words in it."""
        return words(b"".join(self.updates))

    @property
    def text(self) -> str:
        """What its updates add up to."""
        doc: Doc[Any] = Doc()
        text = doc.get("text", type=Text)
        for update in self.updates:
            doc.apply_update(update)
        return str(text)


def read_log(url: str, room: str) -> Log:
    """Read a log as it is in the database, through a connection of its own."""
    named = sa.bindparam("name", type_=Name)
    engine = sa.create_engine(url, poolclass=NullPool)
    # Not two statements: somebody may commit in between.
    query = sa.text(
        "SELECT head, position, data FROM documents LEFT JOIN updates"
        " ON document_id = id WHERE name = :name ORDER BY position"
    ).bindparams(named)
    with engine.connect() as connection:
        found = connection.execute(query, {"name": room}).all()
    rows = [row for row in found if row.position is not None]
    return Log(
        found[0].head if found else 0,
        [row.position for row in rows],
        [bytes(row.data) for row in rows],
    )


class Desk:
    """Typists in some rooms, ``each`` in every room; those of several servers, too."""

    def __init__(
        self,
        *servers: Server,
        rooms: Sequence[str] = ROOMS,
        each: int = 2,
        pause: float = 0.02,
        padding: int = 0,
        database: str | None = None,
        ports: Sequence[int] = (),
    ) -> None:
        self.rooms = rooms
        ports = ports or [server.port for server in servers]
        self.port = ports[0]
        self.database = database or servers[0].database_url
        """The URL at which the logs are read."""
        self.typists = [
            Typist(port, room, pause, padding)
            for room in rooms
            for port in list(ports) * (each // len(ports))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for typist in self.typists:
            typist.leave()

    def of(self, *rooms: str) -> list[Typist]:
        """The typists in some rooms."""
        return [typist for typist in self.typists if typist.room in rooms]

    def acked(self, room: str) -> set[str]:
        """The words in a room of which somebody was told that they are saved."""
        return {word for typist in self.of(room) for word in list(typist.acked)}

    @property
    def count(self) -> int:
        """How many words were acknowledged."""
        return sum(len(typist.acked) for typist in self.typists)

    def check(self) -> None:
        """Nothing went wrong with them."""
        for typist in self.typists:
            assert typist.failure is None, repr(typist.failure)
            assert not typist.disorder, (typist.client, typist.disorder)

    def advance(self, *rooms: str) -> None:
        """Wait until what was typed last in some rooms, or all, is acknowledged, and
        everybody has typed something since."""
        typists = self.of(*(rooms or self.rooms))
        for typist, typed in [(typist, typist.typed) for typist in typists]:
            until(
                lambda t=typist, n=typed: t.failure or len(t.acked) > n,  # type: ignore[misc]
                f"{typist.room} is saved",
            )
        self.check()

    def hear_each_other(self, *rooms: str) -> None:
        """Wait until each has heard what the others in its room type from now on.

        What they were told before has arrived then, too.
        """
        typists = self.of(*(rooms or self.rooms))
        for typist, typed in [(typist, typist.typed) for typist in typists]:
            word = f"{typist.client}-{typed + 1}"
            for other in self.of(typist.room):
                if other is not typist:
                    until(
                        lambda o=other, w=word: w in o.heard,  # type: ignore[misc]
                        f"{other.client} hears {word} in {other.room}",
                    )
        self.check()

    def rest(self) -> None:
        """Let nobody type."""
        for typist in self.typists:
            typist.typing = False

    def settle(self) -> None:
        """Stop typing; wait until all of it is acknowledged and was heard by all."""
        self.rest()
        for typist in self.typists:
            until(
                lambda t=typist: t.failure or len(t.acked) == t.typed,  # type: ignore[misc]
                f"all of {typist.client} in {typist.room} is saved",
            )
        for typist in self.typists:
            expected = {
                word
                for other in self.of(typist.room)
                if other is not typist
                for word in other.acked
            }
            until(
                lambda t=typist, e=expected: e <= t.heard,  # type: ignore[misc]
                f"{typist.client} hears all of {typist.room}",
            )
        self.check()

    def verify_acked(self) -> None:
        """What was acknowledged so far is in the database."""
        for room in self.rooms:
            acked = self.acked(room)
            lost = acked - read_log(self.database, room).words
            assert not lost, f"{room}: {len(lost)} words, such as {min(lost)}"

    def verify(self, repeats: bool = False) -> None:
        """The logs are without gaps and hold what was acknowledged; who comes sees it.

        ``repeats`` may be in the log, if typists went from one server to another.
        """
        for room in self.rooms:
            acked = self.acked(room)
            log = read_log(self.database, room)
            assert log.positions == list(range(1, log.head + 1)), room
            again = len(log.updates) - len(set(log.updates))
            assert repeats or not again, f"{room}: {again} updates are there twice"
            text = log.text
            lost = acked - words(text.encode())
            assert not lost, f"{room}: {len(lost)} words, such as {min(lost)}"
            with come_in(f"ws://127.0.0.1:{self.port}/ws/{room}") as fresh:
                fresh.see(text)
                assert str(fresh.text) == text


def come_in(url: str) -> Editor:
    """Open a document; while the server says "not now", try it again, as clients do."""
    end = monotonic() + PATIENCE
    while True:
        try:
            return Editor(url)
        except InvalidStatus as exc:
            if exc.response.status_code != 503 or monotonic() > end:
                raise
            sleep(0.2)
