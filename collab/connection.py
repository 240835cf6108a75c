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
from functools import partial
from types import ModuleType
from typing import Any, Protocol
from urllib.parse import unquote

from .errors import BadName, CollabError, DocumentBroken, ProtocolError
from .hub import Hub
from .messages import Message, SyncStep1, SyncStep2, Update
from .opening import SLICE, take_turns
from .room import Room, check_name
from .session import Encoding, Session
from .updates import LARGE, parse_steps

logger = logging.getLogger("collab.connection")


class Transport(Protocol):
    """What a connection asks of what carries its bytes."""

    def write(self, encoded: Any) -> None:
        """Send what ``Encoding.join`` returned."""

    def probe(self) -> None:
        """Ask the other end for a sign of life, and give up soon if there is none."""

    def refuse(self, error: CollabError) -> None:
        """End the connection, with the code and the reason of an error."""


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
        self.session = Session(
            encoding, transport.write, transport.probe, transport.refuse
        )

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
        if (
            len(payload) > LARGE
            or room.broken
            or room.busy
            or room.blocked
            or room.document.heavy
            or self.hub.overloaded
        ):
            return self._receive_later(payload)
        message, at = self.dialect.decode(payload)
        if type(message) is SyncStep1 and room.document.large:
            return self._receive_later(payload)
        self._take(room, message)
        # Honest clients send one: whoever sends thousands waits for turns.
        return None if at == len(payload) else self._receive_later(payload, at)

    async def _receive_later(self, payload: bytes, at: int = 0) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        while at < len(payload) or not payload:
            message, at = self.dialect.decode(payload, at)
            parsed = None
            if isinstance(message, Update | SyncStep2) and len(message.update) > LARGE:
                parsing = parse_steps(message.update, cuts={})
                parsed = await take_turns(parsing)
            room = self.hub.find(self.name) or await self.hub.enter(self.name)
            if self.room is not room:
                return  # It was closed meanwhile.
            if isinstance(message, SyncStep1) and room.document.large:
                await self._answer(room, message)
            elif isinstance(message, Update | SyncStep2) and (
                parsed is not None or room.document.heavy
            ):
                steps = room.receive_steps(message, self.session, parsed)
                await self.hub.occupy(room, steps)
                self._check_owed(room)
            else:
                self._take(room, message)
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SLICE

    def _take(self, room: Room, message: Message) -> None:
        room.receive(message, self.session, asyncio.get_running_loop().time())
        self._check_owed(room)

    def _check_owed(self, room: Room) -> None:
        if self.session.behind is not None:
            room.check_owed(self.session)

    async def _answer(self, room: Room, question: SyncStep1) -> None:
        """Send what the client lacks of a large document, encoded in turns.

        What it is to hear meanwhile builds upon that, so it is held back; there is no
        more of it than others say in the second that this takes.
        """
        session, state_vector = self.session, question.state_vector
        if session.behind is not None:
            self._take(room, question)  # It is answered when the transport has drained.
            return
        held: list[Any] = []
        write, hold = session.write, held.append
        session.write = hold
        try:
            if state_vector == b"\x00":
                while room.document.large and not room.welcome.ready(session.encoding):
                    await self.hub.prepare(room, session.encoding)
                    room = await self.hub.enter(self.name)
                answer = partial(self._take, room, question)
            else:
                steps = room.diff_steps(state_vector)
                diff = SyncStep2(await self.hub.occupy(room, steps))
                encoded = await self.hub.encode(session.encoding, diff)
                answer = partial(room.answer, session, state_vector, encoded)
        finally:
            muted = session.write is not hold
            if not muted:
                session.write = write
        if self.room is room:
            answer()
        for encoded in () if muted else held:
            write(encoded)

    def filled(self) -> None:
        """Hear that the transport is full."""
        if self.room is not None:
            self.room.fell_behind(self.session)

    def drained(self) -> None:
        """Hear that the transport has room again."""
        room = self.room
        if room is None:
            return
        if not (room.broken or room.busy or room.document.large):
            with suppress(DocumentBroken):
                room.caught_up(self.session)
                return
        self.hub.spawn(self._catch_up_later())

    async def _catch_up_later(self) -> None:
        room = await self.hub.enter(self.name)
        if self.room is room:
            await self.hub.occupy(room, room.catch_up_steps(self.session))

    def mute(self) -> None:
        """Write nothing more: the transport is gone, but its last messages are here."""
        self.session.write = _ignore
        self.session.probe = _probe_nobody
        self.session.dismiss = _ignore

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


def text_refused() -> ProtocolError:
    """What answers a text message."""
    return ProtocolError("text message: all messages are binary")
