"""What is revoked: whose access, by which tokens, to which documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from .patterns import matches


class Holder(Protocol):
    """Somebody who was given access."""

    @property
    def user(self) -> str:
        """The name of their account, or ``""``."""

    @property
    def token_id(self) -> str:
        """What their token is called, or ``""``."""

    @property
    def issued_at(self) -> float | None:
        """When they were given it; ``None`` if that is not known."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Whose access ends; times are in seconds since 1970.

    Only those are meant whom all that is not ``None`` is true of.
    """

    number: int = 0
    user: str | None = None
    token_id: str | None = None
    document: str | None = None
    """A name or pattern."""
    issued_before: float | None = None
    until: float | None = None
    """When it is over; ``None`` is never."""
    made_at: float = 0.0
    kick: bool = False
    """Whether it is over at once: who is inside has to go, and may come back."""
    undoes: int | None = None
    """The number of another one, which is over: then this is all that it says."""

    def concerns(self, holder: Holder, document: str) -> bool:
        """Whether somebody who has a document open, or wants to, is meant.

        Who cannot say when they were given access was given it before.
        """
        if self.user is not None and self.user != holder.user:
            return False
        if self.token_id is not None and self.token_id != holder.token_id:
            return False
        if self.document is not None and not matches(self.document, document):
            return False
        before, at = self.issued_before, holder.issued_at
        return before is None or at is None or at < before


class Revoked:
    """All revocations that are not over."""

    def __init__(self) -> None:
        self._known: dict[int, Revocation] = {}
        # So that thousands of one kind cost those nothing who are asked about another.
        self._by_token: dict[str, dict[int, Revocation]] = {}
        self._by_user: dict[str, dict[int, Revocation]] = {}
        self._others: dict[int, Revocation] = {}
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._known)

    def add(self, revocation: Revocation) -> None:
        """Count another one."""
        self._known[revocation.number] = revocation
        if revocation.token_id is not None:
            group = self._by_token.setdefault(revocation.token_id, {})
        elif revocation.user is not None:
            group = self._by_user.setdefault(revocation.user, {})
        else:
            group = self._others
        group[revocation.number] = revocation
        if revocation.until is not None:
            heappush(self._ends, (revocation.until, revocation.number))

    def discard(self, number: int) -> None:
        """Count one no longer, if it is known."""
        revocation = self._known.pop(number, None)
        if revocation is None:
            return
        self._others.pop(number, None)
        for groups, key in (
            (self._by_token, revocation.token_id),
            (self._by_user, revocation.user),
        ):
            if key is not None and key in groups:
                groups[key].pop(number, None)
                if not groups[key]:
                    del groups[key]

    def clear(self) -> None:
        """Count none."""
        for number in list(self._known):
            self.discard(number)
        self._ends.clear()

    def expire(self, now: float) -> None:
        """Count those no longer that are over."""
        while self._ends and self._ends[0][0] <= now:
            self.discard(heappop(self._ends)[1])

    def find(self, holder: Holder, document: str, now: float) -> Revocation | None:
        """One that concerns somebody, if there is one."""
        if not self._known:
            return None
        for revocation in self._candidates(holder):
            over = revocation.until is not None and revocation.until <= now
            if not over and revocation.concerns(holder, document):
                return revocation
        return None

    def _candidates(self, holder: Holder) -> Iterator[Revocation]:
        yield from self._by_token.get(holder.token_id, {}).values()
        yield from self._by_user.get(holder.user, {}).values()
        yield from self._others.values()
