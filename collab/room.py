"""The room of a document and the sessions in it: what everything else is there for.

A room does no I/O. It is told what clients say and what the time is; it calls
``Session.write`` to speak and ``Room.wake`` to ask for :meth:`Room.flush`. What it
produces between two flushes is encoded once per encoding and leaves as one write per
session.

An edit that passed the gate is in the document and with the peers at once. It waits in
its ledger until the journal has it in the log and calls :meth:`Room.saved`; only then
its author hears it back, and that is the acknowledgement.

A session whose transport is full is *behind*: it is written nothing until the
transport drained, and then one diff from where it fell behind.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from . import wire
from .contents import finish
from .document import EMPTY, LARGE_STATE, Document, Outcome
from .errors import CollabError, DocumentBroken, QuotaExceeded
from .fanout import listeners, tell_updates
from .ledger import Ledger
from .limits import Limits
from .messages import (
    Admitted,
    Checkpoint,
    Message,
    Presence,
    QueryPresence,
    Refused,
    Saved,
    SyncStep1,
    SyncStep2,
    Update,
)
from .people import People
from .recent import Recent
from .session import Author, Encoding, Session
from .updates import Parsed
from .welcome import Welcome

T = TypeVar("T")

PRESENCE_INTERVAL = 0.04
"""Seconds between two broadcasts of presence: 25 a second look continuous."""

CROWD = 50
"""Sessions above which presence is broadcast less often, in proportion: everybody tells
everybody, and in a crowd nobody follows each step of each cursor."""

MAX_MARKS = 64
"""Checkpoints of one session that wait to be confirmed; y-sweet says one every 2 s."""


class Room:
    """One document and the sessions in it."""

    def __init__(
        self,
        name: str,
        document: Document,
        wake: Callable[[Room, float], object],
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.wake = wake
        """Asks for a call of :meth:`flush` after some seconds; 0 is this tick."""
        self.limits = limits or Limits()
        self.document = document.within(self.limits)
        self.sessions: dict[Encoding, set[Session]] = {}
        self.people = People(self.limits)
        self.broken = False
        """Whether the document must be rebuilt from the log before anything else."""
        self.busy = False
        """Whether it is at something that has pauses. What is said to it has to wait
        for the end: it would be in the middle of a large update."""

        self.fresh: list[tuple[bytes, Author | None]] = []
        """Updates since the last flush, and who need not be sent them."""
        self.lacking: list[Session] = []
        self.early: dict[bytes, Author] = {}
        """Who sent what is parked: to them it would look like an acknowledgement."""

        self.document_id: int | None = None
        """What the log knows the document by, once it does."""
        self.position = 0
        """Up to where the document holds what the log does."""
        self.head = 0
        """Up to where the log is known to go. Behind the position are some updates of
        this room, and others that it has yet to read."""
        self.shown = 0
        """Up to where all who aren't behind have been shown it."""
        self.epoch = ""
        """What positions are positions in; empty if that is not known yet."""
        self.recent: Recent | None = None
        """What was appended last, once somebody is here who may come back for it."""
        self.blocked = False
        """Whether nothing more is taken until something is saved."""
        self.ledger = Ledger()

        self.presence_due = 0.0
        self.empty_since: float | None = None

        self.welcome = Welcome()

    # Coming and going.

    def join(self, session: Session) -> None:
        """Seat a session: greet it, ask what it has, tell it who is here."""
        self.seat(session)
        greeting: list[Message] = []
        if session.mutual:
            greeting.append(Admitted(session.reader))
        else:
            greeting.append(SyncStep1(self.document.state_vector()))
        people = self.people.encode()
        if people is not None:
            greeting.append(Presence(people))
        session.send(*greeting)

    def seat(self, session: Session) -> None:
        """Seat a session, and say nothing."""
        self.sessions.setdefault(session.encoding, set()).add(session)
        self.people.join(session)
        self.empty_since = None
        if session.numbered and self.recent is None:
            self.recent = Recent(self.position)

    def leave(self, session: Session, now: float, goodbye: bool) -> None:
        """Unseat a session. Without a goodbye, its clients stay visible for a while."""
        seated = self.sessions.get(session.encoding)
        if seated is None or session not in seated:
            return
        seated.discard(session)
        if not seated:
            del self.sessions[session.encoding]
        session.lacking = False
        self.people.leave(session, now, goodbye)
        if self.people.changed:
            self._wake_presence(now)
        if not self.sessions:
            self.empty_since = now

    def __len__(self) -> int:
        return sum(map(len, self.sessions.values()))

    # What sessions say.

    def receive(self, message: Message, session: Session, now: float) -> None:
        """Take a message of a session.

        Raises:
            ProtocolError: If the message is malformed.
            UpdateRejected: If the gate refuses the update.
            QuotaExceeded: If it would be too much for the room.
            DocumentBroken: If pycrdt failed. :attr:`broken` is true from then on.

        Whatever is raised, nothing of the message was taken, and only its sender is
        concerned.
        """
        try:
            match message:
                case Update() | SyncStep2():
                    self._edit(message, session)
                case Presence(states):
                    self._announce(states, session, now)
                case SyncStep1(state_vector):
                    self._reply(state_vector, session)
                case QueryPresence():
                    if session.behind is None and (people := self.people.encode()):
                        session.send(Presence(people))
                case Checkpoint(mark):
                    self._mark(mark, session)
        except DocumentBroken:
            self.broken = True
            raise

    def receive_steps(
        self, message: Update | SyncStep2, session: Session, parsed: Parsed | None
    ) -> Generator[None, None, None]:
        """Take a large update of a session, with pauses. ``parsed`` may spare parsing.

        Until the last pause is over, nothing of it is logged, shown or acknowledged.
        The room takes nothing else meanwhile, so that no edit finds a document with
        half of it, and no diff has a part of what pycrdt may yet fail at. Flushing and
        acknowledging go on: they only tell what was taken before.

        Raises:
            UpdateRejected, QuotaExceeded, DocumentBroken: As :meth:`receive` does.
        """
        steps = self._edit_steps(message, session, parsed)
        yield from self._guard(steps)

    def _edit(self, message: Update | SyncStep2, session: Session) -> None:
        if session.reader or len(message.update) > self.limits.update_size:
            finish(self._edit_steps(message, session, None))
            return
        receipts, update = self._receive_answer(message, session), message.update
        self._note(update, session, receipts, *self.document.apply(update))

    def _edit_steps(
        self, message: Update | SyncStep2, session: Session, parsed: Parsed | None
    ) -> Generator[None, None, None]:
        update, limit = message.update, self.limits.update_size
        if len(update) > limit:
            raise QuotaExceeded("bytes in an update", limit)
        receipts = self._receive_answer(message, session)
        if not session.reader:
            yield from self._guard(self.document.fit_steps(update, parsed))
            done = yield from self.document.apply_steps(update, parsed)
            self._note(update, session, receipts, *done)
        elif not receipts:
            return
        elif isinstance(message, SyncStep2) and (
            yield from self.document.has_steps(update, parsed)
        ):
            # An answer without news is no attempt to write.
            self._note(update, session, receipts, Outcome.REPEATED, [])
        else:
            self._refuse(session, message, len(receipts))

    def _receive_answer(
        self, message: Update | SyncStep2, session: Session
    ) -> list[Message]:
        """See to what an answer to our question means; return what acknowledges it."""
        if isinstance(message, Update):
            return [Saved(message.update, message.sequence)]
        # It has read our greeting. What it says of others from now on may be an echo,
        # even if it is the first thing it says of anybody.
        session.introduced = session.answered = True
        return [Saved(message.update)] * session.answers()

    def _refuse(
        self, session: Session, message: Update | SyncStep2, count: int
    ) -> None:
        """Tell a session that it may only read: once, if it doesn't count on it."""
        session.missed += count
        if session.mutual or session.numbered or not session.told:
            session.told = True
            sequence = message.sequence if isinstance(message, Update) else 0
            self.deliver(session, [Refused(sequence=sequence)])

    def _mark(self, mark: bytes, session: Session) -> None:
        """Confirm a checkpoint once all that a session said before is saved.

        Until then it hears what was confirmed last, as it takes silence for the end of
        the connection. What it wrote offline comes with its answer to our question.
        """
        counts = session.answered and not session.told  # What was refused never is.
        if counts and not self.ledger.unsaved:
            session.mark = mark
            self.deliver(session, [Checkpoint(mark)])
            return
        if session.behind is None:
            session.send(Checkpoint(session.mark))
        if counts and session.marks < MAX_MARKS:  # It will come again.
            session.marks += 1
            self.ledger.promise(session, [Checkpoint(mark)])

    def _note(
        self,
        update: bytes,
        session: Session,
        receipts: list[Message],
        outcome: Outcome,
        visible: list[bytes],
    ) -> None:
        """See to what came of an update, which receipts are to acknowledge."""
        if self.document.culprit is not None:
            self.broken = True
        if outcome is not Outcome.REPEATED:
            kept = visible[0] if visible else update  # Only what is news.
            self.ledger.unsaved.append((kept, session.who))
            others = [self.early.pop(news, None) for news in visible[1:]]
            self.fresh += zip(visible, [session.owner, *others], strict=False)
            if self.early and not self.document.parked:
                self.early.clear()
            if outcome is Outcome.PARKED:
                self.early[update] = session.owner
                if not session.lacking:
                    session.lacking = True
                    self.lacking.append(session)
        # A repeat is saved when what it repeats is: perhaps not yet.
        if self.ledger.promise(session, receipts, len(update)):
            self.wake(self, 0.0)
        elif receipts:
            self.deliver(session, receipts)

    def learn_steps(self, update: bytes) -> Generator[None, None, None]:
        """Take what another node has appended to the log, with pauses.

        Raises:
            CollabError: As :meth:`receive`; the sender is not here.
        """
        done = yield from self._guard(self.document.apply_steps(update))
        if self.document.culprit is not None:
            self.broken = True
        _, visible = done
        self.fresh += [(news, self.early.pop(news, None)) for news in visible]
        if visible:
            self.wake(self, 0.0)

    def _announce(self, states: bytes, session: Session, now: float) -> None:
        owner = session.owner
        if session.introduced:
            self.people.apply(states, owner, session.amend)
        else:
            session.introduced = True
            rival = self.people.introduce(states, owner, now, session.amend)
            if rival is not None:
                rival.probe()
        if self.people.changed:
            self._wake_presence(now)

    def _wake_presence(self, now: float) -> None:
        self.wake(self, max(0.0, self.presence_due - now))

    def _reply(self, state_vector: bytes, session: Session) -> None:
        session.asks()
        if session.behind is not None:
            wire.read_state_vector(state_vector)  # Complain now, if at all.
            session.wanted = state_vector
            return
        session.synced = True
        if session.mutual:
            session.send(SyncStep1(self.document.state_vector()))
        if state_vector != b"\x00":
            diff = self.document.diff(state_vector)
            encoded = session.encoding.encode_state(SyncStep2(diff))
            session.write(session.encoding.join([encoded]))
            return
        unsaved = any(due.session is session for due in self.ledger.receipts)
        pieces = self.welcome.encode(self.document, session, self.fresh, unsaved)
        if len(pieces[0]) > LARGE_STATE:  # It isn't copied again, to be joined.
            session.write(session.encoding.join(pieces[:1]))
            del pieces[0]
        session.write(session.encoding.join(pieces))

    # What is large, with pauses: the room is busy meanwhile.

    def encode_steps(self) -> Generator[None, None, bytes]:
        """Encode the document for who joins, unless that was done a moment ago.

        Raises:
            DocumentBroken: As :meth:`receive`.
        """
        if self.welcome.state is None:
            self.welcome.begin((yield from self._guard(self.document.state_steps())))
        assert self.welcome.state is not None
        return self.welcome.state

    def diff_steps(self, state_vector: bytes) -> Generator[None, None, bytes]:
        """Encode what a session lacks that has a state vector: see :meth:`answer`.

        Raises:
            ProtocolError, DocumentBroken: As :meth:`receive`.
        """
        return (yield from self._guard(self.document.diff_steps(state_vector)))

    def answer(self, session: Session, state_vector: bytes, encoded: bytes) -> None:
        """Write a session the diff that it asked for, and was encoded meanwhile."""
        if session.behind is not None:
            session.wanted = state_vector
            return
        session.synced = True
        if session.mutual:
            session.send(SyncStep1(self.document.state_vector()))
        session.write(session.encoding.join([encoded]))

    def catch_up_steps(self, session: Session) -> Generator[None, None, None]:
        """Bring a session up to date, as :meth:`caught_up` does.

        Raises:
            DocumentBroken: As :meth:`receive`. The session is still behind then.
        """
        missed = self._missed(session)
        diff = None
        if missed is not None:
            diff = yield from self._guard(self.document.diff_steps(missed))
        self._bring_up(session, diff)

    def _guard(self, steps: Generator[None, None, T]) -> Generator[None, None, T]:
        try:
            return (yield from steps)
        except DocumentBroken:
            self.broken = True
            raise

    # What the room says.

    def flush(self, now: float) -> None:
        """Send what happened since the last time."""
        if self.fresh:
            self._flush_updates()
        for session in self.lacking:
            if session.lacking and session.behind is None:
                session.lacking = False
                session.send(SyncStep1(self.document.state_vector()))
        self.lacking.clear()
        if self.people.changed and now >= self.presence_due:
            self._flush_presence(now)
        if self.people.changed:
            self._wake_presence(now)

    def _flush_updates(self) -> None:
        fresh, self.fresh = self.fresh, []
        shown, self.shown = self.shown, self.position
        self.welcome.note(fresh)
        tell_updates(listeners(self.sessions), fresh, shown, bool(self.people.owners))

    def _flush_presence(self, now: float) -> None:
        self.presence_due = now + PRESENCE_INTERVAL * max(1.0, len(self) / CROWD)
        unmoved = self.people.unmoved()
        states = self.people.take_changes(now)
        if states is None:
            return  # What changed is large, and to be shown later.
        message = Presence(states)
        for encoding, sessions in listeners(self.sessions):
            encoded = encoding.join([encoding.encode(message)])
            for session in sessions:
                if session not in unmoved:
                    session.write(encoded)

    def expire(self, now: float) -> None:
        """Let go of those whose grace is over. To be called every second or so."""
        self.people.expire(now)
        self.welcome.expire()
        if self.people.changed:
            self._wake_presence(now)

    # What the log says.

    def saved(self, count: int, head: int = 0, mixed: bool = False) -> int:
        """Acknowledge the first ``count`` unsaved updates: the log has them now.

        Returns how many bytes they had. If the log ends at ``head``, and others haven't
        appended to it too, that is now the position. ``mixed`` says that something of
        others is between these.
        """
        self.head = max(self.head, head)
        if head - count == self.position and not mixed:
            self.reach(head, [update for update, _ in self.ledger.unsaved[:count]])
        size, told = self.ledger.settle(count)
        for session, receipts in told.items():
            if session.numbered:
                self._sum_up(session, receipts)
            self.deliver(session, receipts)
        return size

    def reach(self, position: int, updates: list[bytes]) -> None:
        """Note that the document holds what the log does, up to another position."""
        if self.recent is not None:
            if position != self.position + len(updates):  # Some are unknown.
                self.recent = Recent(position)
            else:
                self.recent.append(updates)
        self.position = position
        if not self.fresh:
            self.shown = position

    def _sum_up(self, session: Session, receipts: list[Message]) -> None:
        """Leave the last one of several acknowledgements, with the position."""
        last = receipts[-1]
        assert isinstance(last, Saved)
        shown = self.shown if session.behind is None else 0
        receipts[:] = [Saved(last.update, last.sequence, shown)]

    def deliver(self, session: Session, messages: list[Message]) -> None:
        """Send a session what it must not miss: later, if it is behind."""
        if session not in self.sessions.get(session.encoding, ()):
            return
        encode = session.encoding.encode
        encoded = [encode(message) for message in messages]
        if session.behind is None:
            session.write(session.encoding.join(encoded))
        else:
            session.owed += encoded
            session.owed_size += sum(map(len, encoded))

    def rebuilt(self, document: Document, news: bytes = EMPTY) -> None:
        """Go on with a document that was made from the log and what is unsaved anew.

        Others may have appended to the log, and what waited may be ready now: that is
        news to all who are here.
        """
        self.document = document.within(self.limits)
        self.broken = False
        self.recent = None if self.recent is None else Recent(self.position)
        self.welcome.forget()
        if news != EMPTY:
            self.fresh.append((news, None))
            self.wake(self, 0.0)
        if not self.fresh:
            self.shown = self.position
        for sessions in self.sessions.values():
            for session in sessions:
                session.behind_version = -1
                if session.behind is None:
                    session.send(SyncStep1(document.state_vector()))

    def dismiss(self, error: CollabError) -> None:
        """Send everybody away, and forget what isn't saved: nobody was told it is."""
        for sessions in self.sessions.values():
            for session in sessions:
                session.missed = self.ledger.owed(session) - session.awaited
        self.ledger.clear()
        for sessions in list(self.sessions.values()):
            for session in list(sessions):
                session.dismiss(error)

    # Slow readers.

    def fell_behind(self, session: Session) -> None:
        """Write a session nothing more: its transport is full."""
        if session.behind is not None:
            return
        session.behind = self.document.state_vector()
        session.behind_version = self.document.version
        session.behind_presence = self.people.told
        # The document has what is still to be flushed, so that no diff would.
        for update, author in self.fresh:
            if author is not session.owner:
                # Not counted: it is nothing that the session has brought about.
                session.owed.append(session.encoding.encode(Update(update)))

    def caught_up(self, session: Session) -> None:
        """Bring a session up to date: its transport has drained.

        Raises:
            DocumentBroken: As :meth:`receive`. The session is still behind then.
        """
        missed = self._missed(session)
        try:
            diff = None if missed is None else self.document.diff(missed)
        except DocumentBroken:
            self.broken = True
            raise
        self._bring_up(session, diff)

    def _missed(self, session: Session) -> bytes | None:
        """From where on a session that is behind lacks something, if it does."""
        if session.behind is None or session.wanted is not None:
            return session.wanted
        # Who hasn't asked for the document yet would take a SyncStep2 for it.
        if session.synced and session.behind_version != self.document.version:
            return session.behind
        return None

    def _bring_up(self, session: Session, diff: bytes | None) -> None:
        if session.behind is None:
            return
        encoding = session.encoding
        pieces = session.take_owed()
        if session.mutual and session.wanted is not None:
            question = SyncStep1(self.document.state_vector())
            pieces.append(encoding.encode(question))
        session.behind = session.wanted = None
        if diff is not None:
            # As an Update it could be, byte for byte, one of the session's own that
            # isn't saved yet, and look like its acknowledgement.
            session.synced = True
            # Compressing what is large, for one session alone, would take too long.
            encode = (
                encoding.encode if len(diff) > LARGE_STATE else encoding.encode_state
            )
            pieces.append(encode(SyncStep2(diff, self.position)))
        if session.lacking:
            session.lacking = False
            question = SyncStep1(self.document.state_vector())
            pieces.append(encoding.encode(question))
        people = self.people.encode(session.behind_presence, but=session.shared)
        if people is not None and session.behind_presence < self.people.version:
            pieces.append(encoding.encode(Presence(people)))
        if pieces:
            session.write(encoding.join(pieces))
