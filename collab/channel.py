"""A client's place in one document, whatever else its connection carries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

from .auth import ANYBODY, EXPIRED, Access, Grant
from .errors import AccessDenied, CollabError, DocumentBroken, ProtocolError
from .hub import Hub
from .identity import amend_by
from .messages import (
    Admitted,
    Message,
    Stateless,
    SyncStep1,
    SyncStep2,
    Token,
    TokenWanted,
    Unknown,
    Update,
)
from .opening import SLICE, take_turns
from .quotas import Guest
from .room import Room
from .session import Session
from .updates import LARGE, parse_steps

_FOR_OTHERS = {Stateless, Token, Unknown}

Decode: TypeAlias = Callable[[bytes, int], tuple[Message, int]]


class Channel:
    """A client's place in one document."""

    __slots__ = ("decode", "grant", "guest", "hub", "name", "room", "session")

    def __init__(
        self, hub: Hub, name: str, decode: Decode, session: Session, guest: Guest
    ) -> None:
        self.hub = hub
        self.name = name
        self.decode = decode
        self.session = session
        self.guest = guest
        self.grant = ANYBODY
        self.room: Room | None = None

    def join(self, room: Room, grant: Grant) -> None:
        """Take the place.

        Raises:
            TooMany: If there is none left.
        """
        self._sit(room, grant)
        room.join(self.session)

    def seat(self, room: Room, grant: Grant) -> None:
        """Take the place, and be told nothing.

        Raises:
            TooMany: If there is none left.
        """
        self._sit(room, grant)
        room.seat(self.session)

    def _sit(self, room: Room, grant: Grant) -> None:
        self.guest.sit(self.name, grant.user, len(room))
        self._note(grant)
        self.room = room

    def regrant(self, grant: Grant) -> None:
        """Go on with what somebody may do from now on.

        Raises:
            TooMany: If they are somebody else now, who has enough connections.
        """
        room = self.room
        assert room is not None
        self.guest.move(self.name, self.grant.user, grant.user)
        self._note(grant)
        session = self.session
        answer: list[Message] = [Admitted(session.reader)]
        if session.missed and not session.reader:
            # What was refused is not sent again unless we ask for it.
            session.awaits_more(session.missed)
            answer.append(SyncStep1(room.document.state_vector()))
        room.deliver(session, answer)
        self._check_owed()

    def _note(self, grant: Grant) -> None:
        self.hub.door.check(grant, self.name)  # It may have been revoked meanwhile.
        self.grant = grant
        self.session.who = grant.user
        self.session.reader = grant.access is Access.READ
        self.session.amend = amend_by(self.hub.presence_user, grant.user, grant.name)
        self.hub.expiry.keep(self, grant.expires_at, time.time())
        self.hub.revoking.enter(self)

    def remind(self, seconds: float) -> None:
        """Ask the client who it is, if it can be asked."""
        session = self.session
        if self.room is not None and (session.mutual or session.numbered):
            self.room.deliver(session, [TokenWanted(int(seconds))])

    def expire(self) -> None:
        """End the access of a client that didn't say again who it is."""
        self.send_away(AccessDenied(EXPIRED))

    def send_away(self, error: CollabError) -> None:
        """End the access of a client, and say why."""
        session = self.session
        session.dismiss(error)
        session.write = _ignore  # Its transport may take a moment to close.

    def receive(self, payload: bytes, at: int) -> Awaitable[None] | None:
        """Take what the client sent; an awaitable if that takes a while.

        Raises:
            CollabError: If the client must leave, and with which code.
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
            return self._receive_later(payload, at)
        message, end = self.decode(payload, at)
        if type(message) is SyncStep1 and room.document.large:
            return self._receive_later(payload, at)
        self._take(room, message)
        # Honest clients send one: whoever sends thousands waits for turns.
        return None if end == len(payload) else self._receive_later(payload, end)

    def take(self, message: Message) -> Awaitable[None] | None:
        """Take a message; an awaitable if that takes a while.

        Raises:
            CollabError: As :meth:`receive` does.
        """
        room = self.room
        assert room is not None
        large = isinstance(message, Update) and len(message.update) > LARGE
        if large or room.document.heavy or self.hub.find(self.name) is not room:
            return self._take_later(message)
        self._take(room, message)
        return None

    async def _receive_later(self, payload: bytes, at: int) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        while at < len(payload) or not payload:
            message, at = self.decode(payload, at)
            await self._take_later(message)
            delay = self.guest.pace.spend(1, 0, perf_counter())
            if delay or loop.time() > until:
                await asyncio.sleep(delay)
                until = loop.time() + SLICE

    async def _take_later(self, message: Message) -> None:
        parsed = None
        if isinstance(message, Update | SyncStep2) and len(message.update) > LARGE:
            parsed = await take_turns(parse_steps(message.update, cuts={}))
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
            self._check_owed()
        else:
            self._take(room, message)

    def _take(self, room: Room, message: Message) -> None:
        if type(message) in _FOR_OTHERS:
            self._take_aside(message)
            return
        session = self.session
        room.receive(message, session, asyncio.get_running_loop().time())
        if session.behind is not None:
            self._check_owed()

    def _take_aside(self, message: Message) -> None:
        """Take what isn't for the room."""
        match message:
            case Stateless(payload):
                self.session.talks = True
                self.hub.hear(self.name, payload, self.grant)
            case Token():
                raise ProtocolError("a token behind another message")

    def _check_owed(self) -> None:
        self.session.check_owed(self.hub.limits.owed_size)

    async def _answer(self, room: Room, question: SyncStep1) -> None:
        """Send what the client lacks of a large document, encoded in turns.

        What it is to hear meanwhile builds upon that, so it is held back; there is no
        more of it than others say in the second that this takes.
        """
        session, state_vector = self.session, question.state_vector
        session.asks()
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

    def fall_behind(self) -> None:
        """Write nothing more: the transport is full."""
        if self.room is not None:
            self.room.fell_behind(self.session)

    def catch_up(self) -> Coroutine[Any, Any, None] | None:
        """Write what was missed: the transport has room again."""
        room = self.room
        if room is None:
            return None
        if not (room.broken or room.busy or room.document.large):
            with suppress(DocumentBroken):
                room.caught_up(self.session)
                return None
        return self._catch_up_later()

    async def _catch_up_later(self) -> None:
        session = self.session
        try:
            room = await self.hub.enter(self.name)
            if self.room is room:
                await self.hub.occupy(room, room.catch_up_steps(session))
        except CollabError as exc:
            # It would hear nothing any more, and not notice.
            session.dismiss(exc)

    def mute(self) -> None:
        """Write nothing more: the transport is gone, but its last messages are here."""
        self.session.write = _ignore
        self.session.probe = _probe_nobody
        self.session.dismiss = _ignore

    def leave(self, goodbye: bool) -> None:
        """Leave the room. ``goodbye`` says that the client meant to go."""
        room, self.room = self.room, None
        self.hub.expiry.forget(self)
        self.hub.revoking.leave(self)
        if room is not None:
            now = asyncio.get_running_loop().time()
            room.leave(self.session, now, goodbye)
            self.guest.rise(self.name, self.grant.user)
        # The room may remember who sent what still waits, but not the transport.
        self.mute()


def _ignore(encoded: object) -> None:
    """Write to nobody."""


def _probe_nobody() -> None:
    """Ask nobody for a sign of life."""
