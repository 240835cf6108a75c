"""One of our own clients: ``collab.v1``, many documents, with resumption.

A document is opened in pieces, and while they are sent its session counts as behind:
what happens meanwhile comes as one difference at the end, however slowly they are read.
Reference: ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Generator, Iterable
from functools import partial
from itertools import chain, islice
from time import perf_counter
from typing import TypeAlias

from . import wire
from .auth import MAX_TOKEN, Grant, Visitor
from .connection import Encodings, Transport, blame
from .contents import finish
from .dialects import native
from .dialects.native import VERSION
from .errors import CollabError, NothingOpened, ProtocolError, QuotaExceeded
from .hub import Hub
from .limits import check_name
from .messages import (
    Closed,
    Hail,
    Hello,
    Identity,
    Left,
    Message,
    Note,
    Open,
    Opened,
    Ping,
    Pong,
    Presence,
    Reconnect,
    Resume,
    Synced,
    Token,
    Update,
)
from .notices import pass_on
from .opening import SLICE, take_turns
from .places import DENIAL, Place, Places
from .presence import read_known
from .recent import suffices
from .room import Room
from .session import Owner, Session
from .splitting import PIECE, split
from .updates import ACCEPTED, parse_steps

MAX_NOTE = 64 * 1024
"""Bytes of what one says to others beside the document."""

FEW = 64
"""Messages of a frame that are taken at once; the others in turns."""

NOTHING = b"\x00\x00"
"""An update that says nothing."""

SIGN = wire.uint(0) + native.encode(Pong(0))
"""What is said as a sign of life."""


Berth: TypeAlias = Place[int, Message]
"""A client's place in the document of one channel."""


class NativeConnection(Places[int, Message, Berth]):
    """One of our own clients."""

    __slots__ = ("_encodings", "_greeted", "_silence")

    def __init__(
        self, hub: Hub, encodings: Encodings, transport: Transport, visitor: Visitor
    ) -> None:
        super().__init__(hub, transport, visitor)
        self._encodings = encodings
        self._greeted = False
        self._silence = 0
        """Heartbeats without a Hello."""

    def open(self) -> None:
        """Nothing is opened until a message names it."""

    # What the client says.

    def receive(self, payload: bytes) -> Awaitable[None] | None:
        """Take what the client sent; an awaitable if that takes a while."""
        messages = native.decode(payload)
        count = -1  # One of them counted as the frame.
        for channel, message in islice(messages, FEW):
            if self._drained is not None and isinstance(message, Open):
                return self._receive_later(chain([(channel, message)], messages))
            self._take_any(channel, message)
            count += 1
        following = next(messages, None)
        if following is not None:
            return self._receive_later(chain([following], messages), count)
        if count > 0:
            delay = self._slow_down(count)
            if delay:
                return asyncio.sleep(delay)
        return self._relief()

    def _slow_down(self, count: int) -> float:
        """Count messages; return for how long nothing more is taken."""
        return self._transport.guest.pace.spend(count, 0, perf_counter())

    async def _receive_later(
        self, messages: Iterable[tuple[int, Message]], count: int = 0
    ) -> None:
        """Take many messages in turns with others, and as there is room for answers."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        for channel, message in messages:
            count += 1
            if count >= FEW:
                delay = self._slow_down(count)
                count = 0
                if delay:
                    await asyncio.sleep(delay)
            while self._drained is not None and isinstance(message, Open):
                await self._drained.wait()
            self._take_any(channel, message)
            relief = self._relief()
            if relief is not None:
                await relief
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SLICE
            if self._closed:
                return

    def _take_any(self, channel: int, message: Message) -> None:
        if channel:
            self._take(channel, message)
        else:
            self._answer(message)

    def _answer(self, message: Message) -> None:
        """Take a message about the connection."""
        if isinstance(message, Hello):
            if self._greeted:
                raise ProtocolError("a second Hello")
            self._greeted = True
            limits = self.hub.limits
            name, beat = secrets.token_hex(8), 1000 * limits.heartbeat
            self._say(0, Hail(VERSION, name, beat, limits.frame_size))
        elif isinstance(message, Identity):
            raise ProtocolError("an Identity, which is for HTTP")
        elif isinstance(message, Ping) and self._drained is None:
            self._say(0, Pong(message.number))

    def _take(self, channel: int, message: Message) -> None:
        if not self._greeted:
            raise ProtocolError("no Hello at first")
        place = self.places.get(channel)
        if place is None:
            if isinstance(message, Open):
                self._add(channel, message)
            # Else it was closed, and the client didn't know yet.
        elif place.inbox is not None:
            self._keep(place, message, _size(message))
        elif isinstance(message, Open):
            raise ProtocolError("this channel is open")
        elif isinstance(message, Left):
            self._end(place, goodbye=True)
        elif isinstance(message, Token):
            self._begin(place, self._admit(place, message.token))
        elif place.room is not None:
            self._take_now(place, message)

    def _take_now(self, place: Berth, message: Message) -> None:
        try:
            if isinstance(message, Note):
                self._pass_on(place, message)
                return
            waiting = place.take(message)
        except CollabError as exc:
            self._fail(place, exc)
            return
        if waiting is not None:
            self._begin(place, waiting)

    def _pass_on(self, place: Berth, note: Note) -> None:
        if len(note.payload) > MAX_NOTE:
            raise QuotaExceeded("bytes of a message", MAX_NOTE)
        assert place.room is not None
        pass_on(place.room, note, place.session)

    def _add(self, channel: int, message: Open) -> None:
        self._ignore(0)  # It may have been denied too often.
        if len(self.places) >= self.hub.limits.documents:
            error = QuotaExceeded("documents", self.hub.limits.documents)
            self._say(channel, Closed(error.close_code, error.reason))
            return
        transport = self._transport
        session = Session(
            self._encodings.numbered(channel),
            transport.write,
            transport.probe,
            transport.refuse,
            numbered=True,
        )
        guest = transport.guest
        place = Berth(self.hub, channel, _undecoded, session, guest)
        self.places[channel] = place
        session.dismiss = partial(self._fail, place)
        self._begin(place, self._open(place, message))

    async def _step(self, place: Berth, content: Message) -> None:
        match content:
            case Left():
                self._end(place, goodbye=True)
            case Token(token):
                await self._admit(place, token)
            case Open():
                raise ProtocolError("this channel is open")
            case Note():
                if place.room is not None:
                    self._pass_on(place, content)
            case _:
                if place.room is not None:
                    waiting = place.take(content)
                    if waiting is not None:
                        await waiting

    def _restart(self, key: int, content: Message, size: int) -> None:
        self._take(key, content)

    # Opening.

    async def _open(self, place: Berth, message: Open) -> None:
        grant = await self._let_in(place, message)
        known = read_known(message.known) if isinstance(message, Resume) else None
        room = await self.hub.enter(place.name, place.guest)
        if message.epoch and message.epoch == room.epoch:
            # Before it has a seat: from then on it counts as behind.
            await self.hub.reach(room, message.position)
            room = await self.hub.enter(place.name)
        if place.leaving is not None:
            return
        self._check_repeats(place.name)
        place.session.shared = self._owner(place, room)
        place.seat(room, grant)
        # What is shown from now on is what comes behind the pieces.
        room.fell_behind(place.session)
        place.session.owed.clear()
        position, vector = room.position, room.document.state_vector()
        pieces = await self._missing(room, message)
        if known is not None and pieces == [NOTHING]:
            pieces = []
        size = sum(map(len, pieces))
        session = place.session
        session.send(Opened(session.reader, room.epoch, position, size, vector))
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        for piece in pieces:
            if loop.time() > until:  # They may have to be compressed.
                await asyncio.sleep(0)
                until = loop.time() + SLICE
            while self._drained is not None and place.leaving is None:
                await self._drained.wait()
            if place.room is not room:
                return
            encoded = room.welcome.encode_piece(session.encoding, piece)
            session.write(session.encoding.join([encoded]))
        if known is None:
            people = room.people.encode()
        else:
            people = room.people.encode_news(known, session.shared)
        if people is not None:
            session.send(Presence(people))
        session.behind_presence = room.people.version
        session.synced = True
        await self._keep_up(place)

    async def _let_in(self, place: Berth, message: Open) -> Grant:
        """Decide whether somebody may open what they want to open."""
        place.name = check_name(message.name)
        wire.read_state_vector(message.state_vector)  # Complain now, if at all.
        if len(message.token) > MAX_TOKEN:
            raise QuotaExceeded("bytes of a token", MAX_TOKEN)
        attempt = self.visitor.attempt(place.name, message.token)
        return await self.hub.reception.decide(attempt, place.guest)

    def _owner(self, place: Berth, room: Room) -> Owner | None:
        """Whose a place is, if it isn't a client by itself."""
        return None

    async def _missing(self, room: Room, message: Open) -> list[bytes]:
        """What the client lacks, in pieces; all that the room has now is in them."""
        rows = _rows_since(room, message)
        if rows is not None:
            return rows
        large, vector = room.document.large, message.state_vector
        if vector != b"\x00":
            steps = room.diff_steps(vector)
            return await _cut(await self._run(room, steps, large))
        pieces, since = room.welcome.parts(room.fresh)
        if pieces is None:
            # It may be forgotten meanwhile, and encoded anew.
            state = await self._run(room, room.encode_steps(), large)
            pieces = await _cut(state)
            room.welcome.cut(state, pieces)
        return [*pieces, *since]

    async def _run(
        self, room: Room, steps: Generator[None, None, bytes], large: bool
    ) -> bytes:
        return await self.hub.occupy(room, steps) if large else finish(steps)

    async def _keep_up(self, place: Berth) -> None:
        """Send what happened while pieces were sent; from then on it isn't behind."""
        room, session = place.room, place.session
        while self._drained is not None and place.leaving is None:
            await self._drained.wait()
        if room is None or place.room is not room:
            return
        if session.behind_version == room.document.version:
            session.owed.append(session.encoding.encode(Synced(room.shown)))
        waiting = place.catch_up()
        if waiting is not None:
            await waiting

    async def _admit(self, place: Berth, token: str) -> None:
        """Go on with what a new token allows."""
        if len(token) > MAX_TOKEN:
            raise QuotaExceeded("bytes of a token", MAX_TOKEN)
        attempt = self.visitor.attempt(place.name, token, place.room is not None)
        grant = await self.hub.reception.decide(attempt, place.guest)
        if place.room is not None:
            place.regrant(grant)

    # What is said to the client, besides what rooms say.

    def _say(self, channel: int, message: Message) -> None:
        if not self._muted:
            encoding = self._encodings.numbered(channel)
            self._transport.write(encoding.join([encoding.encode(message)]))

    def _end(self, place: Berth, goodbye: bool) -> None:
        place.leave(goodbye)
        self.places.pop(place.key, None)

    def _fail(self, place: Berth, error: CollabError) -> None:
        if isinstance(error, ProtocolError) and place.name:
            raise error
        blame(error, place.name, self.visitor.peer)
        if place.room is None:
            self._ignored += DENIAL
        self._end(place, goodbye=False)
        self._say(place.key, Closed(error.close_code, error.reason))

    def advise(self, after: float, window: float) -> bool:
        """Tell the client to move elsewhere: within a window, in so many seconds."""
        if self._greeted:
            self._say(0, Reconnect(round(1000 * after), round(1000 * window)))
        return self._greeted

    def beat(self) -> bytes | None:
        """What to say as a sign of life."""
        if not self._greeted:
            # The first may come right behind the handshake.
            self._silence += 1
            if self._silence > 1:
                self._transport.refuse(NothingOpened())
            return None
        return SIGN


def _rows_since(room: Room, message: Open) -> list[bytes] | None:
    """What was appended since somebody left, if that is known, and enough."""
    if not message.epoch or message.epoch != room.epoch:
        return None
    assert room.recent is not None
    recent, gate = room.recent, room.document.gate
    rows = recent.since(message.position)
    # Of what is saved behind others' updates that are still to be read, nobody knows.
    if rows is None or room.position < room.head:
        return None
    rows += [update for update, _ in room.ledger.unsaved]
    asked = message.position, message.state_vector
    if recent.sufficed != (asked, rows):
        clocks = wire.read_state_vector(message.state_vector)
        if not suffices(clocks, rows, gate.clocks, gate.deleted):
            return None
        recent.sufficed = asked, rows
    return rows


async def _cut(update: bytes) -> list[bytes]:
    """Cut an update into pieces, each of which builds upon those before it."""
    return await take_turns(_cut_steps(update))


def _cut_steps(update: bytes) -> Generator[None, None, list[bytes]]:
    if len(update) <= PIECE:
        return [update]
    parsed = yield from parse_steps(update, ACCEPTED, {})
    pieces = []
    for piece in split(update, parsed, PIECE):
        pieces.append(piece)
        yield
    return pieces


def _size(message: Message) -> int:
    """The bytes of a message that may have many."""
    match message:
        case Update(update):
            return len(update)
        case Presence(content) | Note(_, content):
            return len(content)
        case _:
            return 0


def _undecoded(payload: bytes, at: int) -> tuple[Message, int]:
    raise AssertionError("messages of our own are decoded with their channel")
