"""One client: its place in a room, whatever carries its bytes.

The contract with a transport is :meth:`Connection.receive`: it returns ``None`` when a
message is done with, or an awaitable when it must wait (for a room to be loaded, for a
large update to be parsed in turns). The transport reads nothing more until then: that
is the flow control, and there is no queue to bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import unquote

from .errors import BadName, CollabError, DocumentBroken, ProtocolError
from .hub import SLICE, Hub
from .messages import Message, SyncStep2, Update
from .room import Encoding, Room, Session, check_name
from .updates import Parsed, parse_steps

logger = logging.getLogger("collab.connection")

LARGE = 32 * 1024
"""Bytes of a message from which on it is parsed in turns with other work: ~8 ms."""


class Transport(Protocol):
    """What a connection asks of what carries its bytes."""

    def write(self, encoded: Any) -> None:
        """Send what ``Encoding.join`` returned."""

    def probe(self) -> None:
        """Ask the other end for a sign of life, and give up soon if there is none."""


def document_name(path: str) -> str | None:
    """The document that a path names: ``/ws/a%20b/c`` names ``a b/c``.

    ``None`` if the path is not below ``/ws/``.

    Raises:
        BadName: If what it names cannot be a document.
    """
    if not path.startswith("/ws/"):
        return None
    encoded = path[len("/ws/") :].partition("?")[0]
    try:
        return check_name(unquote(encoded, errors="strict"))
    except UnicodeDecodeError:
        raise BadName("document name is not UTF-8") from None


class Connection:
    """One client of one document."""

    __slots__ = ("dialect", "hub", "name", "peer", "room", "session")

    def __init__(
        self,
        hub: Hub,
        name: str,
        dialect: ModuleType,
        encoding: Encoding,
        transport: Transport,
        peer: str,
    ) -> None:
        self.hub = hub
        self.name = name
        self.dialect = dialect
        self.peer = peer
        self.room: Room | None = None
        self.session = Session(encoding, transport.write, transport.probe)

    def open(self) -> Awaitable[None] | None:
        """Enter the room; an awaitable if that takes a while."""
        room = self.hub.find(self.name)
        if room is None:
            return self._enter()
        self._join(room)
        return None

    async def _enter(self) -> None:
        self._join(await self.hub.enter(self.name))

    def _join(self, room: Room) -> None:
        self.room = room
        room.join(self.session)

    def receive(self, payload: bytes) -> Awaitable[None] | None:
        """Take what the client sent; an awaitable if that takes a while.

        Raises:
            CollabError: If the client must be disconnected, and with which code.
        """
        room = self.room
        assert room is not None
        if len(payload) > LARGE or room.broken or self.hub.overloaded:
            return self._receive_later(payload)
        decode = self.dialect.decode
        message, at = decode(payload)
        self._take(room, message, None)
        # Honest clients send one: whoever sends thousands waits for turns.
        return None if at == len(payload) else self._receive_later(payload, at)

    async def _receive_later(self, payload: bytes, at: int = 0) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        while at < len(payload) or not payload:
            message, at = self.dialect.decode(payload, at)
            parsed = None
            if isinstance(message, Update | SyncStep2):
                parsed = await _parse_in_turns(message.update)
            room = self.hub.find(self.name) or await self.hub.enter(self.name)
            if self.room is not room:
                return  # It was closed meanwhile.
            self._take(room, message, parsed)
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SLICE

    def _take(self, room: Room, message: Message, parsed: Parsed | None) -> None:
        now = asyncio.get_running_loop().time()
        room.receive(message, self.session, now, parsed)
        if self.session.behind is not None:
            room.check_owed(self.session)

    def filled(self) -> None:
        """Hear that the transport is full."""
        if self.room is not None:
            self.room.fell_behind(self.session)

    def drained(self) -> None:
        """Hear that the transport has room again."""
        room = self.room
        if room is None:
            return
        if not room.broken:
            with suppress(DocumentBroken):
                room.caught_up(self.session)
                return
        self.hub.spawn(self._catch_up_later())

    async def _catch_up_later(self) -> None:
        room = await self.hub.enter(self.name)
        if self.room is room:
            room.caught_up(self.session)

    def mute(self) -> None:
        """Write nothing more: the transport is gone, but its last messages are here."""
        self.session.write = _ignore
        self.session.probe = _probe_nobody

    def close(self, goodbye: bool) -> None:
        """Leave the room. ``goodbye`` says that the client meant to go."""
        room, self.room = self.room, None
        if room is not None:
            now = asyncio.get_running_loop().time()
            room.leave(self.session, now, goodbye)
        # The room may remember who sent what still waits, but not the transport.
        self.mute()

    def blame(self, error: CollabError) -> None:
        """Log, in one line, why the client is sent away."""
        logger.warning(
            "%r: closing %s with %d %s (%s)",
            self.name,
            self.peer,
            error.close_code,
            error.reason,
            error,
        )


def _ignore(encoded: object) -> None:
    """Write to nobody."""


def _probe_nobody() -> None:
    """Ask nobody for a sign of life."""


async def _parse_in_turns(update: bytes) -> Parsed:
    """Parse a large update without keeping others waiting for long."""
    steps = parse_steps(update)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            parsed = end.value
            assert isinstance(parsed, Parsed)
            return parsed
        await asyncio.sleep(0)


def text_refused() -> ProtocolError:
    """What answers a text message."""
    return ProtocolError("text message: all messages are binary")
