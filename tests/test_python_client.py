"""Programs that edit: the client against a server that is played, and the real one."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text
from websockets.asyncio.server import Server as SocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from benchmarks.documents import typed
from collab import wire
from collab.auth import Access, Attempt, Grant
from collab.client import BackOff, CollabClient, CollabDocument, connect
from collab.dialects import native
from collab.errors import (
    AccessDenied,
    CollabError,
    DocumentGone,
    FrameTooBig,
    ProtocolError,
    SentAway,
    Unavailable,
    UpdateRejected,
)
from collab.joining import Joined
from collab.limits import Limits
from collab.messages import (
    Admitted,
    Closed,
    Hail,
    Hello,
    Left,
    Message,
    Note,
    Open,
    Opened,
    Piece,
    Ping,
    Pong,
    Presence,
    Reconnect,
    Refused,
    Saved,
    Synced,
    SyncStep1,
    Token,
    TokenWanted,
    Update,
)
from tests.interop import Clients
from tests.interop import until as until_blocking
from tests.peers import insert
from tests.proxy import Proxy
from tests.servers import running, serving

SEED = int(os.environ.get("CLIENT_SEED", random.SystemRandom().randrange(2**32)))
ROOT = Path(__file__).parents[1]
NOTHING = b"\x00\x00"


def text_of(document: CollabDocument | Doc[Any], root: str = "text") -> Text:
    doc = document.doc if isinstance(document, CollabDocument) else document
    text: Text = doc.get(root, type=Text)
    return text


def append(document: CollabDocument, words: str) -> None:
    text = text_of(document)
    text += words


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.005)


def client_of(url: str, **options: Any) -> CollabClient:
    """A client that doesn't wait long."""
    return connect(url, back_off=BackOff(0.001, 0.01), **options)


@asynccontextmanager
async def opened(
    url: str, name: str = "d", doc: Doc[Any] | None = None, **options: Any
) -> AsyncIterator[CollabDocument]:
    """A document in a client of its own."""
    async with client_of(url, **options) as client, client.open(name, doc) as document:
        yield document


# A server that is played.


class Peer:
    """The server's end of a connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.heard: list[tuple[int, Message]] = []

    async def hear(self) -> Any:
        """The next message; it is for channel 1 or for the connection."""
        channel, message = await self.hear_any()
        assert channel <= 1
        return message

    async def hear_any(self) -> tuple[int, Message]:
        """The next message, and its channel."""
        while not self.heard:
            async with asyncio.timeout(30):
                frame = await self.socket.recv()
            assert isinstance(frame, bytes)
            self.heard = list(native.decode(frame))
        return self.heard.pop(0)

    async def say(self, *messages: Message, channel: int = 1) -> None:
        said = [wire.uint(channel) + native.encode(message) for message in messages]
        await self.socket.send(b"".join(said))

    async def let_in(
        self, *, epoch: str = "", position: int = 0, vector: bytes = b"\x00"
    ) -> Open:
        """Hear that a document is opened, and say that it is synced."""
        message = await self.hear()
        assert isinstance(message, Open)
        await self.say(Opened(False, epoch, position, 0, vector), Synced(position))
        return message


class Stage:
    """Where a server is played: connections come in one after the other."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Peer] = asyncio.Queue()
        self.server: SocketServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        port = next(iter(self.server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}/ws"

    async def handle(self, socket: ServerConnection) -> None:
        self.waiting.put_nowait(Peer(socket))
        await socket.wait_closed()

    async def accept(self, heartbeat: int = 25_000, size: int = 2**24) -> Peer:
        """Welcome the next connection."""
        async with asyncio.timeout(30):
            peer = await self.waiting.get()
        assert isinstance(await peer.hear(), Hello)
        await peer.say(Hail(native.VERSION, "c", heartbeat, size), channel=0)
        return peer


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    protocol = Subprotocol(native.SUBPROTOCOL)
    async with serve(
        stage.handle, "127.0.0.1", 0, subprotocols=[protocol], ping_interval=None
    ) as server:
        stage.server = server
        yield stage


@asynccontextmanager
async def played(
    stage: Stage, **options: Any
) -> AsyncIterator[tuple[Peer, CollabClient, CollabDocument]]:
    """A document that is open and synced, in epoch ``e`` at position 1."""
    async with client_of(stage.url, **options) as client:
        document = client.open("d")
        entering = asyncio.ensure_future(document.__aenter__())
        peer = await stage.accept()
        await peer.let_in(epoch="e", position=1)
        await entering
        try:
            async with asyncio.timeout(60):
                yield peer, client, document
        finally:
            document._close()


def test_the_time_between_attempts_grows_and_begins_anew() -> None:
    back_off = BackOff()
    for attempt in range(1, 100):
        longest = min(20.0, 0.5 * 2**attempt)
        assert 0.5 <= back_off.next() <= longest
    spread = {back_off.next() for _ in range(100)}
    assert max(spread) - min(spread) > 5
    back_off.reset()
    assert back_off.next() <= 1.0


async def test_only_a_document_that_is_synced_ends_the_backing_off(
    stage: Stage,
) -> None:
    back_off = BackOff(0.001, 0.01)
    async with connect(stage.url, back_off=back_off) as client:
        document = client.open("d")
        entering = asyncio.ensure_future(document.__aenter__())
        for attempt in range(4):
            peer = await stage.accept()
            assert isinstance(await peer.hear(), Open)
            assert back_off.attempt == attempt
            await peer.socket.close(1012)
        peer = await stage.accept()
        assert not document.synced
        await peer.let_in()
        await entering
        assert back_off.attempt == 0


async def test_who_comes_back_says_what_it_has_and_what_is_not_saved(
    stage: Stage,
) -> None:
    async with played(stage) as (peer, _, document):
        await peer.say(Update(insert(7, "theirs "), 4))
        await until(lambda: str(text_of(document)) == "theirs ")
        append(document, "one ")
        append(document, "two ")
        append(document, "three ")
        updates = [await peer.hear() for _ in range(3)]
        assert [update.sequence for update in updates] == [1, 2, 3]
        await peer.say(Saved(b"", 1, 5))
        await until(lambda: document._replica.position == 5)
        assert document.unsaved
        peer.socket.transport.abort()
        append(document, "four")

        peer = await stage.accept()
        me = wire.uint(document.doc.client_id)
        vector = b"\x02\x07\x07" + me + b"\x04"  # "one " was saved.
        opening = await peer.let_in(epoch="e", position=5, vector=vector)
        assert (opening.epoch, opening.position) == ("e", 5)
        assert wire.read_state_vector(opening.state_vector)[7] == 7
        again = [await peer.hear() for _ in range(3)]
        assert [update.sequence for update in again] == [1, 2, 3]
        assert [update.update for update in again[:2]] == [
            update.update for update in updates[1:]
        ]
        waiting = asyncio.ensure_future(document.saved())
        await peer.say(Saved(b"", 2, 7))
        await until(lambda: document._replica.position == 7)
        assert not waiting.done()
        await peer.say(Saved(b"", 3, 8))
        await waiting


async def test_what_a_server_has_lost_is_sent_to_it(stage: Stage) -> None:
    """It was restored from a backup, perhaps, and is in another epoch."""
    async with played(stage) as (peer, _, document):
        append(document, "saved")
        await peer.hear()
        await peer.say(Saved(b"", 1, 2))
        await document.saved()
        await peer.socket.close(1012)
        peer = await stage.accept()
        opening = await peer.let_in(epoch="f", position=0)
        assert (opening.epoch, opening.position) == ("e", 2)
        message = await peer.hear()
        restored: Doc[Any] = Doc()
        restored.apply_update(message.update)
        assert str(text_of(restored)) == "saved"
        assert document.unsaved
        await peer.say(Saved(b"", 1, 1))
        await document.saved()
        assert (document._replica.epoch, document._replica.position) == ("f", 1)


async def test_edits_of_others_are_not_sent_back(stage: Stage) -> None:
    async with played(stage) as (peer, _, document):
        await peer.say(Update(insert(7, "theirs")), Piece(insert(8, "more")), Synced(2))
        await until(lambda: len(text_of(document)) == 10)
        assert not document.unsaved
        append(document, "mine")
        message = await peer.hear()
        assert b"mine" in message.update
        assert b"theirs" not in message.update


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4403, AccessDenied),
        (4404, DocumentGone),
        (4422, SentAway),
        (4413, SentAway),
        (1000, SentAway),
    ],
)
async def test_a_document_that_is_closed_for_good_is_an_error(
    stage: Stage, code: int, kind: type[CollabError]
) -> None:
    async with played(stage) as (peer, client, document):
        await peer.say(Closed(code, "because"))
        with pytest.raises(kind) as raised:
            async for _ in document.changes():
                pass
        assert raised.value.close_code == code
        append(document, "too late")
        with pytest.raises(kind):
            await document.saved()
        with pytest.raises(kind):
            await document.__aexit__(None, None, None)
        # Another one can be opened on the same connection.
        other = asyncio.ensure_future(client.open("other").__aenter__())
        channel, opening = await peer.hear_any()
        assert isinstance(opening, Open)
        assert (channel, opening.name) == (2, "other")
        await peer.say(Opened(False, "", 0, 0, b"\x00"), Synced(0), channel=2)
        await other


@pytest.mark.parametrize("code", [4503, 1012, 1011])
async def test_one_that_is_closed_for_now_is_opened_again(
    stage: Stage, code: int
) -> None:
    async with played(stage) as (peer, _, document):
        append(document, "unsaved")
        await peer.hear()
        await peer.say(Closed(code, "not now"))
        channel, opening = await peer.hear_any()
        assert isinstance(opening, Open)
        assert channel == 2
        again = await peer.hear_any()
        assert isinstance(again[1], Update)
        assert again[1].sequence == 1
        await peer.say(Opened(False, "e", 1, 0, b"\x00"), Synced(1), channel=2)
        await peer.say(Saved(b"", 1, 2), channel=2)
        await document.saved()


@pytest.mark.parametrize("code", [4400, 4408, 1000, 1001])
async def test_a_connection_that_is_closed_for_good_ends_all_documents(
    stage: Stage, code: int
) -> None:
    async with played(stage) as (peer, client, document):
        await peer.socket.close(code, "go away")
        with pytest.raises(SentAway, match=f"{code} go away"):
            async for _ in document.messages():
                pass
        with pytest.raises(SentAway):
            async with client.open("other"):
                pass


async def test_a_token_is_asked_for_again(stage: Stage) -> None:
    asked: list[str] = []

    async def token(name: str) -> str:
        asked.append(name)
        if len(asked) == 3:
            raise OSError("the token service is away")
        return f"{name}-{len(asked)}"

    async with client_of(stage.url, token=token) as client:
        entering = asyncio.ensure_future(client.open("d").__aenter__())
        peer = await stage.accept()
        assert (await peer.let_in()).token == "d-1"
        await entering
        await peer.say(TokenWanted(60))
        assert await peer.hear() == Token("d-2")
        await peer.socket.close(1012)
        peer = await stage.accept()
        assert (await peer.let_in()).token == "d-4"


async def test_a_server_that_is_not_heard_is_left(stage: Stage) -> None:
    async with client_of(stage.url, patience=0.3) as client:
        entering = asyncio.ensure_future(client.open("d").__aenter__())
        peer = await stage.accept(heartbeat=50)
        await peer.let_in()
        await entering
        assert await peer.hear() == Ping(1)
        await peer.say(Pong(1), channel=0)
        assert await peer.hear() == Ping(2)
        another = await stage.accept()
        await another.let_in()
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 3408


@pytest.mark.parametrize(
    "frame",
    ["text", b"", b"\x01\x07", b"\x01\x03\x01\x01", b"\x01\x0b\x01\xff"],
    ids=["text", "nothing", "half a message", "presence", "a question"],
)
async def test_what_is_not_understood_ends_the_connection(
    stage: Stage, frame: bytes | str
) -> None:
    async with played(stage) as (peer, client, document):
        await peer.socket.send(frame)
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 4400
        with pytest.raises(ProtocolError):
            async for _ in document.changes():
                pass
        with pytest.raises(ProtocolError):
            async with client.open("other"):
                pass


async def test_a_welcome_that_is_none_ends_the_connection(stage: Stage) -> None:
    async with client_of(stage.url, patience=0.3) as client:
        entering = asyncio.ensure_future(client.open("d").__aenter__())
        silent = await stage.waiting.get()
        await silent.socket.wait_closed()
        assert silent.socket.close_code == 3408
        other = await stage.waiting.get()
        assert isinstance(await other.hear(), Hello)
        await other.say(Hail(native.VERSION + 1, "c", 1000, 1000), channel=0)
        await other.socket.wait_closed()
        assert other.socket.close_code == 4400
        with pytest.raises(ProtocolError):
            await entering


async def test_who_is_advised_to_move_has_another_connection_first(
    stage: Stage,
) -> None:
    async with played(stage) as (peer, client, document):
        append(document, "before")
        before = await peer.hear()
        await peer.say(Reconnect(0, 1), channel=0)
        another = await stage.accept()
        assert client.connected
        assert peer.socket.close_code is None
        opening = await another.let_in(epoch="e", position=1)
        assert opening.position == 1
        again = await another.hear()
        assert (again.update, again.sequence) == (before.update, 1)
        await another.say(Saved(b"", 1, 2))
        await document.saved()
        await peer.socket.wait_closed()
        assert peer.socket.close_code == 1000


async def test_a_question_is_answered(stage: Stage) -> None:
    async with played(stage) as (peer, _, document):
        await peer.say(SyncStep1(b"\x00"))
        assert await peer.hear() == Update(NOTHING, sequence=1)
        append(document, "hello")
        edit = await peer.hear()
        await peer.say(SyncStep1(b"\x00"))
        answer = await peer.hear()
        assert (answer.update, answer.sequence) == (edit.update, 3)
        await peer.say(Saved(b"", 3, 0))
        await document.saved()


async def test_what_was_refused_is_said_and_sent_once_it_is_allowed(
    stage: Stage,
) -> None:
    async with played(stage) as (peer, _, document):
        await peer.say(Admitted(reader=True))
        await until(lambda: not document.writable)
        append(document, "a")
        append(document, "b")
        first, second = await peer.hear(), await peer.hear()
        await peer.say(Refused("read-only", 1))
        await until(lambda: document.refused)
        assert document.unsaved
        await peer.say(Refused("read-only", 2))
        with pytest.raises(AccessDenied, match="read-only"):
            await document.saved()
        assert not document.unsaved
        await peer.say(Admitted(reader=False), SyncStep1(b"\x00"))
        answer = await peer.hear()
        assert answer.sequence == 3
        doc: Doc[Any] = Doc()
        doc.apply_update(answer.update)
        assert str(text_of(doc)) == "ab"
        assert len(answer.update) < len(first.update) + len(second.update)
        await peer.say(Saved(b"", 3, 2))
        await document.saved()


async def test_deletions_that_were_refused_are_sent_after_a_reconnect(
    stage: Stage,
) -> None:
    async with played(stage) as (peer, _, document):
        await peer.say(Update(insert(7, "theirs")))
        await until(lambda: len(text_of(document)) == 6)
        text = text_of(document)
        del text[0:5]
        await peer.hear()
        await peer.say(Refused("read-only", 1))
        await until(lambda: document.refused)
        await peer.socket.close(1012)
        peer = await stage.accept()
        await peer.let_in(epoch="e", position=2, vector=b"\x01\x07\x06")
        message = await peer.hear()
        doc: Doc[Any] = Doc()
        doc.apply_update(insert(7, "theirs"))
        doc.apply_update(message.update)
        assert str(text_of(doc)) == "s"


async def test_what_was_refused_on_an_earlier_connection_is_sent_unasked(
    stage: Stage,
) -> None:
    """A server asks for what it has refused on this one."""
    async with played(stage) as (peer, _, document):
        append(document, "a")
        edit = await peer.hear()
        await peer.say(Refused("read-only", 1))
        await until(lambda: document.refused)
        await peer.socket.close(1012)
        peer = await stage.accept()
        assert isinstance(await peer.hear(), Open)
        await peer.say(Opened(True, "e", 1, 0, b"\x00"), Synced(1))
        await until(lambda: document.synced)
        assert document.refused
        await peer.say(Admitted(reader=False))
        assert await peer.hear() == edit
        assert not document.refused


async def test_who_gives_up_waiting_leaves_nothing_behind(stage: Stage) -> None:
    async with client_of(stage.url) as client:
        entering = asyncio.ensure_future(client.open("d").__aenter__())
        peer = await stage.accept()
        assert isinstance(await peer.hear(), Open)
        entering.cancel()
        assert await peer.hear() == Left()
        await peer.say(Opened(False, "e", 1, 0, b"\x00"), Synced(1))
        again = asyncio.ensure_future(client.open("d").__aenter__())
        assert (await peer.hear_any())[0] == 2
        await peer.say(Opened(False, "e", 1, 0, b"\x00"), Synced(1), channel=2)
        await again


async def test_a_bad_update_ends_its_document_and_no_other(stage: Stage) -> None:
    async with played(stage) as (peer, client, document):
        entering = asyncio.ensure_future(client.open("other").__aenter__())
        assert isinstance((await peer.hear_any())[1], Open)
        await peer.say(Opened(False, "", 0, 0, b"\x00"), Synced(0), channel=2)
        other = await entering
        await peer.say(Update(b"\x00\x00\x00"))
        with pytest.raises(UpdateRejected, match="trailing-bytes"):
            async for _ in document.changes():
                pass
        assert await peer.hear_any() == (1, Left())
        await peer.say(Update(insert(7, "fine")), channel=2)
        await until(lambda: str(text_of(other)) == "fine")


@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x01\x07\x01\x01", "text"])
async def test_what_is_no_message_ends_the_client(
    stage: Stage, frame: bytes | str
) -> None:
    async with played(stage) as (peer, _, document):
        await peer.socket.send(frame)
        with pytest.raises(ProtocolError):
            async for _ in document.changes():
                pass


async def test_an_edit_arrives_between_the_applications_transactions(
    stage: Stage,
) -> None:
    async with played(stage) as (peer, _, document):
        async with document.doc.transaction():
            append(document, "mine ")
            await peer.say(Update(insert(7, "theirs ")), TokenWanted(9))
            await peer.say(Note("ann", b"later"))
            await asyncio.sleep(0.05)
            assert str(text_of(document)) == "mine "
        assert b"mine" in (await peer.hear()).update
        async for message in document.messages():
            assert message == Note("ann", b"later")
            break
        assert sorted(str(text_of(document)).split()) == ["mine", "theirs"]


async def test_an_observer_that_fails_does_not_stop_the_others(stage: Stage) -> None:
    async with played(stage) as (peer, _, document):
        text = text_of(document)

        def fail(event: object) -> None:
            raise ValueError("not my day")

        subscription = text.observe(fail)
        await peer.say(Update(insert(7, "a")), Update(insert(7, "b", 1)))
        await until(lambda: str(text) == "ab")
        text.unobserve(subscription)


async def test_an_edit_that_fits_into_no_frame_is_an_error(stage: Stage) -> None:
    async with client_of(stage.url) as client:
        document = client.open("d")
        entering = asyncio.ensure_future(document.__aenter__())
        peer = await stage.accept(size=1000)
        await peer.let_in()
        await entering
        append(document, "a" * 500)
        append(document, "b" * 490)
        append(document, "c" * 1000)
        assert (await peer.hear()).sequence == 1
        assert (await peer.hear()).sequence == 2
        with pytest.raises(FrameTooBig):
            await document.saved()


async def test_more_than_is_kept_is_asked_of_the_document(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.replica.MAX_UNSAVED", 2000)
    async with played(stage) as (peer, client, document):
        await peer.socket.close(1012)
        await until(lambda: not client.connected)
        for number in range(100):
            append(document, f"<{number}>")
        assert len(document._replica._unsent) < 10
        peer = await stage.accept()
        await peer.let_in(epoch="e", position=1)
        doc: Doc[Any] = Doc()
        numbers: list[int] = []
        while not numbers or numbers[-1] < document._replica._sequence:
            message = await peer.hear()
            numbers.append(message.sequence)
            doc.apply_update(message.update)
        assert str(text_of(doc)) == str(text_of(document))
        assert numbers == list(range(1, len(numbers) + 1))
        await peer.say(Saved(b"", numbers[-1], 2))
        await document.saved()


async def test_what_a_document_brings_along_is_sent(stage: Stage) -> None:
    doc: Doc[Any] = Doc({"text": Text("from a file")})
    async with client_of(stage.url) as client:
        document = client.open("d", doc)
        entering = asyncio.ensure_future(document.__aenter__())
        peer = await stage.accept()
        await peer.let_in()
        await entering
        assert b"from a file" in (await peer.hear()).update
        assert document.unsaved
        await peer.say(Saved(b"", 1, 1))
        await document.saved()


async def test_changes_that_nobody_looked_at_come_as_one(stage: Stage) -> None:
    async with played(stage) as (peer, _, document):
        changes = document.changes()
        append(document, "a")
        append(document, "b")
        change = await anext(changes)
        assert (change.local, change.remote, change.presence) == (True, False, False)
        states = b"\x01\x07\x01" + wire.text('{"name":"Ann"}')
        await peer.say(Update(insert(7, "theirs")), Presence(states))
        await until(lambda: document.presence)
        change = await anext(changes)
        assert (change.local, change.remote, change.presence) == (False, True, True)
        assert document.presence == {7: {"name": "Ann"}}
        document._leave()
        assert len([change async for change in changes]) == 1  # Nobody is seen now.


async def test_who_is_announced_as_gone_says_that_it_is_here(stage: Stage) -> None:
    async with played(stage) as (peer, _, document):
        document.set_presence({"name": "bot"})
        me = wire.uint(1) + wire.uint(document.doc.client_id)
        here = wire.text('{"name": "bot"}')
        assert await peer.hear() == Presence(me + b"\x01" + here)
        await peer.say(Presence(me + b"\x01" + here))  # It is right.
        await peer.say(Presence(me + b"\x01" + wire.text("null")))
        assert await peer.hear() == Presence(me + b"\x02" + here)
        document.set_presence(None)
        assert await peer.hear() == Presence(me + b"\x03" + wire.text("null"))
        assert document.presence == {}
        with pytest.raises(ValueError, match="JSON"):
            document.set_presence({"number": float("nan")})


async def test_leaving_waits_until_all_is_saved_and_says_goodbye(stage: Stage) -> None:
    async with client_of(stage.url) as client:
        document = client.open("d")
        entering = asyncio.ensure_future(document.__aenter__())
        peer = await stage.accept()
        await peer.let_in()
        await entering
        append(document, "last words")
        leaving = asyncio.ensure_future(document.__aexit__(None, None, None))
        assert isinstance(await peer.hear(), Update)
        assert not leaving.done()
        await peer.say(Saved(b"", 1, 1))
        await leaving
        assert await peer.hear() == Left()
        assert not document.send(b"too late")
        with pytest.raises(Unavailable):
            await document.saved()
    await peer.socket.wait_closed()
    assert peer.socket.close_code == 1000


async def test_a_server_of_something_else_is_told_from_ours(stage: Stage) -> None:
    async with serve(stage.handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with client_of(f"ws://127.0.0.1:{port}/ws") as client:
            with pytest.raises(ProtocolError, match=re.escape("collab.v1")):
                async with client.open("d"):
                    pass


def test_the_client_needs_no_server_code() -> None:
    code = (
        "import collab.client, sys;"
        "print({'sqlalchemy', 'uvicorn', 'starlette', 'alembic'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


# The real server.


async def authorize(attempt: Attempt) -> Grant | None:
    access, _, user = attempt.token.partition(":")
    return Grant(user, Access(access)) if access in ("read", "write") else None


@pytest.mark.parametrize("fast", [True, False])
async def test_two_clients_converge(tmp_path: Path, fast: bool) -> None:
    async with (
        serving(tmp_path, fast=fast) as server,
        opened(server.ws_url) as ann,
        opened(server.ws_url) as bob,
    ):
        for number in range(100):
            append(ann, f"<a{number}>")
            append(bob, f"<b{number}>")
            if not number % 10:
                await asyncio.sleep(0)
        await ann.saved()
        await bob.saved()
        await until(lambda: str(text_of(ann)) == str(text_of(bob)))
        assert len(re.findall("<[ab]", str(text_of(ann)))) == 200
        async with opened(server.ws_url) as cleo:
            assert str(text_of(cleo)) == str(text_of(ann))
            assert cleo.progress == 1.0


async def test_presence_and_messages_reach_others(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, authorize=authorize) as server,
        client_of(server.ws_url, token="write:ann") as client,
        client.open("d") as ann,
        opened(server.ws_url, token="write:bob") as bob,
        opened(server.ws_url, token=lambda name: "read:cleo") as cleo,
    ):
        ann.set_presence({"name": "Ann"})
        seen = {ann.doc.client_id: {"name": "Ann"}}
        await until(lambda: bob.presence == cleo.presence == seen)
        assert ann.send(b"to all")
        assert await anext(aiter(bob.messages())) == Note("ann", b"to all")
        assert await anext(aiter(cleo.messages())) == Note("ann", b"to all")
        assert bob.send(b"to cleo", "cleo")
        assert await anext(aiter(cleo.messages())) == Note("bob", b"to cleo")
        ann._leave()
        await until(lambda: not bob.presence)


async def test_saved_waits_for_the_database(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as server,
        opened(server.ws_url) as ann,
        opened(server.ws_url) as bob,
    ):
        append(ann, "first ")
        await ann.saved()
        with closing(sqlite3.connect(tmp_path / "collab.db")) as database:
            database.isolation_level = None
            database.execute("BEGIN IMMEDIATE")  # Now nobody else can write.
            append(ann, "second ")
            await until(lambda: str(text_of(bob)) == "first second ")
            waiting = asyncio.ensure_future(ann.saved())
            # The server answers, but not that it is saved.
            assert ann.send(b"are you there?")
            assert await anext(aiter(bob.messages()))
            assert not waiting.done()
            assert ann.unsaved
            database.execute("ROLLBACK")
        await waiting
        with closing(sqlite3.connect(tmp_path / "collab.db")) as database:
            rows = database.execute("SELECT count(*) FROM updates").fetchone()
        assert rows == (2,)


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as server:
        async with (
            client_of(server.ws_url) as client,
            client.open("d") as ann,
            opened(server.ws_url) as bob,
        ):
            for turn in range(3):
                for number in range(20):
                    append(ann, f"<a{turn}-{number}>")
                    append(bob, f"<b{turn}-{number}>")
                if turn:
                    await asyncio.sleep(0.01)  # Some of it is on its way.
                end = server.terminate if turn == 1 else server.kill
                await asyncio.to_thread(end)
                await until(lambda: not client.connected)
                append(ann, f"<a{turn}-offline>")
                append(bob, f"<b{turn}-offline>")
                await asyncio.to_thread(server.start)
            await ann.saved()
            await bob.saved()
            async with opened(server.ws_url) as cleo:
                text = str(text_of(cleo))
                await until(lambda: str(text_of(ann)) == str(text_of(bob)) == text)
    words = re.findall("<(.*?)>", text)
    assert len(words) == len(set(words)) == 2 * 3 * 21
    assert "".join(f"<{word}>" for word in words) == text


async def test_a_network_that_fails_costs_no_edit(tmp_path: Path) -> None:
    """Connections are cut at any byte; what is saved according to one is there."""
    print(f"CLIENT_SEED={SEED}")
    chance = random.Random(SEED)
    async with serving(tmp_path) as server, proxied(server.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        async with opened(url, patience=1.0) as ann, opened(url, patience=1.0) as bob:
            for number in range(60):
                for who, document in (("a", ann), ("b", bob)):
                    text = text_of(document)
                    text.insert(chance.randint(0, len(text)), f"<{who}{number}>")
                if chance.random() < 0.3:
                    way = chance.choice(["to_server", "to_client"])
                    proxy.cut_at(**{way: chance.randint(1, 300)})
                elif chance.random() < 0.2:
                    proxy.cut()
                if chance.random() < 0.3:
                    await chance.choice([ann, bob]).saved()
                await asyncio.sleep(chance.choice([0, 0, 0.002, 0.01]))
            proxy.mend()
            await ann.saved()
            await bob.saved()
            await until(lambda: str(text_of(ann)) == str(text_of(bob)))
            async with opened(server.ws_url) as cleo:
                assert str(text_of(cleo)) == str(text_of(ann))
    written = "".join(f"<{who}{number}>" for who in "ab" for number in range(60))
    assert sorted(str(text_of(cleo))) == sorted(written)


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    with Proxy(port) as proxy:
        yield proxy


async def test_who_comes_back_is_sent_only_what_it_lacks(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as server,
        client_of(server.ws_url) as client,
        client.open("d") as ann,
        opened(server.ws_url) as bob,
    ):
        append(bob, "x" * 100_000)
        await bob.saved()
        await until(lambda: len(text_of(ann)) == 100_000)
        # The log has an epoch from the first row on: one has to have heard of it.
        links: list[object] = []
        for count in (1, 2):
            assert client._link is not None
            links.append(client._link)
            client._link.socket.transport.abort()
            append(bob, "y")
            await bob.saved()
            await until(lambda: client._link not in links and ann.synced)
            assert len(text_of(ann)) == 100_000 + count
        assert 0 < ann._replica.size < 100


async def test_a_reader_is_told_that_its_edits_are_nowhere_else(tmp_path: Path) -> None:
    tokens = ["read:ann", "write:ann"]
    async with (
        serving(tmp_path, authorize=authorize) as server,
        opened(server.ws_url, token=lambda name: tokens[0]) as ann,
    ):
        assert not ann.writable
        append(ann, "not yet")
        with pytest.raises(AccessDenied, match="read-only"):
            await ann.saved()
        tokens.pop(0)
        server.collab.request_tokens("d")
        await until(lambda: ann.writable and not ann.refused)
        await ann.saved()
        async with opened(server.ws_url, token="read:bob") as bob:
            assert str(text_of(bob)) == "not yet"


async def test_who_knocks_at_the_wrong_door_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        url = server.ws_url.replace("/ws", "/nowhere")
        async with client_of(url) as client:
            with pytest.raises(SentAway, match="HTTP status 40"):
                async with client.open("d"):
                    pass


async def test_who_is_denied_is_told_and_may_open_something_else(
    tmp_path: Path,
) -> None:
    async def by_name(attempt: Attempt) -> Grant | None:
        return Grant("ann") if attempt.document == "hers" else None

    async with (
        serving(tmp_path, authorize=by_name) as server,
        client_of(server.ws_url) as client,
    ):
        with pytest.raises(AccessDenied, match="permission-denied"):
            async with client.open("theirs"):
                pass
        with pytest.raises(SentAway, match="4400 bad document name"):
            async with client.open("a/../b"):
                pass
        async with client.open("hers") as document:
            append(document, "mine")
        async with client.open("hers") as document:
            assert str(text_of(document)) == "mine"


async def test_a_large_document_comes_and_goes_in_pieces(tmp_path: Path) -> None:
    doc: Doc[Any] = Doc()
    doc.apply_update(Joined(typed(1_000_000)).encode())
    limits = Limits(frame_size=512 * 1024)
    async with serving(tmp_path, limits=limits) as server:
        async with opened(server.ws_url, doc=doc) as ann:
            await ann.saved()
        async with client_of(server.ws_url) as client:
            document = client.open("d")
            progress: list[float] = []
            changes = document.changes()
            entering = asyncio.ensure_future(document.__aenter__())
            while not document.synced:
                await anext(changes)
                progress.append(document.progress)
            await entering
    assert document.doc.get_state() == doc.get_state()
    assert len(progress) > 5
    assert progress == sorted(progress)
    assert 0 < progress[0] < 0.5


async def test_it_works_with_y_websocket(tmp_path: Path) -> None:
    with running(tmp_path) as server, Clients() as clients:
        async with opened(server.ws_url) as ann:
            bob = await asyncio.to_thread(clients.open, server.ws_url, "d", kind="3.1")
            append(ann, "from Python 😀 ")
            ann.set_presence({"user": {"name": "bot"}})
            await asyncio.to_thread(until_blocking, lambda: "😀" in bob.text)
            await asyncio.to_thread(bob.append, "from JavaScript")
            await until(lambda: "JavaScript" in str(text_of(ann)))
            assert str(text_of(ann)) == "from Python 😀 from JavaScript"
            people = await asyncio.to_thread(lambda: bob.people)
            assert {"user": {"name": "bot"}} in people.values()
            await asyncio.to_thread(bob.announce, {"user": {"name": "Bob"}})
            await until(lambda: len(ann.presence) == 2)
            await ann.saved()
            await asyncio.to_thread(bob.destroy)
            assert clients.take_errors() == []


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    """It is run as it stands, but for the address."""
    page = (ROOT / "docs" / "clients.md").read_text()
    example = re.search(r"```python\n(import asyncio\n.*?)```", page, re.DOTALL)
    assert example is not None
    with running(tmp_path) as server:
        code = example[1].replace("ws://localhost:8000/ws", server.ws_url)
        for count in (1, 2):
            said = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert said.stderr == ""
            assert said.stdout.count("hello") == count
