"""The one writer of the log in this process: group commit, retry, acknowledgement.

All rooms hand in what is unsaved; a thread of its own commits it in one transaction,
and then each room is told how much the log has. Nothing leaves ``Room.unsaved``
before, so a failure loses nothing: the same updates are written again, for ever.
(Twice is harmless: merging is idempotent.)
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from .errors import CollabError, DatabaseUnreachable
from .room import Room
from .store import Append, Store

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

RETRY_DELAYS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts to write what could not be written; the last one repeats."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What the log gained of one room."""

    room: Room
    head: int
    count: int
    size: int


class Journal:
    """Writes the unsaved updates of rooms.

    ``on_saved`` is called on the event loop after each commit, for each room.
    """

    def __init__(self, store: Store, on_saved: Callable[[Saved], object]) -> None:
        self.store = store
        self.on_saved = on_saved
        self.dirty: dict[Room, None] = {}
        self.failures: dict[Room, int] = {}
        """How often in a row the updates of a room could not be written."""
        self.healthy = True
        """Whether the last attempt wrote anything: one bad document is no outage."""
        self.busy = False
        self._started = 0.0
        self._interval = INTERVAL
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._written = asyncio.Event()
        self._batches: SimpleQueue[Sequence[tuple[Room, Append]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._work, name="collab-journal", daemon=True
        )
        self._thread.start()

    def write(self, room: Room) -> None:
        """Hand in what a room has unsaved. Returns at once."""
        if room in self.failures:
            return  # It is tried again when its time comes.
        self.dirty[room] = None
        self._idle.clear()
        if not self.busy and self._timer is None:
            delay = self._started + self._interval - self._loop.time()
            # Even an idle journal waits for the end of the tick: others may write.
            self._timer = self._loop.call_later(max(0.0, delay), self._commit)

    def late(self, now: float) -> bool:
        """Whether a commit is due for longer than it should take."""
        return now - self._started > 0.1

    async def flush(self) -> None:
        """Wait until all that was handed in is in the log, however long it takes."""
        await self._idle.wait()

    async def flush_room(self, room: Room) -> None:
        """Wait until a room has nothing unsaved. Others may go on writing."""
        while room.unsaved:
            await self._written.wait()

    async def close(self) -> None:
        """Stop the thread. What could not be written by then is not in the log."""
        if self._timer is not None:
            self._timer.cancel()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)

    def _commit(self) -> None:
        self._timer = None
        if not self.dirty:
            return
        batch = [
            (room, Append(room.name, room.unsaved[:BATCH]))
            for room in self.dirty
            if room.unsaved
        ]
        self.dirty.clear()
        if not batch:
            self._settle()
            return
        now = self._loop.time()
        count = sum([len(append.updates) for _, append in batch])
        # A clock of milliseconds, as uvloop's is, may not have moved since last time.
        rate = count / max(now - self._started, INTERVAL)
        self._interval = min(MAX_INTERVAL, max(1.0, rate / BUSY) * INTERVAL)
        self.busy = True
        self._started = now
        self._batches.put(batch)

    def _work(self) -> None:
        """The writer thread."""
        while (batch := self._batches.get()) is not None:
            heads = self._append([append for _, append in batch])
            try:
                self._loop.call_soon_threadsafe(self._done, batch, heads)
            except RuntimeError:  # The loop is closed: nobody is left to tell.
                return

    def _append(self, batch: Sequence[Append]) -> list[int | CollabError]:
        """Write documents together, or each alone so that a bad one stops nobody else.

        Whatever happens, the thread goes on, and nothing is taken for written.
        """
        try:
            return list(self.store.append(batch))
        except DatabaseUnreachable as exc:
            return [exc] * len(batch)  # Trying each alone would only take longer.
        except CollabError as exc:
            failure = exc
        except Exception as exc:
            logger.exception("unexpected error of the store")
            failure = CollabError(repr(exc))
        if len(batch) == 1:
            return [failure]
        return [head for append in batch for head in self._append([append])]

    def _done(
        self,
        batch: Sequence[tuple[Room, Append]],
        heads: Sequence[int | CollabError],
    ) -> None:
        self.busy = False
        self.healthy = any(isinstance(head, int) for head in heads)
        for (room, append), head in zip(batch, heads, strict=True):
            if isinstance(head, CollabError):
                self._retry(room, head)
                continue
            if self.failures.pop(room, 0):
                logger.info("%s: saved again", room.name)
            count = len(append.updates)
            size = room.saved(count)
            self.on_saved(Saved(room, head, count, size))
            if room.unsaved:
                self.dirty[room] = None
        self._written.set()
        self._written = asyncio.Event()
        if self.dirty:
            delay = self._started + self._interval - self._loop.time()
            self._timer = self._loop.call_later(max(0.0, delay), self._commit)
        else:
            self._settle()

    def _settle(self) -> None:
        if not self.failures and not self.dirty:
            self._idle.set()

    def _retry(self, room: Room, reason: CollabError) -> None:
        failures = self.failures.get(room, 0)
        delay = RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]
        if failures < len(RETRY_DELAYS):
            logger.error(
                "%s: cannot save (%s); %d edits stay in memory, trying again in %g s",
                room.name,
                reason,
                len(room.unsaved),
                delay,
            )
        self.failures[room] = failures + 1
        self._loop.call_later(delay, self._again, room)

    def _again(self, room: Room) -> None:
        if room in self.failures:
            self.dirty[room] = None
            if not self.busy and self._timer is None:
                self._commit()
