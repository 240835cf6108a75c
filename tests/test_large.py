"""Large documents keep nobody waiting who is in another room."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from pycrdt import Doc, Text, XmlFragment

from benchmarks.documents import KINDS, typed
from collab.document import Document
from collab.joining import same
from collab.store import Append, Store
from tests import servers
from tests.peers import PATIENCE, Raw, edit, enter, insert, read_data, step1

FULL = 20_000_000
"""Bytes of updates."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Chat:
    """Two people who exchange edits in a room of their own, one after the other."""

    def __init__(self, server: servers.Server) -> None:
        self.port = server.port
        self.client = server.pid
        """Another one each time that a server is started."""
        self.count = 0
        """Edits that came back to their author: they were seen, and are saved."""
        self.worst = 0.0
        self._ending = False
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        ann, bob = enter(self.port, "/ws/chat"), enter(self.port, "/ws/chat")
        with ann, bob:
            while not self._ending:
                message = edit(insert(self.client, "x", self.count))
                before = time.monotonic()
                ann.say(message)
                bob.hear_until(message)
                self.worst = max(self.worst, time.monotonic() - before)
                ann.hear_until(message)
                self.count += 1
                self._begun.set()
                ann, bob = bob, ann  # Who says nothing for long is closed.

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._begun.wait(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending = True
        self._thread.join()

    @contextmanager
    def going_on(self, what: str, at_least: int) -> Iterator[None]:
        """Check that edits are exchanged while something happens that takes long."""
        self.worst = 0.0
        before, started = self.count, time.monotonic()
        yield
        exchanged, seconds = self.count - before, time.monotonic() - started
        print(
            f"{what}: {seconds:.1f} s, {exchanged} edits elsewhere, the slowest took"
            f" {1000 * self.worst:.0f} ms"
        )
        assert self._thread.is_alive()
        # Nobody waits for anything that takes less than an edit.
        assert exchanged >= at_least or seconds < 0.2


def join(port: int, name: str) -> tuple[Raw, list[bytes]]:
    """Enter a room and read all of its document; return the updates that it is."""
    raw = Raw(port)
    raw.socket.settimeout(10 * PATIENCE)
    raw.open(f"/ws/{name}")
    raw.hear()
    raw.say(step1())
    updates = []
    while True:
        message = hear(raw)
        if message[:2] in (b"\x00\x01", b"\x00\x02"):
            updates.append(read_data(message, 2))
            if message[1] == 1:
                return raw, updates


def hear(raw: Raw) -> bytes:
    """Read a message that may be large."""
    head = raw.read(2)
    size = {126: 4, 127: 10}.get(head[1], 2)
    head += raw.read(size - 2)
    length = int.from_bytes(head[2:], "big") if size > 2 else head[1]
    head, raw.buffer = head + raw.buffer, b""
    left = size + length - len(head)
    pieces = [head]
    while left > 0:
        pieces.append(raw.socket.recv(min(left, 1 << 20)))
        assert pieces[-1], "closed"
        left -= len(pieces[-1])
    raw.buffer = b"".join(pieces)
    return raw.hear()


def seed(database: Path, log: list[bytes]) -> None:
    store = Store(f"sqlite:///{database}")
    store.open()
    for at in range(0, len(log), 100):
        updates = [(update, None) for update in log[at : at + 100]]
        store.append([Append("d", updates)])
    store.close()


def fold(log: list[bytes]) -> Document:
    document = Document()
    for update in log:
        document.apply(update)
    return document


def shown(updates: list[bytes]) -> tuple[str, str]:
    """What a client shows."""
    doc: Doc[Any] = Doc()
    for update in updates:
        doc.apply_update(update)
    # Attributes come in another order each time.
    xml = str(doc.get("xml", type=XmlFragment))
    return str(doc.get("text", type=Text)), xml.replace(' id="v"', "")


def check(expected: Document, updates: list[bytes]) -> None:
    """Check what somebody was sent who joined."""
    if expected.gate.faithful:
        assert shown(updates) == shown([expected.state()])
    else:
        assert same(updates[0], expected.state())


def wait_for_snapshot(database: Path) -> None:
    deadline = time.monotonic() + 15 * PATIENCE
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
        while not connection.execute("SELECT count(*) FROM snapshots").fetchone()[0]:
            assert time.monotonic() < deadline, "no snapshot"
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("few structs", FULL), ("typed", FULL), ("cut", FULL // 4), ("xml", FULL // 4)],
)
def test_opening_joining_and_compacting(tmp_path: Path, kind: str, size: int) -> None:
    log = KINDS[kind](size)
    if len(log) < 500:  # So few rows would never be compacted.
        log += [insert(99, "x", clock) for clock in range(500)]
    expected = fold(log)
    seed(tmp_path / "collab.db", log)
    with servers.running(tmp_path) as server:
        with Chat(server) as chat:
            with chat.going_on("opening the log", at_least=5):
                first, updates = join(server.port, "d")
            check(expected, updates)
            with chat.going_on("joining, five at once", at_least=1):
                answers: list[list[bytes]] = []

                def another() -> None:
                    raw, updates = join(server.port, "d")
                    raw.socket.close()
                    answers.append(updates)

                threads = [threading.Thread(target=another) for _ in range(5)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            assert len(answers) == 5
            assert all(answer == answers[0] for answer in answers)
            check(expected, answers[0])
            with chat.going_on("compacting", at_least=10):
                wait_for_snapshot(server.database)
            news = insert(7, "news")
            expected.apply(news)
            # The first one has answered no ping meanwhile, and may have been given up.
            first.socket.close()
            with enter(server.port, "/ws/d") as ann, enter(server.port, "/ws/d") as bob:
                ann.say(edit(news))
                assert bob.hear() == edit(news)
                ann.hear_until(edit(news))
        assert "ERROR" not in server.log()
        server.kill()
        stored = load(server.database)
        assert stored.gate == fold([*log, news]).gate
        server.start()
        with Chat(server) as chat:
            with chat.going_on("opening the snapshot", at_least=2):
                first, updates = join(server.port, "d")
            first.socket.close()
            check(expected, updates)
        assert "ERROR" not in server.log()


def load(database: Path) -> Document:
    """What the log of the document says, from its snapshot on."""
    store = Store(f"sqlite:///{database}")
    stored = store.load("d")
    store.close()
    assert stored.snapshot is not None
    document = Document.restore(stored.snapshot.state, stored.snapshot.index)
    for row in stored.rows:
        document.apply(row.update)
    return document


def test_a_large_update_of_somebody_who_was_offline(tmp_path: Path) -> None:
    whole = fold(typed(FULL * 3 // 4)).state()
    assert len(whole) > 10_000_000
    news = insert(7, "news")
    with servers.running(tmp_path) as server:
        ann, bob = enter(server.port, "/ws/d"), enter(server.port, "/ws/d")
        for raw in ann, bob:
            raw.socket.settimeout(10 * PATIENCE)
        with Chat(server) as chat, chat.going_on("writing", at_least=20):
            # Twice, as a client does that reconnects; then somebody else.
            ann.say(edit(whole), edit(whole))
            bob.say(edit(news))
            heard = [hear(bob) for _ in range(2)]
            acknowledged = [hear(ann) for _ in range(3)]
        assert sorted(heard, key=len) == [edit(news), edit(whole)]
        assert sorted(acknowledged, key=len) == [edit(news), edit(whole), edit(whole)]
        eve, updates = join(server.port, "d")
        check(fold([whole, news]), updates)
        for raw in ann, bob, eve:
            raw.socket.close()
        server.kill()
        rows = Store(f"sqlite:///{server.database}").load("d").rows
        assert sorted(len(row.update) for row in rows) == [len(news), len(whole)]
