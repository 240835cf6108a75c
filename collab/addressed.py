"""A client of many documents, which its messages name: Hocuspocus 2 to 4.

Each address has a place of its own: it is let in or not, waits for its document, is
told to leave.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import TypeAlias

from . import wire
from .auth import Visitor
from .connection import Encodings, Transport, blame
from .dialects import hocuspocus, yjs
from .dialects.hocuspocus import PING, PONG
from .errors import (
    AccessDenied,
    BadName,
    CollabError,
    DocumentGone,
    NothingOpened,
    ProtocolError,
    QuotaExceeded,
    UpdateRejected,
    WrongDialect,
)
from .hub import Hub
from .limits import check_name
from .messages import (
    Denied,
    Left,
    Message,
    Presence,
    QueryPresence,
    Refused,
    SyncStep1,
    Token,
)
from .places import DENIAL, Place, Places
from .quotas import Guest
from .room import Room
from .session import MAX_RECEIPTS, Session

YJS_HINT = "y-websocket connects to /ws/NAME"

_TOKEN, _LEFT, _STEP1, _UPDATE = b"\x02", b"\x07", b"\x00\x00", b"\x00\x02"

_OWN = AccessDenied | BadName | DocumentGone | QuotaExceeded | UpdateRejected
"""Errors that end a client's place in one document, and not its connection: to come
again would not help."""


Content: TypeAlias = tuple[bytes, int]
"""A payload, and where the message begins behind its address."""


class Seat(Place[bytes, Content]):
    """A client's place in the document of one address."""

    __slots__ = ("forgotten", "lost")

    def __init__(
        self, hub: Hub, address: bytes, session: Session, guest: Guest
    ) -> None:
        super().__init__(hub, address, hocuspocus.decode, session, guest)
        self.lost = False
        """Whether it was let out, or not in: until the next token nothing is taken."""
        self.forgotten = 0
        """How many acknowledgements it expects for what was not taken."""

    def forget(self, payload: bytes, at: int) -> None:
        """Note what a message counts for that is not taken: see ``Session.asks``."""
        kind = payload[at : at + 2]
        if kind == _STEP1:
            self.forgotten = 1
        elif kind == _UPDATE:
            self.forgotten += 1

    def _take(self, room: Room, message: Message) -> None:
        departure = None
        if isinstance(message, Presence) and not self.session.introduced:
            departure = room.people.departure(message.states)
        super()._take(room, message)
        if departure is not None and self.session.behind is None:
            # Hearing of it, a client takes the next clock. Version 4 doesn't say so by
            # itself, and would not be seen until it renews what it says.
            self.session.send(Presence(departure), QueryPresence())


class AddressedConnection(Places[bytes, Content, Seat]):
    """A client of many documents, which its messages name."""

    __slots__ = ("_encodings", "_modern", "_silence")

    def __init__(
        self, hub: Hub, encodings: Encodings, transport: Transport, visitor: Visitor
    ) -> None:
        super().__init__(hub, transport, visitor)
        self._encodings = encodings
        self._modern = False
        """Whether it is version 4 or newer."""
        self._silence = 0
        """Heartbeats since there was a document."""

    def open(self) -> None:
        """Nothing is opened until a message names it."""

    # What the client says.

    def receive(self, payload: bytes) -> Awaitable[None] | None:
        """Take what the client sent; an awaitable if that takes a while."""
        if payload == PONG:
            return None
        address, at = hocuspocus.read_address(payload)
        place = self.places.get(address)
        if (
            place is None
            or place.inbox is not None
            or place.room is None
            or payload[at : at + 1] in (_TOKEN, _LEFT)
        ):
            if self._drained is not None and (place is None or place.inbox is None):
                return self._receive_drained(payload)  # It will be answered.
            self._receive_rare(address, place, payload, at)
            return self._relief()
        try:
            waiting = place.receive(payload, at)
        except CollabError as exc:
            self._fail(place, exc)
            return None
        if waiting is None:
            return None
        self._begin(place, waiting)
        return self._relief()

    def _receive_rare(
        self, address: bytes, place: Seat | None, payload: bytes, at: int
    ) -> None:
        """Take what isn't for a place that is ready, or is about being there at all."""
        if not address:
            raise WrongDialect(YJS_HINT)
        if place is not None and place.inbox is not None:
            self._keep(place, (payload, at), len(payload))
            return
        kind = payload[at : at + 1]
        if place is None:
            message, _ = hocuspocus.decode(payload, at)  # Complain now, if at all.
            if not isinstance(message, Token | SyncStep1):
                # Not yet: an edit on a socket that was open may come before the token,
                # and is in the answer to our question, too. Not any more: version 2
                # tells of its absence once more when it has left.
                self._ignore(len(payload))
                return
            if len(self.places) >= self.hub.limits.documents:
                self._ignore(len(payload))
                error = QuotaExceeded("documents", self.hub.limits.documents)
                self._say(address, Denied(error.reason))
                return
            place = self._add(address)
            if not isinstance(message, Token):
                # Version 2 without a token says nothing of it.
                first = (payload, at), len(payload)
                self._begin(place, self._admit(place, Token("")), first)
                return
        elif place.lost and kind not in (_TOKEN, _LEFT):
            place.forget(payload, at)
            self._ignore(len(payload))
            return
        if kind == _TOKEN and place.room is None:
            self._ignore(0)  # It may have been denied too often.
        self._begin(place, self._step(place, (payload, at)))

    async def _receive_drained(self, payload: bytes) -> None:
        while self._drained is not None:
            await self._drained.wait()
        if self._closed:
            return
        waiting = self.receive(payload)
        if waiting is not None:
            await waiting

    def _add(self, address: bytes) -> Seat:
        session = self._seat(address)
        place = Seat(self.hub, address, session, self._transport.guest)
        self.places[place.key] = place
        self._watch(place)
        return place

    def _watch(self, place: Seat) -> None:
        """Be told when a place is taken away, if there is somebody to tell."""
        if self._muted:
            place.mute()
        else:
            place.session.dismiss = partial(self._fail, place)

    def _seat(self, address: bytes) -> Session:
        transport = self._transport
        encoding = self._encodings.addressed(address)
        write, probe, refuse = transport.write, transport.probe, transport.refuse
        return Session(encoding, write, probe, refuse, mutual=True)

    # What takes a while.

    def _restart(self, key: bytes, content: Content, size: int) -> None:
        self._receive_rare(key, self.places.get(key), *content)

    async def _step(self, place: Seat, content: Content) -> None:
        payload, at = content
        kind = payload[at : at + 1]
        if kind in (_TOKEN, _LEFT):
            message, _ = hocuspocus.decode(payload, at)
            if isinstance(message, Token):
                await self._admit(place, message)
            else:
                self._part(place)
        elif place.room is not None:
            waiting = place.receive(payload, at)
            if waiting is not None:
                await waiting
        else:
            place.forget(payload, at)

    async def _admit(self, place: Seat, token: Token) -> None:
        """Let somebody in, or go on with what their new token allows."""
        if token.version:
            self._modern = True
        if not place.name:
            place.name = check_name(hocuspocus.read_name(place.key))
        inside = place.room is not None
        attempt = self.visitor.attempt(place.name, token.token, inside)
        grant = await self.hub.reception.decide(attempt, place.guest)
        if place.room is not None:
            place.regrant(grant)
            return
        room = await self.hub.enter(place.name, place.guest)
        if place.leaving is not None:
            return
        self._check_repeats(place.name)
        lost, place.lost = place.lost, False
        place.join(room, grant)
        if self._drained is not None:
            self._lag(place)
        if lost and not self._asks(place):
            # What it asked before was forgotten, and what it wrote.
            place.session.send(QueryPresence())
            waiting = place.receive(b"\x00\x00\x01\x00", 0)
            if waiting is not None:
                await waiting
            place.session.awaited = min(place.forgotten, MAX_RECEIPTS)
        place.forgotten = 0

    def _asks(self, place: Seat) -> bool:
        """Whether what waits has the question what there is."""
        waiting = [payload[at : at + 2] for (payload, at), _ in place.inbox or ()]
        return _STEP1 in waiting

    # What is said to the client, besides what rooms say.

    def _say(self, address: bytes, message: Message) -> None:
        if not self._muted:
            encoding = self._encodings.addressed(address)
            self._transport.write(encoding.join([encoding.encode(message)]))

    def _part(self, place: Seat) -> None:
        """Let somebody go who wants to."""
        place.leave(goodbye=True)
        self.places.pop(place.key, None)
        self._say(place.key, Left("provider_initiated"))

    def _fail(self, place: Seat, error: CollabError) -> None:
        if not isinstance(error, _OWN):
            if isinstance(error, ProtocolError):
                raise error
            self._transport.refuse(error)
            return
        blame(error, place.name, self.visitor.peer)
        inside = place.room is not None
        if not inside:
            self._ignored += DENIAL
        self._expel(place)
        if isinstance(error, UpdateRejected):
            self._say(place.key, Refused())
        # Version 2 doesn't know the one, and version 4 would take the other for a
        # question of who one is.
        gone = inside and self._modern and not isinstance(error, AccessDenied)
        message = Left(error.reason) if gone else Denied(error.reason)
        self._say(place.key, message)

    def _expel(self, place: Seat) -> None:
        """End a place, but not the connection: a token may bring it back."""
        place.lost = True
        if place.room is not None:
            place.forgotten = place.room.ledger.owed(place.session)
            place.leave(goodbye=False)
            place.session = self._seat(place.key)
            self._watch(place)

    def beat(self) -> bytes | None:
        """What to say as a sign of life.

        Version 4 has a message for it. Others are told of nobody's presence.
        """
        if any(place.room for place in self.places.values()):
            self._silence = 0
        else:
            self._silence += 1
            if self._silence >= self.hub.limits.patience:
                self._transport.refuse(NothingOpened())
                return None
        if self._modern:
            return PING
        for place in self.places.values():
            return wire.data(place.key) + yjs.KEEPALIVE
        return None
