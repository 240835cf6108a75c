"""What others append to the logs of open rooms, read and shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any

from .contents import finish
from .errors import CollabError, StoreError
from .opening import SLICE, InThread
from .room import Room
from .store import Row, Store
from .updates import LARGE

logger = logging.getLogger("collab.following")

READ = 1000
"""Positions that are read at once."""


class Follower:
    """Has rooms follow their logs."""

    def __init__(
        self,
        store: Store,
        find: Callable[[str], Room | None],
        occupy: Callable[[Room, Generator[None, None, None]], Awaitable[None]],
        rebuild: Callable[[Room, str, int], object],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        in_thread: InThread,
    ) -> None:
        self._store = store
        self._find = find
        """The room of a document, if it can be entered at once."""
        self._occupy = occupy
        self._rebuild = rebuild
        """Begins to make a broken room's document anew, and says why."""
        self._spawn = spawn
        self._in_thread = in_thread
        self.under_way: dict[Room, asyncio.Task[None]] = {}
        """Rooms that read what others have appended."""

    def begin(self, room: Room) -> None:
        """Have a room read what is behind its position, unless it does so already."""
        if room not in self.under_way and room.document_id is not None:
            reading = self._follow(room, room.document_id)
            self.under_way[room] = self._spawn(reading)

    async def _follow(self, room: Room, document_id: int) -> None:
        name = room.name
        try:
            while self._find(name) is room:
                after = room.position
                rows, whole = await self._in_thread(
                    self._store.read, name, document_id, after, READ
                )
                if room.position != after or self._find(name) is not room:
                    continue
                if not whole:
                    # Else it would be without these for as long as it is open.
                    room.broken = True
                    self._rebuild(
                        room, f"what came behind {after} is partly gone", logging.INFO
                    )
                    return
                if not rows:
                    return
                await self._learn(room, after, rows)
        except StoreError:
            pass  # The next time that somebody looks it is tried again.
        finally:
            self.under_way.pop(room, None)

    async def _learn(self, room: Room, after: int, rows: Sequence[Row]) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        for row in rows:
            if room.position != after or self._find(room.name) is not room:
                return  # It was rebuilt, or has saved something: look again.
            steps = _learn_steps(room, row)
            if len(row.update) > LARGE or room.document.heavy:
                await self._occupy(room, steps)
            else:
                finish(steps)
            after = room.position
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SLICE


def _learn_steps(room: Room, row: Row) -> Generator[None, None, None]:
    """Have a room learn a row, and know its position at once.

    Who comes in between would find it in the document and nowhere else.
    """
    learned = [row.update]
    try:
        yield from room.learn_steps(row.update)
    except CollabError as exc:
        message = "%s: cannot read row %d (%s); going on without it"
        logger.error(message, room.name, row.position, exc)
        learned = []  # What we can't read is shown to nobody.
    if row.position > room.position:
        room.reach(row.position, learned)
