"""People who edit, and go from one server of a database to the other all the time.

They are clients of each kind, without sockets: what a server writes waits until it is
heard, or is lost with the connection.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from random import Random
from typing import Any

from pycrdt import Doc, Text

from collab import wire
from collab.asgi import PayloadEncodings
from collab.auth import Visitor
from collab.connection import Connection, NamedConnection
from collab.dialects import native, yjs
from collab.errors import CollabError
from collab.hub import Hub
from collab.messages import Message, Saved, SyncStep1, SyncStep2, Update
from collab.polling import Caller, _Push
from collab.replica import Replica
from collab.requested import Listener
from tests import polls
from tests.native import edit, opening, read_frame
from tests.test_native_connection import Client

ENCODINGS = PayloadEncodings()
NOTHING = b"\x00\x00"


class Traveller(ABC):
    """Somebody with a copy of the document, and a connection to one of the servers."""

    def __init__(self, number: int) -> None:
        self.doc: Doc[Any] = Doc(client_id=number)
        self.text = self.doc.get("text", type=Text)
        self.hub: Hub | None = None
        self.full = False
        """Whether it reads nothing at the moment."""
        self.acknowledged: list[bytes] = []
        """What it was told is saved, lately."""

    def write(self, chance: Random) -> None:
        length = len(self.text)
        at = chance.randint(0, length)
        if length > 4 and chance.random() < 0.4:
            at = min(at, length - 2)
            del self.text[at : at + chance.randint(1, 2)]
        else:
            self.text.insert(at, chance.choice("abcdefgh"))

    @abstractmethod
    def move(self, hub: Hub) -> None:
        """Go to a server; what the last one has yet to say is heard, or is not."""

    @abstractmethod
    def leave(self) -> None:
        """Be nowhere."""

    def lose(self, hub: Hub) -> None:
        """Notice that a server is gone."""
        if self.hub is hub:
            self.leave()

    @abstractmethod
    def hear(self) -> None:
        """Take what the server has said, and say what there is to say."""

    @property
    @abstractmethod
    def connection(self) -> Connection | None:
        """What it has to do with, if it is somewhere."""

    def fill(self) -> None:
        """Read nothing for a while."""
        if self.connection is not None and not self.full:
            self.full = True
            self.connection.filled()

    def drain(self) -> None:
        """Read again."""
        if self.connection is not None and self.full:
            self.full = False
            self.connection.drained()

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether it was told all that it waits for."""


class Native(Traveller):
    """One of our own clients."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.replica = Replica("d", self.doc, lambda: None)
        self.client: Client | None = None

    def move(self, hub: Hub) -> None:
        self.leave()
        self.hub = hub
        self.client = Client(hub)
        self._say(self.replica.open(""))

    def leave(self) -> None:
        if self.client is not None:
            self.client.connection.close(goodbye=True)
            self.client = self.hub = None
            self.full = False
            self.replica.leave()

    def _say(self, *messages: Message) -> None:
        assert self.client is not None
        frame = b"".join(wire.uint(1) + native.spell(message) for message in messages)
        if frame:
            assert self.client.connection.receive(frame) is None

    def hear(self) -> None:
        if self.client is None:
            return
        assert not self.client.refusals
        frames, self.client.frames = self.client.frames, []
        for frame in frames:
            for channel, message in native.read(frame):
                if isinstance(message, Saved):
                    for sent in self.replica._sent:
                        if sent.sequence <= message.sequence:
                            assert sent.update is not None
                            self.acknowledged.append(sent.update)
                if channel:
                    self.replica.receive(message)
        self._say(*self.replica.take(1000))

    @property
    def connection(self) -> Connection | None:
        return None if self.client is None else self.client.connection

    @property
    def settled(self) -> bool:
        return self.replica.synced and self.replica.oldest is None


class Outside:
    """The other end of a connection."""

    def __init__(self, hub: Hub) -> None:
        self.frames: list[bytes] = []
        self.refusals: list[CollabError] = []
        self.guest = hub.reception.quotas.admit()

    def write(self, encoded: Any) -> None:
        self.frames += encoded

    def probe(self) -> None:
        """Nobody is asked."""

    def refuse(self, error: CollabError) -> None:
        self.refusals.append(error)


class Stranger(Traveller):
    """A client of y-websocket, whose edits may overtake each other."""

    def __init__(self, number: int, chance: Random) -> None:
        super().__init__(number)
        self.chance = chance
        self.outside: Outside | None = None
        self.named: NamedConnection | None = None
        self.outbox: list[bytes] = []
        self.unsaved: list[bytes] = []
        self.synced = False
        self._waiting: asyncio.Future[None] | None = None
        self._hearing = False
        self._watch = self.doc.observe(lambda event: self._made(event.update))

    def _made(self, update: bytes) -> None:
        if not self._hearing and self.named is not None and update != NOTHING:
            self.unsaved.append(update)
            at = len(self.outbox)
            if at > 1 and self.chance.random() < 0.3:
                at -= 1  # Never before the question.
            self.outbox.insert(at, yjs.encode(Update(update)))

    def move(self, hub: Hub) -> None:
        self.leave()
        self.hub = hub
        self.outside = Outside(hub)
        encoding = ENCODINGS.yjs
        visitor = Visitor("somebody")
        self.named = NamedConnection(hub, "d", encoding, self.outside, visitor)
        self._wait(self.named.open())
        self.outbox.append(yjs.encode(SyncStep1(self.doc.get_state())))

    def _wait(self, waiting: Awaitable[None] | None) -> None:
        self._waiting = None if waiting is None else asyncio.ensure_future(waiting)

    def leave(self) -> None:
        if self.named is not None:
            self.named.close(goodbye=True)
            self.named = self.outside = self.hub = None
            self.full = False
            self.synced = False
            self.unsaved.clear()
            self.outbox.clear()

    def hear(self) -> None:
        if self.named is None or self.outside is None:
            return
        assert not self.outside.refusals
        frames, self.outside.frames = self.outside.frames, []
        for frame in frames:
            at = 0
            while at < len(frame):
                message, at = yjs.decode(frame, at)
                self._take(message)
        while self.outbox and (self._waiting is None or self._waiting.done()):
            if self._waiting is not None:
                self._waiting.result()
            self._wait(self.named.receive(self.outbox.pop(0)))

    def _take(self, message: Message) -> None:
        match message:
            case SyncStep1(vector):
                answer = self.doc.get_update(vector)
                self.unsaved.append(answer)
                self.outbox.append(yjs.encode(SyncStep2(answer)))
            case Update(update) | SyncStep2(update):
                self.synced = self.synced or isinstance(message, SyncStep2)
                if isinstance(message, Update) and update in self.unsaved:
                    self.unsaved.remove(update)
                self._hearing = True
                self.doc.apply_update(update)
                self._hearing = False

    @property
    def connection(self) -> Connection | None:
        return self.named

    @property
    def settled(self) -> bool:
        return self.synced and not self.unsaved and not self.outbox


class Poller(Traveller):
    """One of our own clients where WebSockets are blocked."""

    def __init__(self, number: int, hubs: list[Hub], chance: Random) -> None:
        super().__init__(number)
        self.hubs = hubs
        self.chance = chance
        self.key = chance.randbytes(16)
        self.listener: Listener | None = None
        self.outside: Outside | None = None
        self.unsaved: dict[int, bytes] = {}
        self.sequence = 0
        self.epoch = b""
        self.position = 0
        self.opened = self.synced = False
        self._pushing: asyncio.Task[bytes] | None = None
        self._server: Hub | None = None
        """To which it pushes."""
        self._hearing = False
        self._watch = self.doc.observe(lambda event: self._made(event.update))

    def _made(self, update: bytes) -> None:
        if not self._hearing and update != NOTHING:
            self.sequence += 1
            self.unsaved[self.sequence] = update

    def move(self, hub: Hub) -> None:
        if self.listener is not None and self.chance.random() < 0.7:
            self.listener.conclude()
            self._listen()
        self.leave()
        self.hub = hub
        self.outside = Outside(hub)
        self.listener = Listener(hub, ENCODINGS, self.outside, Visitor("somebody"))
        spell = polls.resuming if self.opened else opening
        said = spell("d", self.doc.get_state(), self.epoch, self.position)
        frame = polls.head(self.key) + polls.on(1, said)
        assert self.listener.receive(frame) is None

    def leave(self) -> None:
        if self.listener is not None:
            self.listener.close(goodbye=False)
            self.listener = self.outside = self.hub = None
            self.full = False
            self.synced = False

    def lose(self, hub: Hub) -> None:
        super().lose(hub)
        if self._pushing is not None and self._server is hub:
            self._pushing.cancel()  # There will be no answer.

    def hear(self) -> None:
        self._listen()
        if self._pushing is not None and self._pushing.done():
            task, self._pushing = self._pushing, None
            if not task.cancelled():
                for _, message in polls.read_frames(task.result()):
                    self._take(message)
        if self._pushing is None and self.unsaved and self.opened:
            self._server = self.chance.choice(self.hubs)
            self._pushing = asyncio.create_task(self._push(self._server))

    async def _push(self, hub: Hub) -> bytes:
        said = [edit(number, update) for number, update in self.unsaved.items()]
        body = polls.head(self.key) + polls.on(1, opening(epoch=self.epoch), *said)
        guest = hub.reception.quotas.admit()
        try:
            return await _Push(hub, Caller(Visitor("somebody"), guest, {})).answer(body)
        finally:
            guest.leave()

    def _listen(self) -> None:
        if self.outside is None:
            return
        assert not self.outside.refusals
        frames, self.outside.frames = self.outside.frames, []
        for frame in frames:
            for channel, message in read_frame(frame):
                if channel:
                    self._take(message)

    def _take(self, message: tuple[Any, ...]) -> None:
        match message:
            case "Opened", _, epoch, _, _, vector:
                assert self.epoch in (b"", epoch) or not epoch
                if epoch != self.epoch:
                    self.position = 0
                self.epoch = epoch or self.epoch
                self._made(self.doc.get_update(vector))
            case ("Piece", update) | ("Update", _, update):
                self._hearing = True
                self.doc.apply_update(update)
                self._hearing = False
                if message[0] == "Update":
                    self.position = max(self.position, message[1])
            case "Synced", position:
                self.opened = self.synced = True
                self.position = max(self.position, position)
            case "Saved", sequence, _:
                for number in [n for n in self.unsaved if n <= sequence]:
                    self.acknowledged.append(self.unsaved.pop(number))
            case "Question", vector:
                self._made(self.doc.get_update(vector))
            case "Presence", _:
                pass
            case _:
                raise AssertionError(message)

    @property
    def connection(self) -> Connection | None:
        return self.listener

    @property
    def settled(self) -> bool:
        return self.synced and not self.unsaved and self._pushing is None
