"""A client of many documents, which its messages name: Hocuspocus 2 to 4.

Each address has a place of its own, and whatever happens at one is no business of the
others: it is let in or not, waits for its document, is told to leave. What comes for it
while it waits is kept; when that is much, nothing more is read from the client.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Iterable
from functools import partial

from . import wire
from .auth import Visitor
from .channel import Channel
from .connection import (
    MAX_UNADMITTED,
    PATIENCE,
    Connection,
    Encodings,
    NamedConnection,
    Transport,
    blame,
)
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
from .opening import SLICE
from .room import Room
from .session import MAX_RECEIPTS, Session

logger = logging.getLogger("collab.addressed")

MAX_WAITING = 1024 * 1024
"""Bytes that wait for documents, above which nothing more is read."""

WAITING = 150
"""Bytes of memory that a message takes that waits, besides its own."""

DENIAL = 512
"""Of these bytes, how many it counts for to be denied: the application was asked, and
there is a line in the log."""

YJS_HINT = "y-websocket connects to /ws/NAME"

_TOKEN, _LEFT, _STEP1, _UPDATE = b"\x02", b"\x07", b"\x00\x00", b"\x00\x02"

_OWN = AccessDenied | BadName | DocumentGone | QuotaExceeded | UpdateRejected
"""Errors that end a client's place in one document, and not its connection: to come
again would not help."""


class Place(Channel):
    """A client's place in the document of one address."""

    __slots__ = ("address", "forgotten", "inbox", "leaving", "lost")

    def __init__(self, hub: Hub, address: bytes, session: Session) -> None:
        super().__init__(hub, "", hocuspocus.decode, session)
        self.address = address
        self.inbox: deque[tuple[bytes, int]] | None = None
        """What waits until it is done with something."""
        self.lost = False
        """Whether it was let out, or not in: until the next token nothing is taken."""
        self.forgotten = 0
        """How many acknowledgements it expects for what was not taken."""
        self.leaving: bool | None = None
        """Whether it leaves with a goodbye, once it has taken what waits."""

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


class AddressedConnection:
    """A client of many documents, which its messages name."""

    __slots__ = (
        "_closed",
        "_drained",
        "_encodings",
        "_ignored",
        "_lagging",
        "_modern",
        "_muted",
        "_relieved",
        "_silence",
        "_transport",
        "_waiting",
        "hub",
        "places",
        "visitor",
    )

    def __init__(
        self, hub: Hub, encodings: Encodings, transport: Transport, visitor: Visitor
    ) -> None:
        self.hub = hub
        self.visitor = visitor
        self.places: dict[bytes, Place] = {}
        self._encodings = encodings
        self._transport = transport
        self._modern = False
        """Whether it is version 4 or newer."""
        self._muted = False
        """Whether the transport is gone."""
        self._closed = False
        """Whether it has left: nothing more is taken."""
        self._waiting = 0
        """Bytes in the inboxes of all places."""
        self._relieved: asyncio.Event | None = None
        """Set when there is room for more of them."""
        self._drained: asyncio.Event | None = None
        """Set when the transport has room again; ``None`` while it has."""
        self._lagging: list[Place] = []
        """Places that are behind, longest first."""
        self._ignored = 0
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
        self, address: bytes, place: Place | None, payload: bytes, at: int
    ) -> None:
        """Take what isn't for a place that is ready, or is about being there at all."""
        if not address:
            raise WrongDialect(YJS_HINT)
        if place is not None and place.inbox is not None:
            place.inbox.append((payload, at))
            self._waiting += len(payload) + WAITING
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
                self._begin(place, self._admit(place, Token("")), (payload, at))
                return
        elif place.lost and kind not in (_TOKEN, _LEFT):
            place.forget(payload, at)
            self._ignore(len(payload))
            return
        if kind == _TOKEN and place.room is None:
            self._ignore(0)  # It may have been denied too often.
        self._begin(place, self._step(place, payload, at))

    async def _receive_drained(self, payload: bytes) -> None:
        while self._drained is not None:
            await self._drained.wait()
        if self._closed:
            return
        waiting = self.receive(payload)
        if waiting is not None:
            await waiting

    def _ignore(self, size: int) -> None:
        if not any(place.room for place in self.places.values()):
            self._ignored += size
            if self._ignored > MAX_UNADMITTED:
                raise QuotaExceeded("bytes without access", MAX_UNADMITTED)

    def _relief(self) -> Awaitable[None] | None:
        """An awaitable if too much waits for documents, until it doesn't."""
        if self._waiting <= MAX_WAITING:
            return None
        if self._relieved is None:
            self._relieved = asyncio.Event()
        return self._wait(self._relieved)

    async def _wait(self, event: asyncio.Event) -> None:
        await event.wait()

    def _add(self, address: bytes) -> Place:
        place = Place(self.hub, address, self._seat(address))
        self.places[place.address] = place
        self._watch(place)
        return place

    def _watch(self, place: Place) -> None:
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

    def _begin(
        self, place: Place, work: Awaitable[None], *inbox: tuple[bytes, int]
    ) -> None:
        """Have a place do something; what comes for it meanwhile waits."""
        place.inbox = deque(inbox)
        self._waiting += sum([len(payload) + WAITING for payload, _ in inbox])
        self.hub.spawn(self._work(place, work))

    async def _work(self, place: Place, work: Awaitable[None]) -> None:
        inbox = place.inbox
        assert inbox is not None
        loop = asyncio.get_running_loop()
        try:
            await self._try(place, work)
            until = loop.time() + SLICE
            while inbox and self.places.get(place.address) is place:
                if loop.time() > until:
                    await asyncio.sleep(0)
                    until = loop.time() + SLICE
                payload, at = inbox.popleft()
                self._free(len(payload) + WAITING)
                await self._try(place, self._step(place, payload, at))
        finally:
            place.inbox = None
            self._free(sum([len(payload) + WAITING for payload, _ in inbox]))
        if place.leaving is not None:
            place.leave(place.leaving)
        elif not self._closed:
            self._take_again(place.address, inbox)

    def _take_again(self, address: bytes, inbox: Iterable[tuple[bytes, int]]) -> None:
        """Take what waited behind the end of a place: it is for a new one."""
        try:
            for payload, at in inbox:
                self._receive_rare(address, self.places.get(address), payload, at)
        except CollabError as exc:
            self._transport.refuse(exc)

    async def _try(self, place: Place, work: Awaitable[None]) -> None:
        try:
            await work
        except CollabError as exc:
            try:
                self._fail(place, exc)
            except ProtocolError as malformed:
                self._transport.refuse(malformed)
        except Exception:
            logger.exception("%s: unexpected error", self.visitor.peer)
            self._transport.refuse(CollabError())

    def _free(self, size: int) -> None:
        self._waiting -= size
        if self._relieved is not None and self._waiting <= MAX_WAITING:
            self._relieved.set()
            self._relieved = None

    async def _step(self, place: Place, payload: bytes, at: int) -> None:
        """Take one message for a place, whatever it is."""
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

    async def _admit(self, place: Place, token: Token) -> None:
        """Let somebody in, or go on with what their new token allows."""
        if token.version:
            self._modern = True
        if not place.name:
            place.name = check_name(hocuspocus.read_name(place.address))
        attempt = self.visitor.attempt(place.name, token.token)
        grant = await self.hub.door.admit(attempt)
        if place.room is not None:
            place.regrant(grant)
            return
        room = await self.hub.enter(place.name)
        if place.leaving is not None:
            return
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

    def _asks(self, place: Place) -> bool:
        """Whether what waits has the question what there is."""
        return any(payload[at : at + 2] == _STEP1 for payload, at in place.inbox or ())

    # What is said to the client, besides what rooms say.

    def _say(self, address: bytes, message: Message) -> None:
        if not self._muted:
            encoding = self._encodings.addressed(address)
            self._transport.write(encoding.join([encoding.encode(message)]))

    def _part(self, place: Place) -> None:
        """Let somebody go who wants to."""
        place.leave(goodbye=True)
        self.places.pop(place.address, None)
        self._say(place.address, Left("provider_initiated"))

    def _fail(self, place: Place, error: CollabError) -> None:
        """Answer an error at a place.

        Raises:
            ProtocolError: If the client speaks something else.
        """
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
            self._say(place.address, Refused())
        # Version 2 doesn't know the one, and version 4 would take the other for a
        # question of who one is.
        gone = inside and self._modern and not isinstance(error, AccessDenied)
        message = Left(error.reason) if gone else Denied(error.reason)
        self._say(place.address, message)

    def _expel(self, place: Place) -> None:
        """End a place, but not the connection: a token may bring it back."""
        place.lost = True
        if place.room is not None:
            place.forgotten = place.room.ledger.owed(place.session)
            place.leave(goodbye=False)
            place.session = self._seat(place.address)
            self._watch(place)

    def beat(self) -> bytes | None:
        """What to say as a sign of life.

        Version 4 has a message for it. Others are told of nobody's presence.
        """
        if any(place.room for place in self.places.values()):
            self._silence = 0
        else:
            self._silence += 1
            if self._silence >= PATIENCE:
                self._transport.refuse(NothingOpened())
                return None
        if self._modern:
            return PING
        for place in self.places.values():
            return wire.data(place.address) + yjs.KEEPALIVE
        return None

    # What the transport says.

    def filled(self) -> None:
        """Hear that the transport is full."""
        if self._drained is None:
            self._drained = asyncio.Event()
        for place in self.places.values():
            self._lag(place)

    def _lag(self, place: Place) -> None:
        if place.room is not None and place.session.behind is None:
            place.fall_behind()
            self._lagging.append(place)

    def drained(self) -> None:
        """Hear that the transport has room again."""
        self._release()
        self.hub.spawn(self._catch_up())

    def _release(self) -> None:
        """Let those go on who wait for the transport."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def _catch_up(self) -> None:
        while self._lagging and self._drained is None:
            place = self._lagging.pop(0)
            waiting = place.catch_up()
            if waiting is not None:
                await waiting
                if self._drained is not None:  # Others have filled it meanwhile.
                    self._lag(place)

    def mute(self) -> None:
        """Write nothing more."""
        self._muted = True
        for place in self.places.values():
            place.mute()
        self._release()  # It will not drain any more.

    def close(self, goodbye: bool) -> None:
        """Leave all rooms, each once it has taken what waits for it."""
        self._muted = self._closed = True
        for place in self.places.values():
            if place.inbox is None:
                place.leave(goodbye)
            else:
                place.leaving = goodbye
                place.mute()
        self._release()

    def receive_text(self, payload: bytes) -> None:
        """Take a text message: there is none."""
        raise ProtocolError("text message: all messages are binary")

    @property
    def peer(self) -> str:
        """Address and port of the client."""
        return self.visitor.peer

    def blame(self, error: CollabError) -> None:
        """Log, in one line, why the client is sent away."""
        names = [place.name for place in self.places.values() if place.room][:2]
        name = names[0] if len(names) == 1 else f"{len(self.places)} documents"
        blame(error, name, self.visitor.peer)


def connect(
    hub: Hub, name: str, encodings: Encodings, transport: Transport, visitor: Visitor
) -> Connection:
    """The connection for what ``document_name`` returned."""
    custom = "_pk" in visitor.query  # Every URL of y-partyserver has it.
    if hub.door.open:
        visitor = Visitor(visitor.peer)  # Nobody asks for more, so it isn't kept.
    if not name:
        return AddressedConnection(hub, encodings, transport, visitor)
    encoding = encodings.text if custom else encodings.yjs
    connection = NamedConnection(hub, name, encoding, transport, visitor)
    connection.channel.session.talks = custom
    return connection
