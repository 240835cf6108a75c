"""When documents are compacted and tidied, so that none is slow to open or grows.

The work is done by another process; here is decided which document is worth it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from .compactor import Compactor
from .errors import CollabError
from .opening import InThread
from .room import Room
from .store import Stored

logger = logging.getLogger("collab.caretaker")

COMPACT_ROWS = 500
"""A tail of fewer rows than this is never worth a snapshot: it loads in 5 ms."""

COMPACT_SIZE = 256 * 1024
"""Bytes of tail that are worth a snapshot while edits go on, if it has no more."""

COMPACT_MANY = 20_000
"""A tail of so many rows takes 0.2 s to load, and isn't left to grow."""

QUIET = 5.0
"""Seconds without an edit after which a shorter tail is worth one, too: the next to
open the document shouldn't have to wait."""

REST = 30.0
"""Seconds between two snapshots of a document: each costs half a second of CPU."""

SWEEP_FIRST = 600.0
"""Seconds after the start at which documents are looked at that nobody has open..."""

SWEEP = 24 * 3600.0
"""...and from then on."""


@dataclass(slots=True)
class Tail:
    """How much of a document's log is not in its newest snapshot."""

    rows: int = 0
    size: int = 0
    snapshot_size: int = 0
    changed: float = 0.0
    compacted: float = -REST
    compacting: bool = False
    failed: bool = False
    """Whether the last snapshot could not be made."""

    @classmethod
    def of(cls, stored: Stored) -> Tail:
        """The tail of what was loaded."""
        tail = cls(len(stored.rows), sum(len(row.update) for row in stored.rows))
        if stored.snapshot is not None:
            tail.snapshot_size = len(stored.snapshot.state)
        return tail

    def grow(self, rows: int, size: int, now: float) -> None:
        """Count what the log has gained."""
        self.rows += rows
        self.size += size
        self.changed = now

    def long(self, now: float, unloading: bool = False) -> bool:
        """Whether a snapshot is worth while."""
        if self.rows < COMPACT_ROWS or self.compacting:
            return False
        if unloading:
            return True
        if self.rows >= COMPACT_MANY and not self.failed:
            return now - self.compacted > REST / 3
        if now - self.compacted < REST:
            return False
        if now - self.changed > QUIET:
            return self.size > self.snapshot_size / 8
        return self.size > max(self.snapshot_size, COMPACT_SIZE)


class Caretaker:
    """Has documents looked after, one at a time."""

    def __init__(
        self,
        compactor: Compactor,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        in_thread: InThread,
    ) -> None:
        self.compactor = compactor
        self.stopped = False
        self._spawn = spawn
        self._in_thread = in_thread
        self._alone = asyncio.Semaphore(1)
        self._worked = 0.0
        self._due: float | None = None
        """When the next sweep is due, or goes on."""
        self._sweep_after = ""

    def look(self, room: Room, tail: Tail, now: float, unloading: bool = False) -> None:
        """Have a snapshot made of a document, if it is worth while."""
        if tail.long(now, unloading):
            tail.compacting = True
            self._spawn(self._compact(room, tail))

    def tick(self, now: float) -> None:
        """Go on with the sweep, or let the process rest. To be called each second."""
        if self._due is None:
            self._due = now + SWEEP_FIRST
        if self._alone.locked():
            return
        if now > self._due:
            self._spawn(self._sweep())
        elif now - self._worked > REST:
            self.compactor.rest()

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self.stopped = True
        self.compactor.stop()

    async def _compact(self, room: Room, tail: Tail) -> None:
        async with self._alone:
            rows, size = tail.rows, tail.size
            try:
                tail.snapshot_size = await self._in_thread(
                    self.compactor.compact, room.name
                )
                tail.rows -= rows
                tail.size -= size
                tail.failed = False
            except CollabError as exc:
                tail.failed = True
                if not self.stopped:
                    logger.error(
                        "%s: cannot make a snapshot (%s); trying again later",
                        room.name,
                        exc,
                    )
            finally:
                tail.compacting = False
                tail.compacted = self._worked = asyncio.get_running_loop().time()

    async def _sweep(self) -> None:
        """Have a few documents tidied that nobody has open."""
        async with self._alone:
            following: str | None = None
            failures: list[str] = []
            try:
                following, failures = await self._in_thread(
                    self.compactor.sweep, self._sweep_after
                )
            except CollabError as exc:
                failures.append(str(exc))
            for failure in failures:
                if not self.stopped:
                    logger.error("%s; tidying it another time", failure)
            self._worked = asyncio.get_running_loop().time()
            self._sweep_after = following or ""
            if following is None:
                self._due = self._worked + SWEEP
