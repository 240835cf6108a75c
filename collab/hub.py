"""All rooms of a process: opened, flushed, kept in the log, compacted, unloaded.

The hub is where rooms meet the event loop. It has the one timer that everything
periodic hangs from, heartbeats of connections included.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .compaction import Compactor
from .document import Document
from .errors import CollabError, DocumentBroken, StoreError, Unavailable
from .journal import Journal, Saved
from .room import Limits, Room
from .store import Store, Stored

logger = logging.getLogger("collab.hub")

IDLE = 30.0
"""Seconds that a room stays in memory after its last session."""

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

SLICE = 0.005
"""Seconds that loading, or a long message, may take before others have their turn."""


class Beating(Protocol):
    """What the hub's timer does for connections."""

    def beat(self) -> None:
        """Give a sign of life; end it if the other side gave none since last time."""

    def check_progress(self, now: float) -> None:
        """End it if it is full and hasn't drained for too long."""


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


class Hub:
    """The rooms of a process. Use :meth:`open` and :meth:`close` once each."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self.store = store
        self.limits = limits
        self.rooms: dict[str, Room] = {}
        self.tails: dict[Room, Tail] = {}
        self.draining = False
        self.full: set[Beating] = set()
        """Connections whose transports are full."""
        self._wheel: list[set[Beating]] = [set() for _ in range(limits.heartbeat)]
        self._spoke = 0
        self._loading: dict[str, asyncio.Task[Room]] = {}
        self._healing: dict[Room, asyncio.Task[None]] = {}
        self._ready: dict[Room, None] = {}
        self._later: dict[Room, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._compacting = asyncio.Semaphore(1)
        self._readers = ThreadPoolExecutor(4, "collab-reader")
        self.compactor = Compactor(store.url)
        self._compacted = 0.0
        self._draining: asyncio.Task[None] | None = None
        self._relieved = asyncio.Event()
        self._relieved.set()

    async def open(self) -> None:
        """Open the store and start the journal and the timer.

        Raises:
            StoreError: If the database cannot be opened, or is too new for us.
        """
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._readers, self.store.open)
        # So that who opens the first document needn't wait for a connection.
        await self._loop.run_in_executor(self._readers, self.store.ping)
        self.journal = Journal(self.store, self._saved)
        self._ticking = self._loop.call_later(1.0, self._tick)

    async def close(self) -> None:
        """Save what is unsaved, then let go of everything."""
        self.draining = True
        self._ticking.cancel()
        for timer in self._later.values():
            timer.cancel()
        self._flush_ready()
        try:
            async with asyncio.timeout(10):
                await self.journal.flush()
        except TimeoutError:
            for room in self.rooms.values():
                count = len(room.unsaved)
                if count:
                    logger.error("%s: %d edits could not be saved", room.name, count)
        self.compactor.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.journal.close()
        await self._loop.run_in_executor(self._readers, self.store.close)
        self._readers.shutdown(wait=False)

    async def drain(self) -> None:
        """Refuse new connections, and save all edits that have arrived."""
        self.draining = True
        if self._draining is None:
            self._draining = self.spawn(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        self._flush_ready()
        try:
            async with asyncio.timeout(5):
                await self.journal.flush()
        except TimeoutError:
            logger.error("closing connections although edits are still unsaved")

    @property
    def ready(self) -> bool:
        """Whether documents can be opened and edits be saved."""
        return not self.draining and self.journal.healthy

    @property
    def overloaded(self) -> bool:
        """Whether more edits wait for the log than may be kept in memory."""
        return not self._relieved.is_set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that ends with the hub at the latest."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None and not isinstance(exc, CollabError):
            logger.error("unexpected error", exc_info=exc)

    # Rooms.

    def find(self, name: str) -> Room | None:
        """The room of a document, if it can be entered at once."""
        room = self.rooms.get(name)
        if room is None or room.broken or self.overloaded:
            return None
        return room

    async def enter(self, name: str) -> Room:
        """The room of a document, once it can be entered.

        Raises:
            StoreError: If its log cannot be read.
        """
        while True:
            await self._relieved.wait()
            room = self.rooms.get(name)
            if room is None:
                task = self._loading.get(name)
                if task is None:
                    task = self._loading[name] = self.spawn(self._load(name))
                room = await asyncio.shield(task)
            elif room.broken:
                healing = self._healing.get(room)
                if healing is None:
                    healing = self._healing[room] = self.spawn(self._heal(room))
                await asyncio.shield(healing)
            if not room.broken and self.rooms.get(name) is room:
                return room

    async def _load(self, name: str) -> Room:
        try:
            stored = await self._loop.run_in_executor(
                self._readers, self.store.load, name
            )
            document = await self._fold(name, stored)
            room = Room(name, document, self._wake, self.limits)
            room.empty_since = self._loop.time()
            self.rooms[name] = room
            tail = Tail()
            if stored.snapshot is not None:
                tail.snapshot_size = len(stored.snapshot.state)
            tail.rows = len(stored.rows)
            tail.size = sum(len(row.update) for row in stored.rows)
            self.tails[room] = tail
            return room
        except StoreError as exc:
            logger.error("%s: cannot load (%s)", name, exc)
            raise
        finally:
            del self._loading[name]

    async def _fold(self, name: str, stored: Stored) -> Document:
        """Make the document that a log describes, taking turns with others."""
        for damage in stored.damaged:
            logger.error("%s: %s; opening the rest", name, damage)
        poison: set[bytes] = set()
        while True:
            try:
                document = _restore(stored)
            except StoreError as exc:
                # All rows are kept: the document is what they say, without snapshots.
                logger.error("%s: %s; reading its whole log", name, exc)
                rows = await self._loop.run_in_executor(
                    self._readers, self.store.read, name, 0, stored.head
                )
                stored = replace(stored, snapshot=None, rows=rows)
                continue
            for update in poison:
                document.drop(update)
            until = self._loop.time() + SLICE
            for row in stored.rows:
                if row.update in poison:
                    continue
                try:
                    document.apply(row.update)
                except DocumentBroken:
                    document.culprit = row.update
                except CollabError as exc:
                    _report(name, row.position, exc)
                if document.culprit is not None:
                    # What it has done to the rest, nobody knows. Again, without it.
                    poison.add(document.culprit)
                    _report(name, row.position, DocumentBroken("pycrdt fails at it"))
                    break
                if self._loop.time() > until:
                    await asyncio.sleep(0)
                    until = self._loop.time() + SLICE
            else:
                return document

    async def _heal(self, room: Room) -> None:
        """Make a broken room's document anew from its log."""
        try:
            logger.error("%s: pycrdt failed; rebuilding from the log", room.name)
            while True:
                await self.journal.flush_room(room)
                stored = await self._loop.run_in_executor(
                    self._readers, self.store.load, room.name
                )
                document = await self._fold(room.name, stored)
                if not room.unsaved:
                    room.rebuilt(document)
                    return
        finally:
            del self._healing[room]

    def _wake(self, room: Room, delay: float) -> None:
        if delay > 0:
            if room not in self._later:
                self._later[room] = self._loop.call_later(delay, self._flush_one, room)
            return
        if not self._ready:
            self._loop.call_soon(self._flush_ready)
        self._ready[room] = None

    def _flush_one(self, room: Room) -> None:
        del self._later[room]
        room.flush(self._loop.time())

    def _flush_ready(self) -> None:
        ready, self._ready = self._ready, {}
        now = self._loop.time()
        for room in ready:
            before = len(room.unsaved)
            room.flush(now)
            if before:
                self.journal.write(room)
        if self.journal.late(now) and not self.overloaded:
            size = sum([room.unsaved_size for room in self.journal.dirty])
            size += sum([room.unsaved_size for room in self.journal.failures])
            if size > self.limits.unsaved_size:
                logger.error("%d bytes of edits are unsaved; no longer reading", size)
                self._relieved.clear()

    def _saved(self, saved: Saved) -> None:
        tail = self.tails.get(saved.room)
        if tail is not None:
            tail.rows += saved.count
            tail.size += saved.size
            tail.changed = self._loop.time()
        if self.overloaded and self.journal.healthy:
            self._relieved.set()

    # Compaction.

    def _compact_if_long(self, room: Room, unloading: bool = False) -> None:
        tail = self.tails[room]
        if tail.long(self._loop.time(), unloading) and not self.store.in_memory:
            tail.compacting = True
            self.spawn(self._compact(room, tail))

    async def _compact(self, room: Room, tail: Tail) -> None:
        """Have a snapshot written by a process of its own: it takes a while."""
        async with self._compacting:
            rows, size = tail.rows, tail.size
            try:
                tail.snapshot_size = await self._loop.run_in_executor(
                    self._readers, self.compactor.compact, room.name
                )
                tail.rows -= rows
                tail.size -= size
                tail.failed = False
            except CollabError as exc:
                tail.failed = True
                if not self.draining:
                    logger.error(
                        "%s: cannot make a snapshot (%s); trying again later",
                        room.name,
                        exc,
                    )
            finally:
                tail.compacting = False
                tail.compacted = self._loop.time()
                self._compacted = tail.compacted

    # The timer.

    def add(self, connection: Beating) -> int:
        """Give a connection its heartbeat; return what :meth:`remove` wants."""
        wheel = self._wheel
        spoke = min(range(len(wheel)), key=lambda spoke: len(wheel[spoke]))
        wheel[spoke].add(connection)
        return spoke

    def remove(self, connection: Beating, spoke: int) -> None:
        """Forget a connection."""
        self._wheel[spoke].discard(connection)
        self.full.discard(connection)

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(1.0, self._tick)
        now = self._loop.time()
        self._spoke = (self._spoke + 1) % len(self._wheel)
        for connection in list(self._wheel[self._spoke]):
            connection.beat()
        for connection in list(self.full):
            connection.check_progress(now)
        if not self._compacting.locked() and now - self._compacted > REST:
            self.compactor.rest()
        for room in list(self.rooms.values()):
            room.expire(now)
            self._compact_if_long(room)
            if room.empty_since is not None and now - room.empty_since > IDLE:
                self._unload(room)

    def _unload(self, room: Room) -> None:
        if room.unsaved or room in self._healing or room in self.journal.failures:
            return
        self._compact_if_long(room, unloading=True)
        del self.rooms[room.name]
        del self.tails[room]
        timer = self._later.pop(room, None)
        if timer is not None:
            timer.cancel()

    def check(self) -> None:
        """Complain if new connections are unwelcome.

        Raises:
            Unavailable: If the server is draining, or cannot save.
        """
        if self.draining:
            raise Unavailable("draining")
        if not self.journal.healthy:
            raise Unavailable("edits cannot be saved")


def _restore(stored: Stored) -> Document:
    """The document of a snapshot.

    Raises:
        StoreError: If it cannot be read.
    """
    if stored.snapshot is None:
        return Document()
    try:
        return Document.restore(stored.snapshot.state, stored.snapshot.index)
    except CollabError as exc:
        position = stored.snapshot.position
        raise StoreError(f"snapshot {position} cannot be read") from exc


def _report(name: str, position: int, exc: CollabError) -> None:
    logger.error("%s: cannot read row %d (%s); opening the rest", name, position, exc)
