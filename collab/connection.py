"""One client, whatever carries its bytes.

The contract with a transport is ``receive``: it returns ``None`` when a message is done
with, or an awaitable when it must wait (for a room to be loaded, for a large update to
be parsed in turns). The transport reads nothing more until then: that is the flow
control, and there is no queue to bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote

from .auth import ANYBODY, Grant, Visitor
from .channel import Channel
from .dialects import hocuspocus, yjs
from .errors import (
    AccessDenied,
    BadName,
    CollabError,
    NothingOpened,
    NotText,
    ProtocolError,
    WrongDialect,
)
from .frames import CUSTOM
from .hub import Hub
from .limits import check_name
from .messages import Admitted, Denied, Refused, Token
from .quotas import Guest
from .session import Encoding, Session

logger = logging.getLogger("collab.connection")

DENIED_TIME = 1.0
"""Seconds between telling a client of y-websocket that it may not come in, and closing
it: those before 3.1 are back 100 ms later, for ever."""

HOCUSPOCUS_HINT = "Hocuspocus 2 and newer connect to /ws, without a name"


class Transport(Protocol):
    """What a connection asks of what carries its bytes."""

    guest: Guest
    """It, as the limits see it."""

    def write(self, encoded: Any) -> None:
        """Send what ``Encoding.join`` returned."""

    def probe(self) -> None:
        """Ask the other end for a sign of life, and give up soon if there is none."""

    def refuse(self, error: CollabError) -> None:
        """End the connection, with the code and the reason of an error."""


class Encodings(Protocol):
    """How messages look on a transport, in each dialect."""

    @property
    def yjs(self) -> Encoding:
        """As y-websocket has them."""

    @property
    def text(self) -> Encoding:
        """As y-partyserver has them."""

    def addressed(self, address: bytes) -> Encoding:
        """As Hocuspocus has them, for one of its addresses."""

    def numbered(self, channel: int) -> Encoding:
        """As our own clients have them, on one of their channels."""


class Connection(Protocol):
    """One client."""

    def open(self) -> Awaitable[None] | None:
        """Begin; an awaitable if that takes a while."""

    def receive(self, payload: bytes) -> Awaitable[None] | None:
        """Take what the client sent; an awaitable if that takes a while.

        Raises:
            CollabError: If the client must be disconnected, and with which code.
        """

    def receive_text(self, payload: bytes) -> None:
        """Take a text message.

        Raises:
            ProtocolError: If it is none that we know.
        """

    def beat(self) -> bytes | None:
        """What to say as a sign of life, that a client counts as a message."""

    def advise(self, after: float, window: float) -> bool:
        """Tell the client to move elsewhere: within a window, in so many seconds.

        ``False`` if its dialect has no word for that.
        """

    def filled(self) -> None:
        """Hear that the transport is full."""

    def drained(self) -> None:
        """Hear that the transport has room again."""

    def mute(self) -> None:
        """Write nothing more: the transport is gone, but its last messages are here."""

    def close(self, goodbye: bool) -> None:
        """Leave all rooms. ``goodbye`` says that the client meant to go."""

    def blame(self, error: CollabError) -> None:
        """Log, in one line, why the client is sent away."""

    @property
    def peer(self) -> str:
        """Address and port of the client."""


def document_name(path: str) -> str | None:
    """The document that a path names: ``/ws/a%20b/c`` names ``a b/c``.

    ``""`` if messages name it, at ``/ws``; ``None`` if the path is not ours.

    Raises:
        BadName: If what it names cannot be a document.
    """
    encoded = path.partition("?")[0]
    if encoded in ("/ws", "/ws/"):
        return ""
    if not encoded.startswith("/ws/"):
        return None
    try:
        return check_name(unquote(encoded[len("/ws/") :], errors="strict"))
    except UnicodeDecodeError:
        raise BadName("document name is not UTF-8") from None


class NamedConnection:
    """A client of one document, which its URL names: y-websocket, Hocuspocus 1."""

    __slots__ = (
        "_closed",
        "_ignored",
        "_silence",
        "channel",
        "denied",
        "hub",
        "visitor",
    )

    def __init__(
        self,
        hub: Hub,
        name: str,
        encoding: Encoding,
        transport: Transport,
        who: Visitor,
    ) -> None:
        self.hub = hub
        self.visitor = who
        session = Session(encoding, transport.write, transport.probe, transport.refuse)
        session.dismiss = partial(_send_away, session, transport)
        self.channel = Channel(hub, name, yjs.decode, session, transport.guest)
        self.denied: AccessDenied | None = None
        """Why it isn't let in, unless its first message has a token."""
        self._ignored = 0
        self._silence = 0
        """Heartbeats without being let in."""
        self._closed = False
        """Whether it has left, perhaps while it was being let in."""

    def open(self) -> Awaitable[None] | None:
        """Enter the room; an awaitable if that takes a while."""
        if not self.hub.door.open:
            return self._knock()
        room = self.hub.find(self.channel.name)
        if room is None:
            return self._enter(ANYBODY)
        self.channel.join(room, ANYBODY)
        return None

    async def _knock(self) -> None:
        attempt = self.visitor.attempt(self.channel.name)
        try:
            grant = await self.hub.reception.decide(attempt, self.channel.guest)
        except AccessDenied as exc:
            self.denied = exc
            if attempt.token:
                await self._deny(exc)
            return
        await self._enter(grant)

    async def _enter(self, grant: Grant) -> None:
        room = await self.hub.enter(self.channel.name, self.channel.guest)
        if not self._closed:
            self.channel.join(room, grant)

    async def _deny(self, error: AccessDenied) -> None:
        _explain(self.channel.session, error)
        self.channel.leave(goodbye=False)
        await asyncio.sleep(DENIED_TIME)
        raise error

    def receive(self, payload: bytes) -> Awaitable[None] | None:
        """Take what the client sent; an awaitable if that takes a while."""
        if payload[:2] == b"\x02\x00":
            return self._authenticate(payload)
        if self.denied is not None:
            self._ignored += len(payload)
            limit = self.hub.limits.unadmitted_size
            if payload[:2] == b"\x00\x00" or self._ignored > limit:
                return self._deny(self.denied)
            # It fetches its token: what it says meanwhile comes again.
            return None
        try:
            return self.channel.receive(payload, 0)
        except ProtocolError:
            if not self.channel.session.synced and _is_hocuspocus(payload):
                raise WrongDialect(HOCUSPOCUS_HINT) from None
            raise

    async def _authenticate(self, payload: bytes) -> None:
        message, _ = yjs.decode(payload)
        assert isinstance(message, Token)
        inside = self.channel.room is not None
        attempt = self.visitor.attempt(self.channel.name, message.token, inside)
        try:
            grant = await self.hub.reception.decide(attempt, self.channel.guest)
        except AccessDenied as exc:
            self.denied = exc
            await self._deny(exc)
        self.denied = None
        self.channel.session.talks = True  # Only Hocuspocus 1 says a token here.
        if self.channel.room is not None:
            self.channel.regrant(grant)
        else:
            self.channel.session.send(Admitted(reader=False))
            await self._enter(grant)

    def receive_text(self, payload: bytes) -> None:
        """Take a text message: what an application of y-partyserver says."""
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            raise NotText("text message is not UTF-8") from None
        if not text.startswith(CUSTOM):
            raise ProtocolError("text message: all messages are binary")
        if self.channel.room is not None:
            said = text[len(CUSTOM) :]
            self.hub.hear(self.channel.name, said, self.channel.grant)

    def beat(self) -> bytes | None:
        """What to say as a sign of life."""
        if self.denied is not None:
            self._silence += 1
            if self._silence >= self.hub.limits.patience:
                self.channel.session.dismiss(NothingOpened())
                return None
        return yjs.KEEPALIVE

    def advise(self, after: float, window: float) -> bool:
        """There is no word for it."""
        return False

    def filled(self) -> None:
        """Hear that the transport is full."""
        self.channel.fall_behind()

    def drained(self) -> None:
        """Hear that the transport has room again."""
        waiting = self.channel.catch_up()
        if waiting is not None:
            self.hub.spawn(waiting)

    def mute(self) -> None:
        """Write nothing more."""
        self.channel.mute()

    def close(self, goodbye: bool) -> None:
        """Leave the room."""
        self._closed = True
        self.channel.leave(goodbye)

    @property
    def peer(self) -> str:
        """Address and port of the client."""
        return self.visitor.peer

    def blame(self, error: CollabError) -> None:
        """Log, in one line, why the client is sent away."""
        blame(error, self.channel.name, self.visitor.peer)


def _explain(session: Session, error: AccessDenied) -> None:
    """Tell a client why it may not be here, or not any more.

    The first is for y-websocket, which writes it to the console; the second for
    Hocuspocus 1.
    """
    session.send(Refused(error.reason), Denied(error.reason))


def _send_away(session: Session, transport: Transport, error: CollabError) -> None:
    if isinstance(error, AccessDenied):
        _explain(session, error)
    transport.refuse(error)


def blame(error: CollabError, name: str, peer: str) -> None:
    """Log, in one line, why a client is sent away from a document."""
    logger.warning(
        "%r: closing %s with %d %s (%s)",
        name,
        peer,
        error.close_code,
        error.reason,
        error,
    )


def _is_hocuspocus(payload: bytes) -> bool:
    """Whether something is a message with an address."""
    try:
        address, at = hocuspocus.read_address(payload)
        check_name(hocuspocus.read_name(address))
        hocuspocus.decode(payload, at)
    except ProtocolError:
        return False
    return True
