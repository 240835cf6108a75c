"""Access that was revoked ends: of who is inside at once, of others when they come.

What was made by other processes is looked up once a second, in one query.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from .auth import REVOKED, Grant
from .errors import AccessDenied, CollabError, StoreError
from .revocations import PAGE, Revocations
from .revoked import Revocation, Revoked

logger = logging.getLogger("collab.revoking")

KICKED = "removed from the document"
"""What somebody is told who has to go now, and may come back."""


class Guest(Protocol):
    """Somebody who has a document open."""

    name: str
    """The document."""
    grant: Grant

    def send_away(self, error: CollabError) -> None:
        """End its access, and say why."""


class Revoking:
    """Who is inside, and what was revoked."""

    def __init__(
        self,
        revocations: Revocations,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        in_thread: Callable[..., Coroutine[Any, Any, Any]],
    ) -> None:
        self.revoked = Revoked()
        self.guests: dict[Guest, None] = {}
        self._revocations = revocations
        self._spawn = spawn
        self._in_thread = in_thread
        self._last = 0
        """The number up to which all are known."""
        self._looking = asyncio.Lock()

    async def add(self, revocation: Revocation) -> int:
        """Make a revocation; return its number. Who is inside here is gone then.

        Raises:
            StoreError: If the database does not take it.
        """
        number: int = await self._in_thread(self._revocations.add, revocation)
        await self.look()
        return number

    async def undo(self, number: int) -> None:
        """Take a revocation back.

        Raises:
            NotRevoked: If there is none of that number, or it is over.
            StoreError: If the database does not take it.
        """
        await self._in_thread(self._revocations.undo, number)
        await self.look()

    def tick(self) -> None:
        """See what was revoked elsewhere. To be called every second or so."""
        self.revoked.expire(time.time())
        if not self._looking.locked():
            self._spawn(self._look_later())

    async def _look_later(self) -> None:
        with suppress(StoreError):  # The hub says that the database does not answer.
            await self.look()

    async def look(self) -> None:
        """Learn of all revocations that have been made.

        Raises:
            StoreError: If the database does not answer.
        """
        async with self._looking:
            while True:
                first = self._last
                found: list[Revocation]
                found = await self._in_thread(self._revocations.since, first)
                if first and not (found and found[0].number == first):
                    # It is another database, restored from a backup perhaps.
                    self.revoked.clear()
                    self._last = 0
                    continue
                news = found[1:] if first else found
                if news:
                    self._last = news[-1].number
                    self._learn(news)
                if len(found) < PAGE:
                    return

    def _learn(self, news: Sequence[Revocation]) -> None:
        now = time.time()
        made, kicks = Revoked(), Revoked()
        for each in news:
            if each.undoes is not None:
                self.revoked.discard(each.undoes)
                made.discard(each.undoes)
            elif each.kick:
                kicks.add(each)
            elif each.until is None or each.until > now:
                self.revoked.add(each)
                made.add(each)
        for guest in list(self.guests):
            if guest not in self.guests:
                continue  # Another one took it along.
            if made.find(guest.grant, guest.name, now) is not None:
                self._send_away(guest, AccessDenied(REVOKED))
            # It counts whenever it is seen, for it is over when it is made.
            elif kicks.find(guest.grant, guest.name, 0.0) is not None:
                self._send_away(guest, AccessDenied(KICKED))

    def _send_away(self, guest: Guest, error: CollabError) -> None:
        try:
            guest.send_away(error)
        except Exception:
            # Others must not keep their access because of this one.
            logger.exception("unexpected error")

    def enter(self, guest: Guest) -> None:
        """Note that somebody has a document open."""
        self.guests[guest] = None

    def leave(self, guest: Guest) -> None:
        """Note that somebody has it open no longer."""
        self.guests.pop(guest, None)
