"""The one writer of the log in this process: group commit, retry, acknowledgement.

All rooms hand in what is unsaved; a thread of its own commits it in one transaction,
and then each room is told how much the log has. Nothing leaves ``Ledger.unsaved``
before, so a failure loses nothing: the same updates are written again, for ever.
(Twice is harmless: merging is idempotent.)

A document that cannot be written while others can is *ill*: it is tried on, alone and
by another thread, so that it holds up nobody. If nothing can be written, it is an
*outage*, and all of them wait.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

from .errors import CollabError, DatabaseUnreachable, Deadlock, DocumentGone
from .room import Room
from .store import Append, Appended, Store

logger = logging.getLogger("collab.journal")

INTERVAL = 0.004
"""Seconds between the starts of two commits. An idle journal commits at once; a busy
one gathers more into each, as a commit costs the same for one edit or a hundred."""

BUSY = 800
"""Edits a second above which the interval grows with their rate..."""

MAX_INTERVAL = 0.025
"""...up to so many seconds."""

BATCH = 2000
"""Updates of one document in one commit."""

ROOM_SIZE = 4 * 2**20
"""Bytes of one document in one commit; one more update may be in it."""

BATCH_SIZE = 4 * ROOM_SIZE
"""Bytes in one commit, after which no more documents are added."""

STALLED = 5.0
"""Seconds that a commit may take before we no longer claim that edits are saved."""

ALONE = 3
"""Documents in a row that cannot be written, after which it is not for them."""

DEADLOCKS = 5
"""Attempts at what a database ended because others were in the way: nobody's fault."""

RETRY_DELAYS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to write what could not be written; the last one repeats."""

Batch = Sequence[tuple[Room, Append]]
Outcome = Appended | CollabError


@dataclass(frozen=True, slots=True)
class Saved:
    """What the log gained of one room."""

    room: Room
    head: int
    count: int
    size: int


class Journal:
    """Writes the unsaved updates of rooms.

    ``on_saved`` is called on the event loop after each commit, for each room. It is
    for the hub to notice when another node has appended to the same log. ``on_gone`` is
    called for a room whose document was deleted.
    """

    def __init__(
        self,
        store: Store,
        on_saved: Callable[[Saved], object],
        on_gone: Callable[[Room], object],
    ) -> None:
        self.store = store
        self.on_saved = on_saved
        self.on_gone = on_gone
        self.dirty: dict[Room, None] = {}
        self.ill: dict[Room, int] = {}
        """How often in a row the updates of a room could not be written, while those of
        others could."""
        self.busy = False
        self._failed = 0
        """How often in a row nothing could be written."""
        self._started = 0.0
        self._trouble: float | None = None
        """Since when nothing is saved, if that has been said."""
        self._interval = INTERVAL
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._written = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writer = _Writer("collab-journal", store, self._loop, self._done)
        self._ward: _Writer | None = None

    def write(self, room: Room) -> None:
        """Hand in what a room has unsaved. Returns at once."""
        if room in self.ill:
            return  # It is tried again when its time comes.
        self.dirty[room] = None
        self._idle.clear()
        self._schedule()

    def late(self, now: float) -> bool:
        """Whether a commit is due for longer than it should take."""
        return self.outage or now - self._started > 0.1

    @property
    def outage(self) -> bool:
        """Whether nothing can be written at the moment."""
        return bool(self._failed)

    def healthy(self, now: float) -> bool:
        """Whether edits are being saved. One bad document is no outage."""
        return not self._failed and not (self.busy and now - self._started > STALLED)

    def complain(self, now: float) -> None:
        """Say, once, that a commit takes too long."""
        if self._trouble is None and self.busy and now - self._started > STALLED:
            self._trouble = self._started
            logger.error(
                "a commit has been taking longer than %g s; edits stay in memory",
                STALLED,
            )

    async def flush(self) -> None:
        """Wait until all that was handed in is in the log, however long it takes."""
        await self._idle.wait()

    async def flush_room(self, room: Room) -> None:
        """Wait until a room has nothing unsaved. Others may go on writing."""
        while room.ledger.unsaved:
            await self._written.wait()

    async def flush_up_to(self, room: Room, count: int) -> None:
        """Wait until so many updates of a room were saved, or there are none."""
        while room.ledger.saved < count and room.ledger.unsaved:
            await self._written.wait()

    async def close(self, patience: float) -> None:
        """Stop the threads. What could not be written by then is not in the log, and
        is not tried again.

        A thread that waits for the database for longer than some seconds is left to it.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for writer in (self._writer, self._ward):
            if writer is not None:
                await writer.close(patience)

    def _schedule(self) -> None:
        """Commit when it is time; even an idle journal waits for the end of the tick,
        as others may write."""
        if self.busy or self._timer is not None or self._closed:
            return
        interval = self._interval
        if self._failed:
            interval = RETRY_DELAYS[min(self._failed, len(RETRY_DELAYS)) - 1]
        delay = self._started + interval - self._loop.time()
        self._timer = self._loop.call_later(max(0.0, delay), self._commit)

    def _commit(self) -> None:
        self._timer = None
        batch: list[tuple[Room, Append]] = []
        size = count = 0
        for room in list(self.dirty):
            if size > BATCH_SIZE:
                break
            del self.dirty[room]
            if room.ledger.unsaved:
                append = _append_of(room)
                batch.append((room, append))
                count += len(append.updates)
                size += min(room.ledger.size, ROOM_SIZE)
        if not batch:
            self._recover("nothing is left to save")  # Its documents were deleted.
            self._settle()
            return
        now = self._loop.time()
        # A clock of milliseconds, as uvloop's is, may not have moved since last time.
        rate = count / max(now - self._started, INTERVAL)
        self._interval = min(MAX_INTERVAL, max(1.0, rate / BUSY) * INTERVAL)
        self.busy = True
        self._started = now
        self._writer.write(batch)

    def _done(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        self.busy = False
        reason = next((o for o in outcomes if isinstance(o, DatabaseUnreachable)), None)
        # First of all: who is told that something is saved asks whether it is over.
        if any(isinstance(outcome, Appended) for outcome in outcomes):
            self._recover("saved again")
            reason = None
        elif reason is None:
            self._recover("only some documents cannot be saved")
        for (room, append), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Appended):
                self._save(room, append, outcome)
            elif isinstance(outcome, DatabaseUnreachable):
                self.dirty[room] = None
            else:
                self._refuse(room, outcome)
        if reason is not None:
            self._fail(reason)
        self._go_on()

    def _save(self, room: Room, append: Append, appended: Appended) -> None:
        room.document_id = appended.document_id
        count = len(append.updates)
        size = room.saved(count, appended.head, appended.mixed)
        self.on_saved(Saved(room, appended.head, count, size))
        if room.ledger.unsaved:
            self.dirty[room] = None

    def _refuse(self, room: Room, reason: CollabError) -> None:
        """Go on without a room, for a while or for ever."""
        if isinstance(reason, DocumentGone):
            self.ill.pop(room, None)
            self.dirty.pop(room, None)
            self.on_gone(room)
            return
        failures = self.ill.get(room, 0)
        if not failures:
            logger.error(
                "%s: cannot save (%s); %d edits stay in memory, trying again",
                room.name,
                reason,
                len(room.ledger.unsaved),
            )
        self.ill[room] = failures + 1
        self.dirty.pop(room, None)
        delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
        self._loop.call_later(delay, self._treat, room)

    def _recover(self, how: str) -> None:
        if self._trouble is not None:
            logger.info("%s, after %.1f s", how, self._loop.time() - self._trouble)
        self._failed = 0
        self._trouble = None

    def _fail(self, reason: CollabError) -> None:
        if not self._failed:
            if self._trouble is None:
                self._trouble = self._started
            logger.error(
                "cannot save (%s); %d edits in %d documents stay in memory, trying"
                " again",
                reason,
                sum(len(room.ledger.unsaved) for room in self.dirty),
                len(self.dirty),
            )
        self._failed += 1

    def _treat(self, room: Room) -> None:
        """Try a room that is ill, alone."""
        if room not in self.ill or self._closed:
            return
        if self._ward is None:
            self._ward = _Writer("collab-ward", self.store, self._loop, self._treated)
        self._ward.write([(room, _append_of(room))])

    def _treated(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        [(room, append)] = batch
        [outcome] = outcomes
        if isinstance(outcome, Appended):
            logger.info("%s: saved again", room.name)
            del self.ill[room]
            self._save(room, append, outcome)
        else:
            self._refuse(room, outcome)
        self._go_on()

    def _go_on(self) -> None:
        """Tell who waits for rooms to be saved, and save what has come since."""
        self._written.set()
        self._written = asyncio.Event()
        if self.dirty:
            self._schedule()
        else:
            self._settle()

    def _settle(self) -> None:
        if not self.ill and not self.dirty and not self.busy:
            self._idle.set()


def _append_of(room: Room) -> Append:
    """What a room has unsaved, or the beginning of it: the same as the last time, and
    perhaps more, if that failed."""
    updates = room.ledger.unsaved[:BATCH]
    if room.ledger.size > ROOM_SIZE:
        size = 0
        for count, (update, _) in enumerate(updates):
            size += len(update)
            if size > ROOM_SIZE:
                updates = updates[: count + 1]
                break
    return Append(room.name, updates, room.document_id)


class _Writer:
    """A thread that writes batches, one after the other."""

    def __init__(
        self,
        name: str,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Batch, Sequence[Outcome]], None],
    ) -> None:
        self.store = store
        self._loop = loop
        self._tell = done
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def write(self, batch: Batch) -> None:
        self._batches.put(batch)

    async def close(self, patience: float) -> None:
        self._batches.put(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._ended.wait()

    def _work(self) -> None:
        with suppress(RuntimeError):  # The loop is closed: nobody is left to tell.
            while (batch := self._batches.get()) is not None:
                outcomes = self._append([append for _, append in batch])
                self._loop.call_soon_threadsafe(self._tell, batch, outcomes)
            self._loop.call_soon_threadsafe(self._ended.set)

    def _append(self, batch: Sequence[Append]) -> list[Outcome]:
        """Write documents together, or each alone so that a bad one stops nobody else.

        Whatever happens, the thread goes on, and nothing is taken for written.
        """
        failure = self._try(batch)
        if not isinstance(failure, CollabError):
            return list(failure)
        if isinstance(failure, DatabaseUnreachable) or len(batch) == 1:
            return [failure] * len(batch)  # Trying each would only take longer.
        outcomes: list[Outcome] = []
        for append in batch:
            if len(outcomes) == ALONE and not any(
                isinstance(outcome, Appended) for outcome in outcomes
            ):
                # It isn't they: something is wrong with all of them.
                failure = DatabaseUnreachable(str(outcomes[-1]))
            if isinstance(failure, DatabaseUnreachable):
                outcomes.append(failure)
                continue
            outcome = self._try([append])
            if isinstance(outcome, CollabError):
                outcomes.append(outcome)
                if isinstance(outcome, DatabaseUnreachable):
                    failure = outcome
            else:
                outcomes += outcome
        return outcomes

    def _try(self, batch: Sequence[Append]) -> list[Appended] | CollabError:
        failure: CollabError | None = None
        for _ in range(DEADLOCKS):
            try:
                return self.store.append(batch)
            except Deadlock as exc:
                failure = exc
            except CollabError as exc:
                return exc
            except Exception as exc:
                logger.exception("unexpected error of the store")
                return CollabError(repr(exc))
        assert failure is not None
        return failure
