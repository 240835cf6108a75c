"""All rooms of a process: opened, flushed, kept in the log, compacted, unloaded.

The hub is where rooms meet the event loop. It has the one timer that everything
periodic hangs from, heartbeats of connections included.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from .auth import Authorize, Door, Grant
from .caretaker import Caretaker, Tail
from .catalog import Catalog
from .compactor import Compactor
from .errors import DocumentGone, StoreError, Unavailable
from .expiry import Expiry
from .following import Follower
from .history import FOREVER, Retention
from .journal import STALLED, Journal, Saved
from .limits import Limits
from .messages import Message, Update
from .notices import ask_for_tokens, broadcast
from .opening import Opener, take_turns
from .quotas import Guest
from .recalling import Recall
from .reception import Reception
from .revocations import Revocations
from .revoking import Revoking
from .room import Room
from .session import Encoding
from .store import Store
from .turns import Turns
from .wheel import Wheel
from .workers import Workers

logger = logging.getLogger("collab.hub")

T = TypeVar("T")

IDLE = 30.0
"""Seconds that a room stays in memory after its last session."""

POLL = 2.0
"""Seconds after which we look, at the next tick, what others did to the documents that
are open..."""

SAVE_TIME = 10.0
"""Seconds from when we are told to stop until we no longer try to save what is left."""

LET_GO = 1.0
"""Seconds for each thing after that which may wait for the database."""

POLLED = 1000
"""...or after which, in milliseconds, if there are so many as that."""

REACH_TIME = 1.0
"""Seconds that who comes back waits to be told less."""

OnStateless: TypeAlias = Callable[[str, str, Grant], object]
"""Hears, on the event loop, what a client says to the application: the document, the
text, and who it is."""


class Hub:
    """The rooms of a process. Use :meth:`open` and :meth:`close` once each."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        retention: Retention = FOREVER,
        migrate: bool = True,
        authorize: Authorize | None = None,
        on_stateless: OnStateless | None = None,
    ) -> None:
        self.store = store
        self._workers = Workers()
        self.spawn, self.in_thread = self._workers.spawn, self._workers.in_thread
        database = Revocations(store.database)
        self.revoking = Revoking(database, self.spawn, self.in_thread)
        self.door = Door(authorize, self.revoking.revoked)
        self.reception = Reception(limits, self.door)
        self._turns = Turns(limits.loads, limits.loads_per_connection)
        self.on_stateless = on_stateless
        self.catalog = Catalog(store.database)
        self.limits = limits
        self.migrate = migrate
        self.rooms: dict[str, Room] = {}
        self.tails: dict[Room, Tail] = {}
        self.presence_user = "off"
        self.draining = False
        self.wheel = Wheel(limits.heartbeat)
        self.expiry = Expiry()
        self._loading: dict[str, asyncio.Task[Room]] = {}
        self._healing: dict[Room, asyncio.Task[None]] = {}
        self._occupied: dict[Room, asyncio.Task[Any]] = {}
        self._preparing: dict[tuple[Room, Encoding], asyncio.Task[None]] = {}
        self._ready: dict[Room, None] = {}
        self._later: dict[Room, asyncio.TimerHandle] = {}
        compactor = Compactor(store.url, retention)
        self.caretaker = Caretaker(compactor, self.spawn, self.in_thread)
        self._opener = Opener(store, self.catalog, compactor, self.in_thread)
        self._recall = Recall(store, self.spawn, self.in_thread)
        rooms = self.find, self.occupy, self._rebuild
        self.follower = Follower(store, *rooms, self.spawn, self.in_thread)
        self._polling = False
        self._polled = 0.0
        self._lost = False
        """Whether the database did not answer when we last looked."""
        self._blocked: dict[Room, asyncio.Event] = {}
        self._draining: asyncio.Task[None] | None = None
        self._drained_since: float | None = None
        """When we were told to stop."""
        self.lost = 0
        """Edits that could not be saved in the end."""
        self._relieved = asyncio.Event()
        self._relieved.set()

    async def open(self) -> None:
        """Open the store and start the journal and the timer.

        Raises:
            StoreError: If the database cannot be opened, or is too new for us.
        """
        self._loop = asyncio.get_running_loop()
        for warning in await self.in_thread(self.store.open, self.migrate):
            logger.warning("%s", warning)
        self._opener.run = await self.in_thread(self.catalog.begin_run)
        # So that who opens the first document needn't wait for a connection.
        await self.in_thread(self.store.ping)
        await self.revoking.look()
        await self.door.prepare()
        self.journal = Journal(self.store, self._saved, self._evict)
        self._ticking = self._loop.call_later(1.0, self._tick)

    async def close(self) -> None:
        """Save what is unsaved, then let go of everything.

        A database that takes nothing, or does not answer at all, is tried only so long:
        then :attr:`lost` says how many edits it does not have.
        """
        until = self._begin_to_stop() + SAVE_TIME
        self._ticking.cancel()
        for timer in self._later.values():
            timer.cancel()
        self._flush_ready()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self.journal.flush()
        self.caretaker.stop()
        await self._workers.end_tasks()
        await self.door.close()
        await self.journal.close(LET_GO)
        for room in self.rooms.values():
            count = len(room.ledger.unsaved)
            if count:
                self.lost += count
                logger.error("%s: %d edits could not be saved", room.name, count)
        if self._opener.run is not None and not self.lost:
            # Else the next one is wary, and nothing else.
            await self._let_go(self._opener.run.end)
        await self._let_go(self.store.close)
        self._workers.end_threads()

    async def _let_go(self, work: Callable[[], object]) -> None:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(LET_GO):
                await self.in_thread(work)

    def _begin_to_stop(self) -> float:
        """Take nobody in from now on; return since when."""
        self.draining = True
        if self._drained_since is None:
            self._drained_since = self._loop.time()
        return self._drained_since

    async def drain(self) -> None:
        """Refuse new connections, tell others to go, and save what has arrived."""
        self._begin_to_stop()
        if self._draining is None:
            self.wheel.begin_to_leave()
            self._draining = self.spawn(self._drain())
        await asyncio.shield(self._draining)

    async def settle(self) -> None:
        """Save what has arrived since, if that doesn't take long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.journal.flush()

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
        return not self.draining and self.sound

    @property
    def sound(self) -> bool:
        """Whether the database answers, as far as we know."""
        now = self._loop.time()
        silent = self._polling and now - self._polled > STALLED
        return self.journal.healthy(now) and not self._lost and not silent

    @property
    def overloaded(self) -> bool:
        """Whether more edits wait for the log than may be kept in memory."""
        return not self._relieved.is_set()

    # Rooms.

    def find(self, name: str) -> Room | None:
        """The room of a document, if it can be entered at once."""
        room = self.rooms.get(name)
        if room is None or room.broken or room.busy or room.blocked or self.overloaded:
            return None
        return room

    async def enter(self, name: str, guest: Guest | None = None) -> Room:
        """The room of a document, once it can be entered, and it is somebody's turn.

        Raises:
            StoreError: If its log cannot be read.
            DocumentGone: If it was deleted.
        """
        while True:
            await self._relieved.wait()
            room = self.rooms.get(name)
            if room is None:
                room = await self._take_turn(name, guest)
            elif room.broken:
                await asyncio.shield(self._rebuild(room))
            elif room.busy:
                await asyncio.wait([self._occupied[room]])
            elif room.blocked:
                await self._blocked[room].wait()
            if self.find(name) is room:
                return room

    async def _take_turn(self, name: str, guest: Guest | None) -> Room:
        # Even if it is being loaded: who wants it first may have to wait for long.
        async with self._turns.turn(guest):
            room = self.rooms.get(name)
            if room is not None:
                return room
            task = self._loading.get(name)
            if task is None:
                task = self._loading[name] = self.spawn(self._load(name))
            return await asyncio.shield(task)

    async def _load(self, name: str) -> Room:
        try:
            stored, document = await self._opener.open(name)
            room = Room(name, document, self._wake, self.limits)
            room.document_id = stored.document_id
            room.position = room.shown = stored.head
            room.epoch = stored.epoch or ""
            room.empty_since = self._loop.time()
            self.rooms[name] = room
            self.tails[room] = Tail.of(stored)
            return room
        except StoreError as exc:
            logger.error("%s: cannot load (%s)", name, exc)
            raise
        finally:
            del self._loading[name]

    async def occupy(self, room: Room, steps: Generator[None, None, T]) -> T:
        """Have a room that can be entered do what has pauses; nobody enters meanwhile.

        It is done to its end, even if who waits for it is gone: a document with half
        of an update would be good for nothing.
        """
        room.busy = True
        task = self._occupied[room] = self.spawn(self._occupy(room, steps))
        result: T = await asyncio.shield(task)
        return result

    async def _occupy(self, room: Room, steps: Generator[None, None, T]) -> T:
        try:
            return await take_turns(steps)
        finally:
            room.busy = False
            del self._occupied[room]

    async def prepare(self, room: Room, encoding: Encoding) -> None:
        """Have a large document encoded, and compressed, for all who join."""
        key = room, encoding.base
        task = self._preparing.get(key)
        if task is None:
            task = self._preparing[key] = self.spawn(self._prepare(*key))
        await asyncio.shield(task)

    async def _prepare(self, room: Room, encoding: Encoding) -> None:
        room.welcome.pinned += 1
        try:
            if await self.enter(room.name) is not room:
                return
            state = await self.occupy(room, room.encode_steps())
            encoded = await self.encode(encoding, Update(state))
            room.welcome.keep(state, encoding, encoded)
        finally:
            room.welcome.pinned -= 1
            del self._preparing[room, encoding]

    async def encode(self, encoding: Encoding, message: Message) -> bytes:
        """Encode what is large in a thread: zlib works without the interpreter."""
        return await self.in_thread(encoding.encode_state, message)

    def _rebuild(
        self, room: Room, cause: str = "pycrdt failed", level: int = logging.ERROR
    ) -> asyncio.Task[None]:
        """Have a broken room's document made anew from its log."""
        healing = self._healing.get(room)
        if healing is None:
            logger.log(level, "%s: %s; rebuilding from the log", room.name, cause)
            healing = self._healing[room] = self.spawn(self._heal(room))
        return healing

    async def _heal(self, room: Room) -> None:
        try:
            while True:
                await self.journal.flush_room(room)
                stored, document = await self._opener.open(room.name)
                known = room.document_id
                if known is not None and stored.document_id != known:
                    self._evict(room)  # There is another one under its name.
                    return
                news = await take_turns(room.document.unseen_steps(document))
                if not room.ledger.unsaved:
                    room.position = stored.head
                    room.rebuilt(document, news)
                    return
        finally:
            del self._healing[room]

    # What an application says and hears.

    def hear(self, name: str, payload: str, grant: Grant) -> None:
        """Give the application what a client says to it."""
        if self.on_stateless is None:
            return
        try:
            self.on_stateless(name, payload, grant)
        except Exception:
            logger.exception("%s: on_stateless failed", name)

    def broadcast(self, name: str, payload: str) -> None:
        """Say something to all who have a document open here."""
        room = self.rooms.get(name)
        if room is not None:
            broadcast(room, payload)

    def request_tokens(self, name: str) -> None:
        """Have all who have a document open here say again who they are."""
        room = self.rooms.get(name)
        if room is not None:
            ask_for_tokens(room)

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
            before = len(room.ledger.unsaved)
            room.flush(now)
            if before:
                self.journal.write(room)
            if room in self.journal.ill and not room.blocked:
                self._block(room)
        if self.journal.late(now) and not self.overloaded:
            size = self._unsaved_size()
            if size > self.limits.unsaved_size:
                logger.error("%d bytes of edits are unsaved; no longer reading", size)
                self._relieved.clear()

    def _unsaved_size(self) -> int:
        """Bytes that wait for the log, of documents that aren't ill."""
        ill = self.journal.ill
        rooms = self.rooms.values()
        return sum([room.ledger.size for room in rooms if room not in ill])

    def _relieve(self) -> None:
        """Read again, if there is room for a while."""
        if self.overloaded and self._unsaved_size() <= self.limits.unsaved_size / 2:
            logger.info("reading again")
            self._relieved.set()

    def _block(self, room: Room) -> None:
        """Take nothing more of a document that alone cannot be saved, for too long."""
        limit = self.limits.unsaved_size
        size = room.ledger.size
        if size > limit / 4 or sum([i.ledger.size for i in self.journal.ill]) > limit:
            logger.error("%s: %d bytes are unsaved; no longer reading", room.name, size)
            room.blocked = True
            self._blocked[room] = asyncio.Event()

    def _unblock(self, room: Room) -> None:
        if room.blocked:
            room.blocked = False
            self._blocked.pop(room).set()

    def _evict(self, room: Room) -> None:
        """Send everybody away from a document that was deleted."""
        if self.rooms.get(room.name) is room:
            count = len(room)
            logger.warning("%s: it was deleted; closing %d clients", room.name, count)
            del self.rooms[room.name]
            del self.tails[room]
        timer = self._later.pop(room, None)
        if timer is not None:
            timer.cancel()
        self._unblock(room)
        room.dismiss(DocumentGone(room.name))
        self._relieve()

    def _saved(self, saved: Saved) -> None:
        room = saved.room
        self._unblock(room)
        if room.position != saved.head:
            self._catch_up(room)
        tail = self.tails.get(room)
        if tail is not None:
            tail.grow(saved.count, saved.size, self._loop.time())
        self._relieve()

    # What others do to the same documents.

    async def reach(self, room: Room, position: int) -> None:
        """Have a room know what was appended since a position, if that takes no time.

        It may have been on another server, or before the room was opened. Whoever asks
        gets more than would be needed if we don't find out.
        """
        task = None
        if max(position, room.head) > room.position:
            if not room.ledger.unsaved:
                self._catch_up(room)
            task = self.follower.under_way.get(room)
        elif not self._recall.reaches(room, position):
            task = self._recall.begin(room)
        if task is not None and self.sound:
            await asyncio.wait([task], timeout=REACH_TIME)

    def _catch_up(self, room: Room) -> None:
        if self.rooms.get(room.name) is room:
            self.follower.begin(room)

    async def _poll(self) -> None:
        """See whether open documents were deleted, or appended to by others.

        And whether the database answers at all: nobody may be writing.
        """
        try:
            rooms = self.rooms.values()
            ids = {r.document_id: r for r in rooms if r.document_id is not None}
            if not ids:
                await self.in_thread(self.store.ping)
            alive = await self.in_thread(self.catalog.alive, list(ids))
            for document_id, room in ids.items():
                if self.rooms.get(room.name) is not room:
                    continue
                if document_id not in alive:
                    self._evict(room)
                    continue
                head, room.epoch = alive[document_id]
                if room.broken:
                    self._rebuild(room)  # Nobody may speak who would have it done.
                if head > room.position and not room.ledger.unsaved:
                    self._catch_up(room)
            empty = [room for room in self.rooms.values() if room.document_id is None]
            found = await self.in_thread(
                self.catalog.find, [room.name for room in empty]
            )
            for room in empty:
                if room.name in found and room.document_id is None:
                    room.document_id = found[room.name]
            if self._lost:
                self._lost = False
                logger.info("the database answers again")
        except StoreError as exc:
            if not self._lost and not self.journal.outage:
                # Nothing was to be saved, or the journal would have said so.
                logger.warning("the database does not answer (%s)", exc)
            self._lost = True
        finally:
            self._polling = False

    # The timer.

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(1.0, self._tick)
        now = self._loop.time()
        self.wheel.turn(now)
        self.expiry.turn(time.time())
        self.revoking.tick()
        self.journal.complain(now)
        self._relieve()
        patience = max(POLL, len(self.rooms) / POLLED)
        if not self._polling and now - self._polled > patience:
            self._polling = True
            self._polled = now
            self.spawn(self._poll())
        tidy = not self.store.in_memory and not self.journal.outage
        if tidy:
            self.caretaker.tick(now)
        for room in list(self.rooms.values()):
            room.expire(now)
            if tidy:
                self.caretaker.look(room, self.tails[room], now)
            if room.empty_since is not None and now - room.empty_since > IDLE:
                self._unload(room)

    def _unload(self, room: Room) -> None:
        if (
            room.busy
            or room.ledger.unsaved
            or room in self._healing
            or room in self.journal.ill
        ):
            return
        if not self.store.in_memory:
            now = self._loop.time()
            self.caretaker.look(room, self.tails[room], now, unloading=True)
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
        if not self.sound:
            raise Unavailable("edits cannot be saved")
