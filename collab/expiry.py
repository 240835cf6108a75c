"""When access ends, and who is asked before to say again who they are.

No timer for each: the hub turns this once a second.
"""

from __future__ import annotations

import logging
from heapq import heappop, heappush
from math import ceil, floor, inf
from typing import Protocol

logger = logging.getLogger("collab.expiry")

NOTICE = 60.0
"""Seconds before their access ends that somebody is asked to say again who they are;
or at half of what is left, if that is later."""


class Holder(Protocol):
    """Somebody whose access ends."""

    def remind(self, seconds: float) -> None:
        """Ask who it is, while there are so many seconds left."""

    def expire(self) -> None:
        """End its access."""


class Expiry:
    """Whose access ends, and when; times are in seconds since 1970."""

    def __init__(self) -> None:
        self._ends: dict[Holder, tuple[int, float]] = {}
        """In which second it is its turn, and when its access ends."""
        self._turns: dict[int, dict[Holder, None]] = {}
        self._seconds: list[int] = []
        """Those that somebody is to have a turn in, as a heap."""

    def __len__(self) -> int:
        return len(self._ends)

    def keep(self, holder: Holder, expires_at: float | None, now: float) -> None:
        """Note when somebody's access ends, from now on; ``None`` is never."""
        self.forget(holder)
        if expires_at is not None and expires_at < inf:
            left = max(0.0, expires_at - now)
            # Rather early: there is one turn a second, and the answer takes a while.
            self._enter(holder, floor(expires_at - min(NOTICE, left / 2)), expires_at)

    def forget(self, holder: Holder) -> None:
        """Let somebody go."""
        if holder in self._ends:
            second, _ = self._ends.pop(holder)
            del self._turns[second][holder]

    def _enter(self, holder: Holder, when: float, expires_at: float) -> None:
        second = ceil(when)
        if second not in self._turns:
            self._turns[second] = {}
            heappush(self._seconds, second)
        self._turns[second][holder] = None
        self._ends[holder] = second, expires_at

    def turn(self, now: float) -> None:
        """Ask those whose access ends soon, and end that of others."""
        while self._seconds and self._seconds[0] <= now:
            second = heappop(self._seconds)
            due = self._turns[second]
            while due:  # One who goes may take others along.
                holder = next(iter(due))
                _, expires_at = self._ends[holder]
                self.forget(holder)
                try:
                    if expires_at <= now:
                        holder.expire()
                    else:
                        self._enter(holder, expires_at, expires_at)
                        holder.remind(expires_at - now)
                except Exception:
                    # Others must not keep their access because of this one.
                    logger.exception("unexpected error")
            del self._turns[second]
