"""What a connection does between a transport and a room."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from pycrdt import Doc, Text

from benchmarks.documents import typed
from collab.auth import Access, Attempt, Grant, Visitor
from collab.connection import NamedConnection
from collab.dialects import yjs
from collab.document import Document
from collab.errors import (
    AccessDenied,
    CollabError,
    DocumentBroken,
    ProtocolError,
    Unavailable,
    WrongDialect,
)
from collab.hub import Hub
from collab.joining import Joined
from collab.limits import Limits
from collab.messages import Message, SyncStep2, Update
from collab.opening import SLICE
from collab.quotas import Quotas
from collab.room import Room
from collab.splitting import split
from collab.store import Store
from collab.updates import cut
from tests import crafted
from tests.peers import edit, presence, step1
from tests.simulation import Plain, vector
from tests.test_room import Cursed
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


class Wire:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.probes = 0
        self.refusals: list[CollabError] = []
        self.guest = Quotas(Limits()).admit()

    def write(self, encoded: Any) -> None:
        self.writes += encoded

    def probe(self) -> None:
        self.probes += 1

    def refuse(self, error: CollabError) -> None:
        self.refusals.append(error)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits())
    await hub.open()
    yield hub
    await hub.close()


async def connect(hub: Hub, transport: Wire) -> NamedConnection:
    visitor = Visitor("somebody")
    connection = NamedConnection(hub, "d", Plain(), transport, visitor)
    waiting = connection.open()
    if waiting is not None:
        await waiting
    return connection


async def say(connection: NamedConnection, payload: bytes) -> None:
    waiting = connection.receive(payload)
    if waiting is not None:
        await waiting


async def test_all_messages_of_a_frame_are_taken(hub: Hub) -> None:
    transport = Wire()
    connection = await connect(hub, transport)
    await say(connection, edit(FIRST) + edit(SECOND) + step1())
    assert connection.channel.room is not None
    assert len(connection.channel.room.ledger.unsaved) == 2
    assert transport.writes[-1].startswith(b"\x00\x01")


@pytest.mark.parametrize("count", [30_000, 200_000])
async def test_a_frame_of_many_messages_keeps_nobody_waiting(
    hub: Hub, count: int
) -> None:
    connection = await connect(hub, Wire())
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(take_turns())
    loop = asyncio.get_running_loop()
    started = loop.time()
    await say(connection, b"\x03" * count)
    seconds = loop.time() - started
    other.cancel()
    assert turns > min(3, seconds / SLICE / 10)


async def test_who_is_gone_is_not_probed(hub: Hub) -> None:
    transport = Wire()
    gone = await connect(hub, transport)
    await say(gone, presence((7, 1, b"{}")))
    gone.mute()
    heir = await connect(hub, Wire())
    await say(heir, presence((7, 2, b"{}")))
    assert transport.probes == 0


async def test_a_transport_is_let_go_with_its_connection(hub: Hub) -> None:
    transport = Wire()
    connection = await connect(hub, transport)
    await say(connection, edit(THIRD))  # It came early: who sent it is remembered.
    assert connection.channel.room is not None
    assert connection.channel.room.early
    connection.close(goodbye=False)
    left = weakref.ref(transport)
    del transport
    gc.collect()
    assert left() is None


# Who may come in, and what other clients of one document say.


class Doorkeeper:
    """Lets in who says ``write`` or ``read``, and nobody without a token."""

    async def __call__(self, attempt: Attempt) -> Grant | None:
        if attempt.token in ("write", "read"):
            return Grant("ann", Access(attempt.token))
        return None


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Hub]:
    log = Store(f"sqlite:///{tmp_path / 'guarded.db'}")
    hub = Hub(log, Limits(), authorize=Doorkeeper().__call__)
    await hub.open()
    yield hub
    await hub.close()


async def visit(hub: Hub, transport: Wire, token: str = "") -> NamedConnection:
    visitor = Visitor("somebody", token=token)
    connection = NamedConnection(hub, "d", Plain(), transport, visitor)
    waiting = connection.open()
    assert waiting is not None
    await waiting
    return connection


async def test_a_token_in_the_handshake_opens_the_document(guarded: Hub) -> None:
    transport = Wire()
    connection = await visit(guarded, transport, "write")
    assert transport.writes == [step1()]
    connection.receive(edit(FIRST))
    assert guarded.rooms["d"].ledger.unsaved == [(FIRST, "ann")]


async def test_a_reader_stays_and_changes_nothing(guarded: Hub) -> None:
    transport = Wire()
    connection = await visit(guarded, transport, "read")
    await say(connection, edit(FIRST))
    await say(connection, edit(FIRST))
    assert transport.writes == [step1(), b"\x02\x00\x09read-only"]
    assert guarded.rooms["d"].ledger.unsaved == []


async def test_who_has_a_wrong_token_is_told_so_and_closed(
    guarded: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.connection.DENIED_TIME", 0.01)
    transport = Wire()
    with pytest.raises(AccessDenied):
        await visit(guarded, transport, "wrong")
    reason = b"\x11permission-denied"
    assert transport.writes == [b"\x02\x00" + reason, b"\x02\x01" + reason]
    assert guarded.rooms == {}


async def test_a_token_may_come_in_the_first_message(guarded: Hub) -> None:
    """Hocuspocus 1 sends it there, and waits for an answer."""
    transport = Wire()
    connection = await visit(guarded, transport)
    assert transport.writes == []
    await say(connection, b"\x02\x00\x05write")
    assert transport.writes == [b"\x02\x02", step1()]
    await say(connection, edit(FIRST))
    assert guarded.rooms["d"].ledger.unsaved == [(FIRST, "ann")]
    await say(connection, b"\x02\x00\x04read")
    await say(connection, edit(SECOND))
    assert guarded.rooms["d"].document.state_vector() == vector({1: 1})


async def test_what_is_written_before_the_token_is_known_waits_for_nothing(
    guarded: Hub,
) -> None:
    """Hocuspocus 1 sends what is typed while it fetches its token."""
    transport = Wire()
    connection = await visit(guarded, transport)
    await say(connection, edit(FIRST))
    await say(connection, presence((7, 1, b"{}")))
    await say(connection, b"\x02\x00\x05write")
    assert transport.writes == [b"\x02\x02", step1()]


@pytest.mark.parametrize("payload", [b"\x02\x00\x05wrong", step1()])
async def test_whose_first_message_opens_nothing_is_closed(
    guarded: Hub, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.connection.DENIED_TIME", 0.01)
    transport = Wire()
    connection = await visit(guarded, transport)
    with pytest.raises(AccessDenied):
        await say(connection, payload)
    assert len(transport.writes) == 2
    assert guarded.rooms == {}


async def test_whose_new_token_is_wrong_is_out(
    guarded: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.connection.DENIED_TIME", 0.01)
    connection = await visit(guarded, Wire(), "write")
    with pytest.raises(AccessDenied):
        await say(connection, b"\x02\x00\x05wrong")
    assert len(guarded.rooms["d"]) == 0


async def test_a_token_is_welcome_where_nobody_asks_for_one(hub: Hub) -> None:
    transport = Wire()
    connection = await connect(hub, transport)
    await say(connection, b"\x02\x00\x05write")
    assert transport.writes == [step1(), b"\x02\x02"]


async def test_who_tells_of_its_token_and_never_reads_is_sent_away(hub: Hub) -> None:
    connection = await connect(hub, Wire())
    connection.filled()
    count = hub.limits.owed_size // 2
    with pytest.raises(Unavailable):  # noqa: PT012
        for _ in range(count + 1):
            await say(connection, b"\x02\x00\x00")


async def test_the_application_speaks_to_who_speaks_to_it(hub: Hub) -> None:
    """y-websocket looks the same as Hocuspocus 1, until that says what only it says."""
    silent, talking, known = Wire(), Wire(), Wire()
    await connect(hub, silent)
    await say(await connect(hub, talking), b"\x05\x02hi")
    await say(await connect(hub, known), b"\x02\x00\x05write")
    hub.broadcast("d", "hello")
    assert b"\x05\x05hello" not in silent.writes
    assert talking.writes[-1] == known.writes[-1] == b"\x05\x05hello"


async def test_texts_are_for_the_application(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    log = Store(f"sqlite:///{tmp_path / 'log.db'}")
    hub = Hub(log, Limits(), on_stateless=lambda *said: heard.append(said[:2]))
    await hub.open()
    connection = await connect(hub, Wire())
    connection.receive_text("__YPS:grüße".encode())
    assert heard == [("d", "grüße")]
    for bad in (b"hello", b"__YPS:\xff"):
        with pytest.raises(ProtocolError):
            connection.receive_text(bad)
    await hub.close()


async def test_who_speaks_as_hocuspocus_does_is_told_where_that_is_spoken(
    hub: Hub,
) -> None:
    connection = await connect(hub, Wire())
    with pytest.raises(WrongDialect, match="connect to /ws"):
        connection.receive(b"\x08document\x02\x00\x00\x054.8.0")
    with pytest.raises(ProtocolError, match="not a y-protocols message"):
        connection.receive(b"\x63")


async def test_who_is_sent_away_while_being_let_in_is_nowhere(hub: Hub) -> None:
    decided = asyncio.Event()

    async def decide(attempt: Attempt) -> Grant:
        await decided.wait()
        return Grant()

    hub.door.authorize = decide
    connection = NamedConnection(hub, "d", Plain(), Wire(), Visitor("somebody"))
    entering = asyncio.ensure_future(connection.open() or asyncio.sleep(0))
    await asyncio.sleep(0)
    connection.close(goodbye=False)
    decided.set()
    await entering
    assert sum(map(len, hub.rooms.values())) == 0


# Large documents and updates: the room is busy, and what is said meanwhile waits.


def text_of(
    client: int, clock: int, text: str, behind: tuple[int, int] | None = None
) -> bytes:
    return crafted.typed(client, clock, text, behind)


WHOLE = Joined(typed(300_000)).encode()
"""An update that is applied in pieces."""

PASTE = text_of(5, 0, "é" * 700_000)
"""A document that is encoded with pauses."""


def messages(transport: Wire) -> list[Message]:
    found = [yjs.decode(frame)[0] for frame in transport.writes]
    transport.writes.clear()
    return found


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0)


async def begin(
    hub: Hub, connection: NamedConnection, payload: bytes
) -> asyncio.Task[None]:
    """Say something large; return when the room is in the middle of it."""
    task = asyncio.ensure_future(say(connection, payload))
    room = connection.channel.room
    assert room is not None
    await until(lambda: room.busy)
    assert not task.done()
    return task


async def saved(connection: NamedConnection) -> Room:
    room = connection.channel.room
    assert room is not None
    await connection.hub.journal.flush()
    return room


async def test_nothing_is_told_of_half_an_update(hub: Hub) -> None:
    ann, bob = Wire(), Wire()
    writer, reader = await connect(hub, ann), await connect(hub, bob)
    await say(reader, step1())
    room = writer.channel.room
    assert room is not None
    before = room.document.state_vector()
    messages(bob)
    writing = await begin(hub, writer, edit(WHOLE))
    while not writing.done():
        if room.busy:
            assert hub.find("d") is None
            assert room.document.state_vector() == before
            assert (room.ledger.unsaved, room.fresh) == ([], [])
            assert messages(bob) == []
        await asyncio.sleep(0)
    await saved(writer)
    await until(lambda: ann.writes)
    assert messages(bob) == [Update(WHOLE)]
    assert messages(ann)[-1] == Update(WHOLE)


async def test_who_speaks_meanwhile_is_heard_afterwards(hub: Hub) -> None:
    writer, other = await connect(hub, Wire()), await connect(hub, Wire())
    writing = await begin(hub, writer, edit(WHOLE))
    waiting = other.receive(edit(FIRST))
    assert waiting is not None
    joining = asyncio.ensure_future(connect(hub, Wire()))
    await asyncio.gather(writing, waiting, joining)
    room = await saved(writer)
    assert [row.update for row in hub.store.load("d").rows] == [WHOLE, FIRST]
    expected = Document()
    expected.apply(WHOLE)
    expected.apply(FIRST)
    assert room.document.gate == expected.gate


async def test_a_large_update_that_comes_twice_is_logged_once(hub: Hub) -> None:
    ann, bob = Wire(), Wire()
    writer, other = await connect(hub, ann), await connect(hub, bob)
    await asyncio.gather(say(writer, edit(WHOLE)), say(other, edit(WHOLE)))
    await saved(writer)
    await until(lambda: ann.writes and bob.writes)
    assert [row.update for row in hub.store.load("d").rows] == [WHOLE]
    assert Update(WHOLE) in messages(ann)
    assert Update(WHOLE) in messages(bob)


async def test_what_was_begun_is_finished_though_its_author_is_gone(hub: Hub) -> None:
    writer, other = await connect(hub, Wire()), await connect(hub, Wire())
    room = writer.channel.room
    writing = await begin(hub, writer, edit(WHOLE))
    writing.cancel()  # As ASGI servers do.
    writer.close(goodbye=False)
    assert await hub.enter("d") is room
    await saved(other)
    assert [row.update for row in hub.store.load("d").rows] == [WHOLE]


async def test_pycrdt_fails_in_the_middle(hub: Hub) -> None:
    writer, other = await connect(hub, Wire()), await connect(hub, Wire())
    await say(other, edit(FIRST))
    room = other.channel.room
    assert room is not None
    poison = list(split(WHOLE, cut(WHOLE)))[2]
    doc = cast(Any, Cursed(poison))
    doc.apply_update(room.document.doc.get_update())
    room.document.doc = doc
    with pytest.raises(DocumentBroken):
        await say(writer, edit(WHOLE))
    assert await hub.enter("d") is room
    assert not room.broken
    expected = Document()
    expected.apply(FIRST)
    assert room.document.state() == expected.state()
    await saved(other)
    assert [row.update for row in hub.store.load("d").rows] == [FIRST]


async def test_a_small_update_releases_a_large_one_in_turns(hub: Hub) -> None:
    ann = Wire()
    writer = await connect(hub, ann)
    first, rest = text_of(5, 0, "a"), text_of(5, 1, "b" * 100_000, (5, 0))
    await say(writer, edit(rest))
    room = await saved(writer)
    assert room.document.heavy
    reader = await connect(hub, bob := Wire())
    messages(bob)
    waiting = reader.receive(edit(first))
    assert waiting is not None
    await waiting
    assert not room.document.heavy
    await saved(writer)
    await until(lambda: len(bob.writes) > 1)
    assert {Update(first), Update(rest)} == set(messages(bob))
    assert room.document.gate.clocks == {5: 100_001}


async def test_who_joins_a_large_document_has_all_of_it(hub: Hub) -> None:
    writer = await connect(hub, Wire())
    await say(writer, edit(PASTE))
    room = await saved(writer)
    assert room.document.large
    transports = [Wire() for _ in range(3)]
    joining = []
    for transport in transports:
        connection = await connect(hub, transport)
        messages(transport)
        joining.append(asyncio.ensure_future(say(connection, step1())))
    await until(lambda: room.welcome.pinned)
    await say(writer, edit(text_of(6, 0, "news")))
    await asyncio.gather(*joining)
    await saved(writer)
    for transport in transports:
        heard = messages(transport)
        # First the document, and what builds upon it behind it.
        assert heard[0] == Update(room.welcome.state or b"")
        assert SyncStep2(b"\x00\x00") in heard
        doc: Doc[Any] = Doc()
        for message in heard:
            if isinstance(message, Update | SyncStep2):
                doc.apply_update(message.update)
        assert "news" in str(doc.get("t", type=Text))


async def test_who_comes_back_to_a_large_document_is_sent_a_diff(hub: Hub) -> None:
    writer = await connect(hub, Wire())
    await say(writer, edit(PASTE))
    news = text_of(6, 0, "news")
    await say(writer, edit(news))
    await saved(writer)
    reader = await connect(hub, bob := Wire())
    messages(bob)
    await say(reader, step1(vector({5: 700_000})))
    assert messages(bob) == [SyncStep2(news)]
    with pytest.raises(ProtocolError):
        await say(reader, step1(b"\x01\xff"))


async def test_a_slow_reader_of_a_large_document_catches_up(hub: Hub) -> None:
    writer = await connect(hub, Wire())
    await say(writer, edit(PASTE))
    reader = await connect(hub, bob := Wire())
    await say(reader, step1())
    messages(bob)
    reader.filled()
    news = text_of(6, 0, "news")
    await say(writer, edit(news))
    await saved(writer)
    assert messages(bob) == []
    reader.drained()
    await until(lambda: bob.writes)
    assert messages(bob) == [SyncStep2(news)]
    reader.filled()
    await say(reader, step1())
    assert messages(bob) == []
    reader.drained()
    await until(lambda: bob.writes)
    (message,) = messages(bob)
    assert isinstance(message, SyncStep2)
    assert len(message.update) > len(PASTE)


async def test_a_large_document_becomes_one_of_bytes(hub: Hub) -> None:
    """Half an emoji was deleted: from then on pycrdt's encoding isn't used."""
    writer = await connect(hub, Wire())
    await say(writer, edit(WHOLE))
    await say(writer, edit(text_of(5, 0, "😀")))
    await say(writer, edit(b"\x00\x01\x05\x01\x00\x01"))
    room = await saved(writer)
    assert not room.document.gate.faithful
    assert room.document.heavy
    news = text_of(6, 0, "news")
    waiting = writer.receive(edit(news))
    assert waiting is not None
    await waiting
    assert not room.document.heavy
    parsed = cut(room.document.state())
    assert parsed.ranges == {c: [0, n] for c, n in room.document.gate.clocks.items()}
