"""One of our own clients: channels, resumption, acknowledgements, messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from pycrdt import Doc, Text

from benchmarks.documents import typed
from collab.asgi import PayloadEncodings
from collab.auth import Access, Attempt, Grant, Visitor
from collab.contents import finish
from collab.errors import CollabError, NothingOpened, ProtocolError, QuotaExceeded
from collab.hub import Hub
from collab.joining import Joined
from collab.limits import Limits
from collab.native import MAX_NOTE, NativeConnection
from collab.places import DENIAL
from collab.store import Append, Store
from tests.native import HELLO, edit, opening, read_frame
from tests.peers import data, insert, uint
from tests.polls import presence
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")
NOTHING = b"\x00\x00"
ENCODINGS = PayloadEncodings()


async def authorize(attempt: Attempt) -> Grant | None:
    access, _, user = attempt.token.partition(":")
    return Grant(user, Access(access)) if access in ("read", "write") else None


class Client:
    """A client that reads what is written to it by the specification alone."""

    def __init__(self, hub: Hub, token: str = "", *, shy: bool = False) -> None:
        self.hub = hub
        self.frames: list[bytes] = []
        self.refusals: list[CollabError] = []
        self.guest = hub.reception.quotas.admit()
        visitor = Visitor("somebody", token=token)
        self.connection = NativeConnection(hub, ENCODINGS, self, visitor)
        self.hail = b""
        if not shy:
            self.connection.receive(HELLO)
            (self.hail,) = self.frames
            self.frames.clear()

    def write(self, encoded: Any) -> None:
        self.frames += encoded

    def probe(self) -> None:
        """Nobody is asked."""

    def refuse(self, error: CollabError) -> None:
        self.refusals.append(error)

    async def say(self, channel: int, *messages: bytes) -> None:
        frame = b"".join(uint(channel) + message for message in messages)
        waiting = self.connection.receive(frame)
        if waiting is not None:
            await waiting
        await self.settle(channel)

    async def settle(self, channel: int) -> None:
        place = self.connection.places.get(channel)
        await until(lambda: place is None or place.inbox is None)
        await asyncio.sleep(0)
        await self.hub.journal.flush()
        await asyncio.sleep(0)

    def hears(self, channel: int = 1) -> list[tuple[Any, ...]]:
        """What it was written on a channel since the last time."""
        heard: list[tuple[Any, ...]] = []
        rest: list[bytes] = []
        for frame in self.frames:
            for number, message in read_frame(frame):
                if number == channel:
                    heard.append(message)
                else:
                    rest.append(frame)
        self.frames = rest
        return heard


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(documents=5))
    await hub.open()
    yield hub
    await hub.close()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Hub]:
    log = Store(f"sqlite:///{tmp_path / 'log.db'}")
    hub = Hub(log, Limits(), authorize=authorize)
    await hub.open()
    yield hub
    await hub.close()


async def reopened(hub: Hub, name: str = "d") -> str:
    """Have a document put away and opened again; return its epoch."""
    await hub.journal.flush()
    del hub.rooms[name]
    room = await hub.enter(name)
    return room.epoch


# Opening.


async def test_a_client_is_welcomed_and_opens_a_document(hub: Hub) -> None:
    ann = Client(hub)
    assert ann.hail.startswith(b"\x00\x00\x01")
    await ann.say(1, opening())
    assert ann.hears() == [
        ("Opened", 1, b"", 0, 2, b"\x00"),
        ("Piece", NOTHING),
        ("Synced", 0),
    ]


async def test_an_edit_is_shown_and_acknowledged_up_to_its_number(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening())
    await bob.say(300, opening())
    ann.hears(), bob.hears(300)
    await ann.say(1, edit(1, FIRST), edit(2, SECOND))
    assert ann.hears() == [("Saved", 2, 2)]
    assert bob.hears(300) == [("Update", 0, FIRST), ("Update", 0, SECOND)]
    await ann.say(1, edit(3, THIRD))
    assert bob.hears(300) == [("Update", 2, THIRD)]
    assert ann.hears() == [("Saved", 3, 3)]
    await ann.say(1, edit(4, THIRD))  # It changes nothing, and is there.
    assert ann.hears() == [("Saved", 4, 0)]


async def test_who_comes_back_gets_what_was_appended_since(hub: Hub) -> None:
    ann = Client(hub)
    await ann.say(1, opening(), edit(1, FIRST), edit(2, SECOND))
    epoch = (await reopened(hub)).encode()
    vector = hub.rooms["d"].document.state_vector()
    bob = Client(hub)
    await bob.say(1, opening())
    bob.hears()
    await bob.say(1, edit(1, THIRD))
    assert bob.hears() == [("Saved", 1, 3)]
    away = Client(hub)
    await away.say(1, opening(vector=vector, epoch=epoch, position=2))
    assert sum(map(len, away.frames)) < 100
    opened, *rest = away.hears()
    assert opened[:5] == ("Opened", 1, epoch, 3, len(THIRD))
    assert rest == [("Piece", THIRD), ("Synced", 3)]


async def test_a_new_document_can_soon_be_come_back_to(hub: Hub) -> None:
    ann, away = Client(hub), Client(hub)
    await ann.say(1, opening(), edit(1, FIRST), edit(2, SECOND))
    room = hub.rooms["d"]
    await until(lambda: room.epoch)  # It is asked for every two seconds.
    epoch = room.epoch.encode()
    await away.say(1, opening(vector=b"\x01\x01\x01", epoch=epoch, position=1))
    assert away.hears()[1:] == [("Piece", SECOND), ("Synced", 2)]


@pytest.mark.parametrize(
    ("epoch", "position", "vector"),
    [
        (b"other", 2, b"\x01\x01\x02"),
        (None, 1, b"\x00"),  # It says that it has what it doesn't.
        (None, 9, b"\x01\x01\x02"),
    ],
)
async def test_the_state_vector_is_the_truth(
    hub: Hub, epoch: bytes | None, position: int, vector: bytes
) -> None:
    ann = Client(hub)
    await ann.say(1, opening(), edit(1, FIRST), edit(2, SECOND))
    right = (await reopened(hub)).encode()
    bob = Client(hub)
    await bob.say(1, opening())
    await bob.say(1, edit(1, THIRD))
    away = Client(hub)
    asked = opening(vector=vector, epoch=epoch or right, position=position)
    await away.say(1, asked)
    heard = away.hears()
    doc: Doc[Any] = Doc()
    if vector != b"\x00":
        doc.apply_update(FIRST)
        doc.apply_update(SECOND)
    for name, *values in heard:
        if name == "Piece":
            doc.apply_update(values[0])
    assert str(doc.get("t", type=Text)) == "axc"
    assert heard[-1] == ("Synced", 3)


async def test_a_large_document_comes_in_pieces_that_can_be_applied(hub: Hub) -> None:
    whole = Joined(typed(300_000)).encode()
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening())
    await ann.say(1, edit(1, whole))
    await bob.say(1, opening())
    opened, *pieces, synced = bob.hears()
    assert opened[0] == "Opened"
    assert len(pieces) > 3
    assert opened[4] == sum(len(piece[1]) for piece in pieces)
    doc: Doc[Any] = Doc()
    for name, piece in pieces:
        assert name == "Piece"
        doc.apply_update(piece)
    room = hub.rooms["d"].document
    assert doc.get_state() == Doc.get_state(room.doc)
    assert synced == ("Synced", 1)


@pytest.mark.parametrize("encoded", ["before", "now"])
async def test_a_state_may_be_forgotten_while_it_is_cut(hub: Hub, encoded: str) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening())
    await ann.say(1, edit(1, Joined(typed(200_000)).encode()))
    room = hub.rooms["d"]
    room.welcome.forget()
    if encoded == "before":
        finish(room.encode_steps())  # For a client of another kind.
    await ann.say(1, edit(2, insert(99, "x", root="other")))
    assert bob.connection.receive(b"\x01" + opening()) is None
    while room.welcome.state is None or not bob.connection.places[1].room:
        await asyncio.sleep(0)
    assert room.welcome.pieces is None
    room.welcome.forget()  # As after a burst of edits, or when nobody wanted it lately.
    await bob.settle(1)
    doc: Doc[Any] = Doc()
    for name, *values in bob.hears():
        if name == "Piece":
            doc.apply_update(values[0])
    assert bob.refusals == []
    assert str(doc.get("other", type=Text)) == "x"
    assert doc.get_state() == Doc.get_state(room.document.doc)


async def test_a_document_that_is_open_twice_is_told_what_fills_the_transport(
    hub: Hub,
) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening(), edit(1, FIRST))
    for channel in (1, 2):
        await bob.say(channel, opening())
        bob.hears(channel)
    places = bob.connection.places.values()

    def fill(encoded: Any) -> None:
        bob.write(encoded)
        for place in places:
            place.session.write = bob.write
        bob.connection.filled()  # All of its places are behind from here on.

    for place in places:
        place.session.write = fill
    await ann.say(1, edit(2, SECOND))
    for channel in (1, 2):
        assert ("Update", 1, SECOND) in bob.hears(channel)
    bob.connection.drained()
    await until(lambda: not any(place.session.behind for place in places))
    for place in places:
        place.session.write = fill
    await ann.say(1, presence(7, 1))
    for channel in (1, 2):
        await until(lambda: b"\x07\x01\x02{}" in b"".join(bob.frames))
        assert "Presence" in [message[0] for message in bob.hears(channel)]


async def test_pieces_wait_for_who_reads_slowly(hub: Hub) -> None:
    whole = Joined(typed(200_000)).encode()
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening())
    await ann.say(1, edit(1, whole))
    write = bob.write

    def fill(encoded: Any) -> None:
        write(encoded)
        bob.connection.filled()

    bob.write = fill  # type: ignore[method-assign]
    bob.connection._transport = bob
    assert bob.connection.receive(b"\x01" + opening()) is None

    def is_synced() -> bool:
        bob.connection.drained()
        return b"\x01\x07" in b"".join(bob.frames[-2:])[-20:]

    for count in range(1, 4):
        while len(bob.frames) < count:
            await asyncio.sleep(0)
        await ann.say(1, edit(1 + count, insert(99 + count, "x", root="other")))
        bob.connection.drained()
    await until(is_synced)
    doc: Doc[Any] = Doc()
    for name, *values in bob.hears():
        if name == "Piece":
            doc.apply_update(values[0])
    assert str(doc.get("other", type=Text)) == "xxx"


# Access.


async def test_who_is_denied_has_its_channel_closed(guarded: Hub) -> None:
    ann = Client(guarded)
    await ann.say(1, opening())
    assert ann.hears() == [("Closed", 4403, b"permission-denied")]
    await ann.say(1, opening(token=b"write:ann"), edit(1, FIRST))
    assert ann.hears()[-1] == ("Saved", 1, 1)
    assert ann.refusals == []


async def test_a_reader_is_refused_each_edit_and_may_get_more(guarded: Hub) -> None:
    ann = Client(guarded, "read:ann")
    await ann.say(1, opening(), edit(1, FIRST), edit(2, FIRST))
    opened, *_, first, second = ann.hears()
    assert opened[1] == 0
    assert first == ("Refused", 1, b"read-only")
    assert second == ("Refused", 2, b"read-only")
    await ann.say(1, b"\x05" + data(b"write:ann"))
    assert ann.hears() == [("Access", 1), ("Question", b"\x00")]
    await ann.say(1, edit(3, FIRST))
    assert ann.hears() == [("Saved", 3, 1)]
    guarded.request_tokens("d")
    assert ann.hears() == [("TokenWanted", 60)]
    await ann.say(1, b"\x05" + data(b"wrong"))
    assert ann.hears() == [("Closed", 4403, b"permission-denied")]
    assert len(guarded.rooms["d"]) == 0


# What is said besides.


async def test_messages_reach_all_others_or_one_user(guarded: Hub) -> None:
    ann, bob, cleo = (Client(guarded, f"write:{who}") for who in ("ann", "bob", "cleo"))
    for client in (ann, bob, cleo):
        await client.say(1, opening())
        client.hears()
    await ann.say(1, b"\x04" + data(b"") + data(b"to all"))
    assert bob.hears() == cleo.hears() == [("Message", b"ann", b"to all")]
    await bob.say(1, b"\x04" + data(b"cleo") + data(b"\x00\xff"))
    assert cleo.hears() == [("Message", b"bob", b"\x00\xff")]
    assert ann.hears() == bob.hears() == []
    guarded.broadcast("d", "from above")
    assert ann.hears() == [("Message", b"", b"from above")]
    await ann.say(1, b"\x04" + data(b"") + data(b"x" * (MAX_NOTE + 1)))
    assert ann.hears()[0][:2] == ("Closed", 4413)


async def test_presence_is_seen_and_leaves(hub: Hub) -> None:
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening())
    await bob.say(2, opening())
    bob.hears(2)
    states = b"\x01\x07\x01" + data(b'{"a":1}')
    await ann.say(1, b"\x03" + data(states))
    await until(lambda: bob.frames)
    assert bob.hears(2) == [("Presence", states)]
    await ann.say(1, b"\x01")
    await until(lambda: bob.frames)
    assert bob.hears(2) == [("Presence", b"\x01\x07\x01" + data(b"null"))]


async def test_a_ping_is_answered_and_life_is_shown(hub: Hub) -> None:
    ann = Client(hub)
    ann.connection.receive(b"\x00\x01" + uint(77))
    assert ann.frames == [b"\x00\x01" + uint(77)]
    assert ann.connection.beat() == b"\x00\x01\x00"
    shy = Client(hub, shy=True)
    assert shy.connection.beat() is None
    assert shy.refusals == []  # It has hardly come in.
    assert shy.connection.beat() is None
    assert [type(error) for error in shy.refusals] == [NothingOpened]


# What is wrong.


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x01", b"\x00\x00\x01", HELLO, b"\x01\x02\x01\x09ab"],
    ids=["nothing", "a channel alone", "half a hello", "two hellos", "a length"],
)
async def test_what_is_no_message_ends_the_connection(hub: Hub, frame: bytes) -> None:
    ann = Client(hub)
    with pytest.raises(ProtocolError):
        ann.connection.receive(frame)


async def test_hello_comes_first(hub: Hub) -> None:
    shy = Client(hub, shy=True)
    with pytest.raises(ProtocolError, match="Hello"):
        shy.connection.receive(b"\x01" + opening())


async def test_large_and_many_messages_of_one_frame_are_taken_in_turns(
    hub: Hub,
) -> None:
    whole = Joined(typed(200_000)).encode()
    small = b"\x01\x01\x00" + data(b"{}")
    ann = Client(hub)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.ensure_future(count_turns())
    presences = [b"\x03" + data(small)] * 30_000
    # The first of these waits for the document to be opened, and all others with it.
    await ann.say(1, opening(), edit(1, whole), *presences, edit(2, FIRST))
    other.cancel()
    assert turns > 20
    assert ann.hears()[-1][:2] == ("Saved", 2)
    assert len(hub.rooms["d"].document.state()) > len(whole) // 2


async def test_who_is_denied_over_and_over_is_sent_away(guarded: Hub) -> None:
    ann = Client(guarded)
    for channel in range(1, Limits().unadmitted_size // DENIAL + 2):
        await ann.say(channel, opening())
    with pytest.raises(QuotaExceeded):
        await ann.say(9999, opening())
    assert len(ann.connection.places) == 0
    bob = Client(guarded, "write:bob")
    await bob.say(1, opening(), edit(1, FIRST))
    assert bob.hears()[-1] == ("Saved", 1, 1)


async def test_what_another_server_wrote_and_nobody_can_read_is_shown_to_nobody(
    hub: Hub,
) -> None:
    ann = Client(hub)
    await ann.say(1, opening(), edit(1, FIRST))
    room = hub.rooms["d"]
    await until(lambda: room.epoch)
    epoch, vector = room.epoch.encode(), room.document.state_vector()
    poison = b"\x01\x01\x01\x01\xff"
    await asyncio.to_thread(hub.store.append, [Append("d", [(poison, "")])])
    await until(lambda: room.position == 2)
    away = Client(hub)
    await away.say(1, opening(vector=vector, epoch=epoch, position=1))
    heard = away.hears()
    assert ("Piece", poison) not in heard
    assert heard[-1] == ("Synced", 2)


async def test_an_error_of_one_document_concerns_no_other(hub: Hub) -> None:
    ann = Client(hub)
    await ann.say(1, opening("d"))
    await ann.say(2, opening("e"))
    ann.frames.clear()
    await ann.say(1, edit(1, b"\x00\x00\x00"), edit(2, FIRST))
    reason = b"update rejected: trailing-bytes"
    assert ann.hears(1) == [("Closed", 4422, reason)]
    await ann.say(2, edit(1, FIRST))
    assert ann.hears(2) == [("Saved", 1, 1)]
    await ann.say(3, opening("a/../b"))
    assert ann.hears(3) == [("Closed", 4400, b"bad document name")]
    for channel in range(3, 9):
        await ann.say(channel, opening(f"d{channel}"))
    assert ann.hears(8) == [("Closed", 4413, b"too many documents")]
    with pytest.raises(ProtocolError, match="open"):
        ann.connection.receive(b"\x02" + opening("e"))


async def test_one_document_is_not_opened_without_end(tmp_path: Path) -> None:
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(repeats=2))
    await hub.open()
    ann = Client(hub)
    for channel in (1, 2, 3):
        await ann.say(channel, opening())
    assert ann.hears(2)[0][0] == "Opened"
    assert ann.hears(3) == [("Closed", 4529, b"too many channels of one document")]
    await ann.say(4, opening("e"))
    assert ann.hears(4)[0][0] == "Opened"
    await hub.close()


async def test_a_document_that_is_full_is_no_matter_to_others(tmp_path: Path) -> None:
    hub = Hub(
        Store(f"sqlite:///{tmp_path / 'log.db'}"), Limits(sessions_per_document=1)
    )
    await hub.open()
    ann, bob = Client(hub), Client(hub)
    await ann.say(1, opening())
    await bob.say(1, opening())
    assert bob.hears() == [("Closed", 4529, b"too many clients in this document")]
    await bob.say(1, opening("e"))
    assert bob.hears()[0][0] == "Opened"
    assert bob.refusals == []
    await hub.close()


async def test_many_messages_of_one_frame_are_counted(tmp_path: Path) -> None:
    limits = Limits(message_rate=1000, message_burst=100)
    hub = Hub(Store(f"sqlite:///{tmp_path / 'log.db'}"), limits)
    await hub.open()
    ann = Client(hub)
    await ann.say(1, opening())
    started = perf_counter()
    await ann.say(0, *[b"\x01\x05"] * 500)
    assert perf_counter() - started > 0.3
    await hub.close()


# Time.


async def test_who_reads_slowly_is_reminded_too_and_goes_when_it_is_over(
    hub: Hub,
) -> None:
    end = int(time.time()) + 600
    hub.door.authorize = partial(allow_until, end)
    ann, bob = Client(hub), Client(hub)
    for client in (ann, bob):
        await client.say(1, opening())
        await client.say(2, opening("e"))
        client.hears(1), client.hears(2)
    ann.connection.filled()
    hub.expiry.turn(end - 30)
    assert ann.hears() == []
    assert bob.hears() == [("TokenWanted", 30)]
    ann.connection.drained()
    await ann.settle(1)
    assert ann.hears()[0] == ("TokenWanted", 30)
    hub.door.authorize = partial(allow_until, end + 600)
    await bob.say(2, b"\x05" + data(b"another"))
    hub.expiry.turn(end)
    over = ("Closed", 4403, b"access has expired")
    assert over in ann.hears()
    assert over in bob.hears()
    assert over not in bob.hears(2)
    assert [len(room) for room in hub.rooms.values()] == [0, 1]
    assert ann.refusals == bob.refusals == []


async def test_who_has_left_is_not_remembered_until_their_time_is_over(
    hub: Hub,
) -> None:
    hub.door.authorize = partial(allow_until, time.time() + 600)
    for number in range(3):
        ann = Client(hub)
        await ann.say(1, opening())
        await ann.say(2, opening("e"))
        assert len(hub.expiry) == 2
        if number:
            ann.connection.close(goodbye=number > 1)
        else:
            await ann.say(1, b"\x01")
            await ann.say(2, b"\x01")
        assert len(hub.expiry) == 0


async def allow_until(end: float, attempt: Attempt) -> Grant:
    return Grant("ann", expires_at=end)


async def test_who_decides_hears_whether_somebody_is_inside(hub: Hub) -> None:
    heard: list[tuple[str, bool]] = []

    async def listen(attempt: Attempt) -> Grant:
        heard.append((attempt.token, attempt.renewal))
        return Grant("ann")

    hub.door.authorize = listen
    ann = Client(hub)
    await ann.say(1, opening(token=b"one"))
    await ann.say(1, b"\x05" + data(b"two"))
    assert heard == [("one", False), ("two", True)]
