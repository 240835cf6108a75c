"""What was appended to a log before its room was opened, for who comes back then.

A server that restarts, or is another one, has nothing to remember; the log has. It is
read when somebody asks, once for each room: nobody else should pay for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any

from .document import Document
from .errors import StoreError, UpdateRejected
from .history import History
from .opening import InThread, take_turns
from .recent import MAX_ROWS, MAX_SIZE, Recent
from .room import Room
from .store import Row, Store

PAUSE = 16
"""Rows between two pauses."""


class Recall:
    """Reads what rooms don't remember."""

    def __init__(
        self,
        store: Store,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        in_thread: InThread,
    ) -> None:
        self._history = History(store.database)
        self._spawn = spawn
        self._in_thread = in_thread
        self._under_way: dict[Room, asyncio.Task[None]] = {}

    def reaches(self, room: Room, position: int) -> bool:
        """Whether a room remembers what is behind a position, or all that it can."""
        recent = room.recent
        return recent is not None and (recent.whole or recent.start <= position)

    def begin(self, room: Room) -> asyncio.Task[None] | None:
        """Read what a room doesn't remember, if there is anything."""
        if room.document_id is None:
            return None
        task = self._under_way.get(room)
        if task is None:
            if room.recent is None:
                room.recent = Recent(room.position)
            reading = self._read(room, room.document_id, room.document, room.recent)
            task = self._under_way[room] = self._spawn(reading)
        return task

    async def _read(
        self, room: Room, document_id: int, document: Document, recent: Recent
    ) -> None:
        until = recent.start
        try:
            start, rows = await self._in_thread(
                self._history.tail, document_id, until, MAX_ROWS, MAX_SIZE
            )
            count = await take_turns(_known_steps(document, rows))
        except StoreError:
            return  # The next one who comes back tries it again.
        finally:
            del self._under_way[room]
        if room.document is not document or recent.start != until:
            return  # It was made anew, or remembers so much meanwhile.
        if count < len(rows):
            start = rows[-count - 1].position
        recent.precede(start, rows[len(rows) - count :])


def _known_steps(document: Document, rows: Sequence[Row]) -> Generator[None, None, int]:
    """How many of the last rows a document holds, each of them.

    What it could not read it must not pass on, nor what is behind that: what it has may
    be less than the log.
    """
    for count, row in enumerate(reversed(rows)):
        try:
            if not (yield from document.has_steps(row.update)):
                return count
        except UpdateRejected:
            return count
        if count % PAUSE == 0:
            yield
    return len(rows)
