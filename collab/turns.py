"""Something of which only so much is done at a time, fairly.

Who wants a thousand turns and who wants one take them alternately: the one waits for no
more than what is being done, and one turn of each of the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """Turns, of which so many are taken at a time, and so many by one."""

    def __init__(self, total: int, each: int) -> None:
        self.total = total
        self.each = each
        self.taken: dict[Hashable, int] = {}
        self._count = 0
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._ready: dict[Hashable, None] = {}
        """Who waits, and has less than may be had, in the order of who is next."""

    @asynccontextmanager
    async def turn(self, who: Hashable) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        await self._take(who)
        try:
            yield
        finally:
            self._give(who)

    async def _take(self, who: Hashable) -> None:
        if self._count < self.total and self.taken.get(who, 0) < self.each:
            # Nobody is ready then: there would be no turn left.
            self._note(who)
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(future)
        self._queue(who)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give(who)
            else:
                self._forget(who, future)
            raise

    def _note(self, who: Hashable) -> None:
        self._count += 1
        self.taken[who] = self.taken.get(who, 0) + 1

    def _give(self, who: Hashable) -> None:
        self._count -= 1
        self.taken[who] -= 1
        if not self.taken[who]:
            del self.taken[who]
        self._queue(who)
        while self._ready and self._count < self.total:
            following = next(iter(self._ready))
            del self._ready[following]
            waiting = self._waiting[following]
            future = waiting.popleft()
            if not waiting:
                del self._waiting[following]
            if not future.done():  # Else it was cancelled a moment ago.
                self._note(following)
                future.set_result(None)
            self._queue(following)

    def _queue(self, who: Hashable) -> None:
        """Have somebody be one of those who are next, if they are."""
        if who in self._waiting and self.taken.get(who, 0) < self.each:
            self._ready.setdefault(who)

    def _forget(self, who: Hashable, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(who)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[who]
                self._ready.pop(who, None)
