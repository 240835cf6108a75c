"""One of our own clients in an HTTP request, where it either hears or says something.

Each request is a connection that needs nothing of the one before. What belongs together
has the same key: its sessions share an owner.
Reference: ``docs/protocol.md``, "Over HTTP".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from .auth import Visitor
from .catalog import Catalog
from .connection import Encodings, Transport
from .errors import DocumentReplaced, ProtocolError, StoreError
from .hub import Hub
from .messages import Hail, Identity, Message, Open, Resume, Synced, SyncStep1
from .native import Berth, NativeConnection
from .room import Room
from .session import Owner


class Requester(NativeConnection):
    """A client in one request, which has all that it says there."""

    __slots__ = ("_key", "_working", "idle")

    def __init__(
        self, hub: Hub, encodings: Encodings, transport: Transport, visitor: Visitor
    ) -> None:
        super().__init__(hub, encodings, transport, visitor)
        self._key = b""
        self._working = 0
        self.idle = asyncio.Event()
        """Set while no place is at something that takes a while."""
        self.idle.set()

    def _answer(self, message: Message) -> None:
        if not isinstance(message, Identity):
            super()._answer(message)
        elif self._key:
            raise ProtocolError("a second Identity")
        else:
            self._key = message.key
            self._transport.guest.resume(message.key)

    def _owner(self, place: Berth, room: Room) -> Owner | None:
        return room.people.owner((self._key, place.key))

    def _begin(self, place: Berth, work: Awaitable[None], *inbox: Any) -> None:
        self._working += 1
        self.idle.clear()
        super()._begin(place, work, *inbox)

    async def _work(self, place: Berth, work: Awaitable[None]) -> None:
        try:
            await super()._work(place, work)
        finally:
            self._working -= 1
            if not self._working:
                self.idle.set()


class Listener(Requester):
    """A client that hears what happens."""

    __slots__ = ()

    async def _open(self, place: Berth, message: Open) -> None:
        room = self.hub.rooms.get(message.name)
        if room is not None and not room.epoch:
            await self._learn_epoch(room)
        await super()._open(place, message)

    async def _learn_epoch(self, room: Room) -> None:
        """Ask for the epoch of a new document.

        Without it a position is worth nothing: each poll would be sent all deletions
        again, and be over at once.
        """
        number = room.document_id
        if number is None:
            return
        with suppress(StoreError):  # The hub asks, too.
            alive = await self.hub.in_thread(self.hub.catalog.alive, [number])
            if number in alive:
                _, room.epoch = alive[number]

    def conclude(self) -> None:
        """Say up to where the client has everything, so that it can go on there."""
        for place in self.places.values():
            room, session = place.room, place.session
            if room is not None and session.behind is None and room.shown:
                session.send(Synced(room.shown))

    @property
    def sending(self) -> bool:
        """Whether pieces of a document are on their way."""
        places = self.places.values()
        return any(place.room and place.inbox is not None for place in places)


class Speaker(Requester):
    """A client that says something, and hears what became of it."""

    __slots__ = ("_parted",)

    def __init__(
        self, hub: Hub, encodings: Encodings, transport: Transport, visitor: Visitor
    ) -> None:
        super().__init__(hub, encodings, transport, visitor)
        self._parted: list[Berth] = []
        """Places that the client has closed; what it said there is still answered."""

    def _take(self, channel: int, message: Message) -> None:
        if isinstance(message, Resume):
            raise ProtocolError("a Resume in a push")
        super()._take(channel, message)

    async def _open(self, place: Berth, message: Open) -> None:
        grant = await self._let_in(place, message)
        room = await self._enter(place, message.epoch)
        if place.leaving is not None:
            return
        session = place.session
        session.shared = self._owner(place, room)
        # What concerns it alone is kept for the end, and it is told nothing else.
        session.behind = b"\x00"
        place.seat(room, grant)

    async def _enter(self, place: Berth, epoch: str) -> Room:
        """The room of a document, if it is the one that the client has.

        Raises:
            DocumentReplaced: If it is another one.
        """
        name = place.name
        room = await self.hub.enter(name, place.guest)
        if not epoch or epoch == room.epoch:
            return room
        # We may not have noticed yet that another server has begun it.
        catalog = self.hub.catalog
        if room.epoch or epoch != await self.hub.in_thread(_find_epoch, catalog, name):
            raise DocumentReplaced
        return await self.hub.enter(name)

    def _end(self, place: Berth, goodbye: bool) -> None:
        if goodbye:
            self._parted.append(place)
            self.places.pop(place.key, None)
        else:
            super()._end(place, goodbye)

    def _say(self, channel: int, message: Message) -> None:
        if not isinstance(message, Hail):
            super()._say(channel, message)

    async def settle(self) -> None:
        """Wait until all that was said is taken, and what is to be saved is."""
        await self.idle.wait()
        for place in (*self._parted, *self.places.values()):
            room = place.room
            if room is None:
                continue
            receipts = room.ledger.receipts
            due = [due.at for due in receipts if due.session is place.session]
            if due:
                await self.hub.journal.flush_up_to(room, due[-1])

    def take_answers(self) -> list[bytes]:
        """Take what the client is to be told."""
        answers: list[bytes] = []
        for place in (*self._parted, *self.places.values()):
            room, session = place.room, place.session
            if room is None:
                continue
            answers += session.take_owed()
            if session.lacking:
                session.lacking = False
                question = SyncStep1(room.document.state_vector())
                answers.append(session.encoding.encode(question))
        return answers

    def close(self, goodbye: bool) -> None:
        """Leave all rooms."""
        super().close(goodbye)
        for place in self._parted:
            if place.inbox is None:
                place.leave(goodbye=True)
            else:
                place.leaving = True
                place.mute()


def _find_epoch(catalog: Catalog, name: str) -> str:
    """The epoch of a document, as the database has it now."""
    ids = catalog.find([name])
    alive = catalog.alive(list(ids.values()))
    return next((epoch for _, epoch in alive.values()), "")
