"""Who is here, and how long they stay visible without a goodbye.

A session that is a client by itself loses its ids when it leaves; for a while they are
orphans, which whoever announces them can have. The ids of an owner of several sessions
stay its own between two of them, and for as long after the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .limits import Limits
from .presence import Presence
from .session import Author, Owner, Session

GRACE = 5.0
"""Seconds that a client without a goodbye stays visible, as it may be back at once."""


class People(Presence[Author]):
    """The clients of a room, each owned by a session, or by the owner of several."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.owners: dict[tuple[bytes, int], Owner] = {}
        """By what their sessions have in common."""
        self._orphans: deque[tuple[float, list[int]]] = deque()

    def owner(self, key: tuple[bytes, int]) -> Owner:
        """The owner of all sessions with a key."""
        owner = self.owners.get(key)
        if owner is None:
            owner = self.owners[key] = Owner()
        return owner

    def join(self, session: Session) -> None:
        """Note that a session is in the room."""
        if session.shared is not None:
            session.shared.sessions.add(session)

    def leave(self, session: Session, now: float, goodbye: bool) -> None:
        """Note that a session has left. A goodbye is one of all that it shares with."""
        owner = session.shared
        if owner is not None:
            owner.sessions.discard(session)
            owner.left = now
            if goodbye:
                self.remove(self._let_go(owner, now), now)
            return
        orphans = self.orphan(session, now)
        if goodbye:
            self.remove(orphans, now)
        elif orphans:
            self._orphans.append((now + GRACE, orphans))

    def unmoved(self) -> Collection[Session]:
        """Sessions to which nothing of what changed is news: they announced it."""
        return [
            session
            for owner in self.owners.values()
            if owner.sessions and self.announces_all(owner)
            for session in owner.sessions
        ]

    def expire(self, now: float) -> None:
        """Let go of those whose grace is over."""
        while self._orphans and self._orphans[0][0] <= now:
            _, clients = self._orphans.popleft()
            self.remove(clients, now)
        for key, owner in list(self.owners.items()):
            if not owner.sessions and now - owner.left >= GRACE:
                del self.owners[key]
                self.remove(self._let_go(owner, now), now)
        self.forget(now)

    def _let_go(self, owner: Owner, now: float) -> list[int]:
        """Take the ids from an owner; return those without an heir."""
        orphans = self.orphan(owner, now)
        owner.owned = ()
        return orphans
