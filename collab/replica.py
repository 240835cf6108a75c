"""A client's copy of a document: what the server doesn't have of it, and who is here.

The shell says what :meth:`Replica.open` and :meth:`Replica.take` return, on a channel
of its own, and gives :meth:`Replica.receive` what it is answered. Reference:
``docs/protocol.md``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pycrdt import Doc, TransactionEvent

from . import wire
from .document import EMPTY, is_failure
from .errors import DocumentBroken, ProtocolError, QuotaExceeded, UpdateRejected
from .messages import (
    Admitted,
    Message,
    Open,
    Opened,
    Piece,
    Presence,
    Refused,
    Saved,
    Synced,
    SyncStep1,
    Update,
)
from .presence import MAX_STATE
from .splitting import split
from .updates import ACCEPTED, cut, parse

ORIGIN = "collab.client"
"""The origin of the transactions in which edits of others are applied."""

LARGE = 256 * 1024
"""Bytes of an edit from which on it is sent in pieces."""

MAX_UNSAVED = 16 * 1024 * 1024
"""Bytes of edits that are kept until they are saved. Beyond that they are forgotten one
by one, and the document is asked for all that the server lacks."""

OVERHEAD = 200
"""Bytes of memory that an edit takes, besides its own."""


class Busy(Exception):
    """Raised when the application is in the middle of a transaction."""


class Others:
    """Who is here: the states of clients, with one's own.

    The server knows the clocks of others, and what it says last is what counts.
    """

    def __init__(self, client: int) -> None:
        self.client = client
        self.clock = 0
        self.states: dict[int, dict[str, Any]] = {}
        self.named: set[int] | None = None
        """Who was named since it was begun to name all who are here."""

    def announce(self, state: Mapping[str, Any] | None) -> Presence:
        """Have a state of one's own, or none; return what to say.

        Raises:
            ValueError: If it isn't JSON.
            QuotaExceeded: If it is too large.
        """
        spelled = json.dumps(
            None if state is None else dict(state), allow_nan=False, ensure_ascii=False
        ).encode()
        if len(spelled) > MAX_STATE:
            raise QuotaExceeded("bytes of presence", MAX_STATE)
        if state is None:
            self.states.pop(self.client, None)
        else:
            self.states[self.client] = json.loads(spelled)
        self.clock += 1
        entry = wire.uint(self.client) + wire.uint(self.clock) + wire.data(spelled)
        return Presence(wire.uint(1) + entry)

    def renew(self) -> Presence | None:
        """What to say so that one isn't forgotten; ``None`` if one isn't here."""
        state = self.states.get(self.client)
        return None if state is None else self.announce(state)

    def apply(self, states: bytes) -> Presence | None:
        """Take what the server says; return what to say if it is wrong about oneself.

        Raises:
            ProtocolError: If it is malformed. Nothing has changed then.
        """
        heard: dict[int, dict[str, Any] | None] = {}
        gone = False
        count, at = wire.read_uint(states, 0)
        for _ in range(count):
            client, at = wire.read_uint(states, at)
            number, at = wire.read_uint(states, at)
            spelled, at = wire.read_text(states, at)
            if client == self.client:
                gone = spelled == "null" and number >= self.clock
                self.clock = max(self.clock, number)
                continue
            try:
                state = json.loads(spelled)
            except (ValueError, RecursionError) as exc:
                raise ProtocolError("presence state is not JSON") from exc
            if state is not None and not isinstance(state, dict):
                raise ProtocolError("presence state is not an object")
            heard[client] = state
        if self.named is not None:
            self.named |= heard.keys()
        for client, state in heard.items():
            if state is None:
                self.states.pop(client, None)
            else:
                self.states[client] = state
        # An earlier connection of ours was announced as gone, maybe.
        return self.renew() if gone else None

    def begin(self) -> None:
        """Begin to hear of all who are here."""
        self.named = set()

    def settle(self) -> None:
        """Drop all others who were not named, if it was begun to name them."""
        if self.named is not None:
            here, self.named = self.named | {self.client}, None
            self.states = {c: state for c, state in self.states.items() if c in here}

    def forget(self) -> None:
        """Drop the others: nobody says any more whether they are here."""
        self.begin()
        self.settle()


@dataclass(slots=True, eq=False)
class Edit:
    """Something that the server may not have: ``None`` is all that it lacks."""

    serial: int
    update: bytes | None
    sequence: int = 0
    """The number under which it was sent on this channel."""


class Replica:
    """One document of a client. It observes its ``Doc``, until it is closed."""

    def __init__(self, name: str, doc: Doc[Any], wake: Callable[[], object]) -> None:
        self.name = name
        self.doc = doc
        self.wake = wake
        """Called when there is something to take."""
        self.epoch = ""
        self.position = 0
        """Up to where the document is here, in the log of that epoch."""
        self.writable = True
        self.opened = False
        self.synced = False
        self.size = 0
        self.received = 0
        self.refused: str | None = None
        """Why edits that are here were not taken; they are nowhere else."""
        self.others = Others(doc.client_id)
        self.edited = 0
        """How often the application has changed the document."""
        self.changed = 0
        """How often others have."""
        self.met = 0
        """How often it has been said who is here."""
        self.outbox: deque[Message] = deque()
        self._sent: deque[Edit] = deque()
        self._unsent: deque[Edit] = deque()
        self._kept = 0
        self._serial = 0
        self._sequence = 0
        self._vector = b"\x00"
        """What the server had when it was last asked."""
        self._missed = False
        """Whether something was refused on this channel, so that it is asked for."""
        self._applying = False
        self._subscription = doc.observe(self._note)
        if doc.get_state() != b"\x00":
            self._sum_up()

    def close(self) -> None:
        """Observe the document no more."""
        self.doc.unobserve(self._subscription)

    # What the application does.

    @property
    def serial(self) -> int:
        """The number of the last edit."""
        return self._serial

    @property
    def oldest(self) -> int | None:
        """The number of the oldest edit that is not saved."""
        for edits in (self._sent, self._unsent):
            if edits:
                return edits[0].serial
        return None

    def announce(self, state: Mapping[str, Any] | None) -> None:
        """Say who one is, or that one isn't there.

        Raises:
            ValueError, QuotaExceeded: As :meth:`Others.announce`.
        """
        self._say_presence(self.others.announce(state))
        self.met += 1

    def renew(self) -> None:
        """Say again who one is."""
        self._say_presence(self.others.renew())

    def _say_presence(self, presence: Presence | None) -> None:
        if presence is not None:
            for said in [m for m in self.outbox if isinstance(m, Presence)]:
                self.outbox.remove(said)  # The latest wins.
            self.outbox.append(presence)
            self.wake()

    def _note(self, event: TransactionEvent) -> None:
        # Nothing may be asked of the document here: its transaction isn't over.
        if not self._applying and event.update != EMPTY:
            self.edited += 1
            self._add(event.update)
            self.wake()

    def _add(self, update: bytes) -> None:
        self._serial += 1
        if self._kept + len(update) + OVERHEAD > MAX_UNSAVED:
            self._sum_up()
            return
        self._kept += len(update) + OVERHEAD
        self._unsent += [Edit(self._serial, piece) for piece in _pieces(update)]

    def _forget(self, edit: Edit) -> None:
        # What all that the server lacks was cut into wasn't counted.
        size = len(edit.update or b"") + OVERHEAD
        self._kept = max(0, self._kept - size)

    def _sum_up(self) -> None:
        """Have all that the server lacks sent, instead of one edit after the other."""
        serial = self.oldest
        self._sent.clear()
        self._unsent.clear()
        self._unsent.append(Edit(self._serial if serial is None else serial, None))
        self._kept = 0

    # What is said to the server.

    def open(self, token: str) -> Open:
        """Begin on another channel; return what to say first."""
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sequence = 0
        self.opened = self.synced = self._missed = False
        self.size = self.received = 0
        self.outbox.clear()
        self.renew()
        vector = self.doc.get_state()
        return Open(self.name, token, vector, self.epoch, self.position)

    def leave(self) -> None:
        """Be without a channel."""
        self.synced = False
        self.outbox.clear()
        self.others.forget()
        self.met += 1

    def take(self, size: int) -> list[Message]:
        """Take what is to be said now: of edits about so many bytes, at least one.

        Raises:
            DocumentBroken: If pycrdt failed.
        """
        messages: list[Message] = [*self.outbox]
        self.outbox.clear()
        while self._unsent and size > 0:
            edit = self._unsent[0]
            if edit.update is None:
                if not self.opened:
                    break  # It isn't known yet what the server has.
                self._unsent.popleft()
                lacking = self._encode(self._vector)
                if lacking != EMPTY:
                    pieces = [Edit(edit.serial, piece) for piece in _pieces(lacking)]
                    self._unsent.extendleft(reversed(pieces))
                continue
            self._sent.append(self._unsent.popleft())
            self._sequence += 1
            edit.sequence = self._sequence
            messages.append(Update(edit.update, sequence=edit.sequence))
            size -= len(edit.update)
        return messages

    def _encode(self, state_vector: bytes) -> bytes:
        wire.read_state_vector(state_vector)  # pycrdt would believe any length.
        try:
            return self.doc.get_update(state_vector)
        except BaseException as exc:
            if is_failure(exc):
                raise DocumentBroken("pycrdt failed to encode a document") from exc
            raise

    # What the server says.

    def receive(self, message: Message) -> None:
        """Take what the server says about the document.

        Raises:
            Busy: If the application is in a transaction. Nothing has changed.
            ProtocolError, UpdateRejected: If it is malformed.
            DocumentBroken: If pycrdt failed: the document must not be used any more.
            ExceptionGroup: What the observers of the application raised.
        """
        match message:
            case Opened():
                self._begin(message)
            case Piece(update):
                self.received += len(update)
                self._apply(update)
            case Update(update, position):
                self._apply(update)
                self._reach(position)
            case Synced(position):
                self.synced = True
                if self.others.named is not None:
                    self.others.settle()
                    self.met += 1
                self._reach(position)
            case Saved(_, sequence, position):
                while self._sent and self._sent[0].sequence <= sequence:
                    self._forget(self._sent.popleft())
                self._reach(position)
            case Refused(reason, sequence):
                self.refused = reason
                self._missed = True
                for edit in [e for e in self._sent if e.sequence == sequence]:
                    self._sent.remove(edit)
                    self._forget(edit)
            case Admitted(reader):
                self.writable = not reader
                if self.writable and not self._missed:
                    self._make_up()
            case SyncStep1(state_vector):
                # Among what it asks for is what it refused before.
                answer = self._encode(state_vector)
                self.refused = None
                self._add(answer)
            case Presence(states):
                self._say_presence(self.others.apply(states))
                self.met += 1
            case _:
                raise ProtocolError(f"no document is told {type(message).__name__}")

    def _begin(self, opened: Opened) -> None:
        self.opened = True
        self.others.begin()
        self.writable = not opened.reader
        self.size = opened.size
        if opened.epoch != self.epoch:
            self.epoch, self.position = opened.epoch, 0
        clocks = wire.read_state_vector(opened.state_vector)
        self._vector = opened.state_vector
        if self.writable and self._has_more(clocks):
            self._sum_up()
        if self.writable:
            self._make_up()

    def _make_up(self) -> None:
        """Have sent what was refused before."""
        # Deletions have no clocks, so it can't be seen from them whether it is there.
        if self.refused is not None:
            self.refused = None
            self._sum_up()

    def _has_more(self, clocks: dict[int, int]) -> bool:
        """Whether more is here than the server has, and than is on its way to it."""
        for edit in self._sent + self._unsent:
            if edit.update is None:
                return False
            try:
                ranges = parse(edit.update, ACCEPTED).ranges
            except UpdateRejected:
                continue  # The server will say so.
            for client, carried in ranges.items():
                known = clocks.get(client, 0)
                if carried[0] <= known:
                    clocks[client] = max(known, carried[1])
        here = wire.read_state_vector(self.doc.get_state())
        return any(clock > clocks.get(client, 0) for client, clock in here.items())

    def _reach(self, position: int) -> None:
        if self.synced:  # Before that, pieces are missing.
            self.position = max(self.position, position)

    def _apply(self, update: bytes) -> None:
        parse(update, ACCEPTED)  # pycrdt is not safe on what isn't honest.
        try:
            transaction = self.doc.transaction(ORIGIN)
        except RuntimeError as exc:
            raise Busy from exc
        self._applying = True
        try:
            with transaction:
                self.doc.apply_update(update)
        except ExceptionGroup:
            raise
        except BaseException as exc:
            if is_failure(exc):
                raise DocumentBroken(f"pycrdt failed at {len(update)} bytes") from exc
            raise
        finally:
            self._applying = False
            self.changed += update != EMPTY


def _pieces(update: bytes) -> Iterator[bytes]:
    """Cut what is large, so that it fits into frames and others have their turn."""
    if len(update) > LARGE:
        try:
            yield from split(update, cut(update), LARGE)
            return
        except UpdateRejected:
            pass  # The server will say so.
    yield update
