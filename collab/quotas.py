"""How much of this server one client, one user, one address may have for themselves.

What is counted is held by a :class:`Guest`, which is a connection as the limits see it.
How fast somebody may go on is a :class:`Pace`: a bucket that fills steadily, and from
which each message takes. Who finds it empty waits, and loses nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from .errors import TooMany
from .limits import Limits

Key = TypeVar("Key", bound=Hashable)

SHARE = 2
"""One in so many of the sessions that a document may have are all that one user, or one
address, may have of them: a document that is full isn't full of one."""

REMEMBERED = 1000
"""Users that were here last, whose pace is not forgotten when they come back."""


class Rates:
    """Limits in seconds: what is spent takes so long to fill again."""

    __slots__ = ("byte", "byte_burst", "limits", "message", "message_burst", "patience")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.message = 1 / limits.message_rate
        self.byte = 1 / limits.byte_rate
        self.message_burst = limits.message_burst / limits.message_rate
        self.byte_burst = limits.byte_burst / limits.byte_rate
        self.patience = limits.overrun_time


class Pace:
    """How fast somebody may go on: a bucket of messages, and one of bytes."""

    __slots__ = ("_bytes", "_messages", "_rates", "_since")

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._messages = 0.0
        """When the bucket of messages will be full again..."""
        self._bytes = 0.0
        """...and that of bytes."""
        self._since = 0.0
        """Since when one of them was never full, if one was found empty."""

    def spend(self, messages: int, size: int, now: float) -> float:
        """Take from the buckets; return the seconds until nothing is owed.

        ``now`` is ``time.perf_counter()``, or any clock that is the same each time.

        Raises:
            TooMany: If that has gone on without a pause for too long.
        """
        rates = self._rates
        full, sized = self._messages, self._bytes
        if full < now:
            full = now
            if sized < now:
                sized = now
                self._since = 0.0
        elif sized < now:
            sized = now
        self._messages = full = full + messages * rates.message
        self._bytes = sized = sized + size * rates.byte
        if full - now <= rates.message_burst and sized - now <= rates.byte_burst:
            return 0.0
        return self._hold_back(full - now, sized - now, now)

    def _hold_back(self, full: float, sized: float, now: float) -> float:
        rates = self._rates
        late, later = full - rates.message_burst, sized - rates.byte_burst
        if not self._since:
            self._since = now
        elif now - self._since > rates.patience:
            if late > 0.0:
                limit = int(rates.limits.message_rate)
                raise TooMany("messages per second", limit)
            raise TooMany("bytes per second", int(rates.limits.byte_rate))
        return max(late, later)


class Crowd:
    """The connections of one user."""

    __slots__ = ("guests", "pace")

    def __init__(self, pace: Pace) -> None:
        self.guests: dict[Guest, int] = {}
        """Connections, and in how many documents each is this user's."""
        self.pace = pace
        """All go on together at the pace at which one may."""


class Quotas:
    """What is taken, by whom."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.rates = Rates(limits)
        self.addresses: dict[str, int] = {}
        """Connections per address."""
        self.users: dict[str, Crowd] = {}
        self.paces: dict[str | bytes, Pace] = {}
        """Those of users who have left, the last one last, and by the keys of clients
        that come anew for each thing they say."""
        self.shares: dict[tuple[str, str], int] = {}
        """Sessions per document and user, or address."""

    def admit(self, address: str = "") -> Guest:
        """Take somebody in. Who has no address isn't counted by it.

        Raises:
            TooMany: If there are enough connections of this address.
        """
        if address:
            count = self.addresses.get(address, 0)
            limit = self.limits.connections_per_address
            if count >= limit:
                raise TooMany("connections from your address", limit)
            self.addresses[address] = count + 1
        return Guest(self, address)


class Guest:
    """One connection, as the limits see it."""

    __slots__ = ("address", "pace", "quotas")

    def __init__(self, quotas: Quotas, address: str = "") -> None:
        self.quotas = quotas
        self.address = address
        self.pace = Pace(quotas.rates)

    def leave(self) -> None:
        """Give back what was taken. To be called once, or more often."""
        if self.address:
            _release(self.quotas.addresses, self.address)
            self.address = ""

    def resume(self, key: bytes) -> None:
        """Go on at the pace of those who came with the same key, which is a secret."""
        self.pace = self.quotas.paces.pop(key, self.pace)
        self._remember(key, self.pace)

    def sit(self, document: str, user: str, seated: int) -> None:
        """Take a place in a document, which has so many already.

        Raises:
            TooMany: If that is one too many, for the document or for the user. Nothing
                is taken then.
        """
        limit = self.quotas.limits.sessions_per_document
        if seated >= limit:
            raise TooMany("clients in this document", limit)
        owner = user or self.address
        shares = self.quotas.shares
        count = shares.get((document, owner), 0) if owner else 0
        if count >= max(1, limit // SHARE):
            raise TooMany("clients of yours in this document", limit // SHARE)
        self._enlist(user)
        if owner:
            shares[document, owner] = count + 1

    def rise(self, document: str, user: str) -> None:
        """Give back a place in a document."""
        owner = user or self.address
        if owner:
            _release(self.quotas.shares, (document, owner))
        self._strike(user)

    def move(self, document: str, user: str, to: str) -> None:
        """Have somebody's place in a document be another user's.

        Raises:
            TooMany: If they have enough connections. Nothing has changed then.
        """
        if user == to:
            return
        self._enlist(to)
        shares = self.quotas.shares
        if owner := user or self.address:
            _release(shares, (document, owner))
        if owner := to or self.address:
            shares[document, owner] = shares.get((document, owner), 0) + 1
        self._strike(user)

    def _enlist(self, user: str) -> None:
        if not user:
            return
        users = self.quotas.users
        crowd = users.get(user)
        limit = self.quotas.limits.connections_per_user
        if crowd is None:
            pace = self.quotas.paces.pop(user, self.pace)
            crowd = users[user] = Crowd(pace)
        elif self not in crowd.guests and len(crowd.guests) >= limit:
            raise TooMany("connections of yours", limit)
        crowd.guests[self] = crowd.guests.get(self, 0) + 1
        self.pace = crowd.pace

    def _strike(self, user: str) -> None:
        if not user:
            return
        crowd = self.quotas.users[user]
        crowd.guests[self] -= 1
        if not crowd.guests[self]:
            del crowd.guests[self]
            if not crowd.guests:
                del self.quotas.users[user]
                self._remember(user, crowd.pace)

    def _remember(self, who: str | bytes, pace: Pace) -> None:
        paces = self.quotas.paces
        paces[who] = pace
        if len(paces) > REMEMBERED:
            del paces[next(iter(paces))]


def _release(counts: dict[Key, int], key: Key) -> None:
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]
