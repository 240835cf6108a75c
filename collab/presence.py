"""Who is here: y-protocols' awareness, with owners.

Each client has a state (a JSON object: its name, its cursor) and a clock. A newer clock
wins; a null state means gone. What is stored here was parsed by us and is spelled by
us: a malformed state that is relayed as it came kills the message handler of every
other client.

A client id belongs to the session that announced it first, and leaves with it, or to an
owner of several sessions (:mod:`collab.people`). Others can neither change nor remove
it: their entries are dropped, without blame, because honest clients repeat what they
hear (y-websocket sends back every change it receives, and a browser tab speaks for its
siblings). But one who introduces itself with the id of a session that is connected may
be the same client on a new connection, whose old one died without a goodbye. So the
claim is kept for a while, the owner is probed, and if it turns out to be dead, the
claim holds.

Reference: y-protocols PROTOCOL.md, "Awareness protocol", and awareness.js.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, NoReturn, Protocol, TypeVar

from . import wire
from .errors import ProtocolError, QuotaExceeded
from .identity import Amend
from .limits import Limits

MAX_CLOCK = 2**32 - 1
MAX_STATE = 16 * 1024
"""Bytes of one state, unless limits say otherwise."""
SMALL = 1024
"""Bytes of a state that is shown as often as it changes."""
MAX_DEPTH = 100
"""Objects and arrays of a state within each other. Browsers give up at some 5,000."""
MAX_ENTRIES = 4096
"""Clients in one message. An honest one repeats at most what it heard."""
MAX_NEWS = 1024 * 1024
"""Bytes of states in one message that we have not heard: 70 ms of parsing."""
MAX_OWNED = 16
"""Client ids of one session: its own, and those of the tabs it speaks for."""
MEMORY = 60.0
"""Seconds that the clock of a client that left is remembered, against echoes."""
MAX_LEFT = 4096
"""Clients that left whose clocks are remembered. Only who invents them has more."""

CLAIM = 20.0
"""Seconds that a claim waits for the owner to turn out dead."""


class HasIds(Protocol):
    """What a session is to this module: an identity that owns client ids."""

    owned: tuple[int, ...]


Owner = TypeVar("Owner", bound=HasIds)


class Entry(Generic[Owner]):
    """One client: its clock, how its entry is spelled, whose it is."""

    __slots__ = ("clock", "encoded", "here", "left", "owner", "version")

    def __init__(self) -> None:
        self.clock = -1
        self.encoded = b""
        self.here = False
        self.left = 0.0
        self.owner: Owner | None = None
        self.version = 0


@dataclass(frozen=True, slots=True)
class Claim(Generic[Owner]):
    """What a session says of a client that another session owns."""

    owner: Owner
    clock: int
    state: bytes
    at: float


class Presence(Generic[Owner]):
    """The clients of a room. Owners are compared by identity."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.entries: dict[int, Entry[Owner]] = {}
        self.changed: dict[int, Owner | None] = {}
        """Whose entries changed, and who announced it; ``None`` if that was us."""
        self.version = 0
        self.told = 0
        """The version up to which changes were taken."""
        self.claims: dict[int, Claim[Owner]] = {}
        self._showing: dict[Owner, float] = {}
        """Until when nothing large is shown of those of whom that was."""

    def introduce(
        self, states: bytes, owner: Owner, now: float, amend: Amend | None = None
    ) -> Owner | None:
        """Merge the first states of a session; return the owner it wants to succeed.

        Raises:
            ProtocolError: As :meth:`apply`.
        """
        entries = self._parse(states)
        rival = None
        if len(entries) == 1:
            client, clock, content = entries[0]
            entry = self.entries.get(client)
            if entry is not None and clock >= entry.clock:
                if not entry.here:
                    # It was announced as gone at this clock, so that nobody heeds its
                    # return at the same one. Hearing of its own departure, a client
                    # announces itself anew at the next. (awareness.js)
                    self.version += 1
                    entry.version = self.version
                    self.changed[client] = None
                elif entry.owner is None:
                    if _shows(entry, amend, client, clock, content) and _own(
                        owner, client
                    ):
                        entry.owner = owner
                elif entry.owner is not owner and content != b"null":
                    state = _canonical(content, amend)
                    if _shows(entry, amend, client, clock, content) and state:
                        self.claims[client] = Claim(owner, clock, state, now)
                        rival = entry.owner
        self._merge(entries, owner, amend)
        return rival

    def departure(self, states: bytes) -> bytes | None:
        """How a client was announced as gone that comes back at the same clock.

        ``None`` if it comes at another one, or never left.

        Raises:
            ProtocolError: As :meth:`apply`.
        """
        entries = self._parse(states)
        if len(entries) != 1:
            return None
        client, clock, content = entries[0]
        entry = self.entries.get(client)
        if entry is None or entry.here or clock != entry.clock or content == b"null":
            return None
        return wire.uint(1) + entry.encoded

    def apply(self, states: bytes, owner: Owner, amend: Amend | None = None) -> None:
        """Merge what a session announces, amended.

        Merging is idempotent.

        Raises:
            ProtocolError: If the message is malformed. Nothing is merged then.
        """
        self._merge(self._parse(states), owner, amend)

    def _parse(self, states: bytes) -> list[tuple[int, int, bytes]]:
        """The entries that are not older than what we know, JSON still unparsed."""
        count, at = wire.read_uint(states, 0)
        if count > MAX_ENTRIES:
            raise ProtocolError(f"presence of {count} clients in one message")
        if count * 3 > len(states):
            raise ProtocolError("more clients than bytes")
        parsed = []
        read_uint = wire.read_uint
        known = self.entries
        for _ in range(count):
            client, at = read_uint(states, at)
            clock, at = read_uint(states, at)
            length, at = read_uint(states, at)
            end = at + length
            if end > len(states):
                raise ProtocolError("length exceeds the message")
            entry = known.get(client)
            if entry is None or clock > entry.clock or count == 1:
                if clock > MAX_CLOCK:
                    raise ProtocolError("presence clock of more than 32 bits")
                if length > self.limits.presence_size:
                    limit = self.limits.presence_size
                    raise QuotaExceeded("bytes of presence", limit)
                parsed.append((client, clock, states[at:end]))
            elif length == 4 and clock == entry.clock and states[at:end] == b"null":
                parsed.append((client, clock, b"null"))
            at = end
        if at != len(states):
            raise ProtocolError("bytes after the presence")
        if at > MAX_NEWS and sum([len(state) for _, _, state in parsed]) > MAX_NEWS:
            raise ProtocolError("presence of too many bytes")
        return parsed

    def _merge(
        self,
        entries: list[tuple[int, int, bytes]],
        owner: Owner,
        amend: Amend | None,
    ) -> None:
        # Everything is parsed, also what others own, before anything is set.
        news = [
            (client, clock, None if content == b"null" else _canonical(content, amend))
            for client, clock, content in entries
            if self._is_news(client, clock, content == b"null")
        ]
        for client, clock, state in news:
            entry = self.entries.get(client)
            foreign = entry and entry.owner is not None and entry.owner is not owner
            if state == _NOTHING:
                continue
            # Asked again, as the same client may have come twice.
            if not foreign and self._is_news(client, clock, state is None):
                self._set(client, clock, state, owner)

    def _is_news(self, client: int, clock: int, gone: bool) -> bool:
        entry = self.entries.get(client)
        if entry is None or clock > entry.clock:
            return True
        # At the clock we know only a null is news: this is how a server announces
        # the departure of a client that could not do it itself.
        # (y-protocols awareness.js, applyAwarenessUpdate)
        return gone and clock == entry.clock and entry.here

    def _set(
        self,
        client: int,
        clock: int,
        state: bytes | None,
        owner: Owner | None,
    ) -> None:
        entry = self.entries.get(client)
        if state is None and (entry is None or not entry.here):
            return  # One we never knew leaves: nothing to tell.
        if state is not None and owner is not None and not _own(owner, client):
            return
        if entry is None:
            entry = self.entries[client] = Entry()
        self.version += 1
        entry.clock = clock
        entry.version = self.version
        entry.here = state is not None
        entry.left = 0.0
        entry.owner = owner if state is not None else None
        entry.encoded = (
            wire.uint(client) + wire.uint(clock) + wire.data(state or b"null")
        )
        if state is None:
            if owner is not None:
                owner.owned = tuple(id for id in owner.owned if id != client)
            self.claims.pop(client, None)
        self.changed[client] = owner

    def orphan(self, owner: Owner, now: float) -> list[int]:
        """Take the ids from a session that is gone; return those without an heir.

        They stay visible until :meth:`remove`, or until another session announces them.
        """
        for client in [c for c, claim in self.claims.items() if claim.owner is owner]:
            del self.claims[client]
        orphans = []
        for client in owner.owned:
            entry = self.entries.get(client)
            if entry is None or entry.owner is not owner:
                continue
            claim = self.claims.pop(client, None)
            if (
                claim is not None
                and now - claim.at < CLAIM
                and _own(claim.owner, client)
            ):
                entry.owner = claim.owner
                if claim.clock > entry.clock:
                    self._set(client, claim.clock, claim.state, claim.owner)
            else:
                entry.owner = None
                orphans.append(client)
        return orphans

    def remove(self, clients: Iterable[int], now: float) -> None:
        """Announce that orphans have left, at the clocks we know."""
        for client in clients:
            entry = self.entries.get(client)
            if entry is not None and entry.owner is None and entry.here:
                self._set(client, entry.clock, None, None)
                entry.left = now

    def forget(self, now: float) -> None:
        """Drop the clocks of those who left long, or :data:`MAX_LEFT` others, ago."""
        showing = self._showing.items()
        self._showing = {owner: until for owner, until in showing if until > now}
        left: list[tuple[float, int]] = []
        for client, entry in list(self.entries.items()):
            if not entry.here and client not in self.changed:
                if not entry.left:
                    entry.left = now
                if now - entry.left > MEMORY:
                    del self.entries[client]
                else:
                    left.append((entry.left, client))
        if len(left) > MAX_LEFT:
            left.sort()
            for _, client in left[:-MAX_LEFT]:
                del self.entries[client]

    def take_changes(self, now: float = inf) -> bytes | None:
        """Encode what changed since the last time; ``None`` if nothing did.

        What is large, and changes often, stays for a later time.
        """
        changed, self.changed = self.changed, {}
        self.told = self.version
        entries = self.entries
        encoded = []
        for client in changed:
            entry = entries[client]
            if len(entry.encoded) > SMALL and not self._show(entry, now):
                self.changed[client] = changed[client]
                self.version += 1
                entry.version = self.version
                continue
            encoded.append(entry.encoded)
        if not encoded:
            return None
        return wire.uint(len(encoded)) + b"".join(encoded)

    def announces_all(self, owner: Owner) -> bool:
        """Whether everything that changed since the last time was announced by one."""
        return all(by is owner for by in self.changed.values())

    def _show(self, entry: Entry[Owner], now: float) -> bool:
        """Whether a large state may be shown now: all are sent it."""
        owner = entry.owner
        if owner is None:
            return True
        if self._showing.get(owner, now) > now:
            return False
        self._showing[owner] = now + len(entry.encoded) / self.limits.presence_rate
        return True

    def encode(self, since: int = 0, but: Owner | None = None) -> bytes | None:
        """Encode who is here, and who changed or left after a version.

        ``None`` if that is nobody. A newcomer has no use for those who left, so
        version 0 is only those who are here. What ``but`` owns is left out.
        """
        encoded = [
            entry.encoded
            for entry in self.entries.values()
            if entry.version > since
            and (entry.here or since)
            and (but is None or entry.owner is not but)
        ]
        return _encode(encoded)

    def encode_news(self, known: Mapping[int, int], but: Owner | None) -> bytes | None:
        """Encode who is here, for somebody who knows others at some clocks.

        Left out are those whose clocks are known, and what ``but`` owns. Who is known,
        and not here, has left.
        """
        entries = self.entries
        encoded = [
            entry.encoded
            for client, entry in entries.items()
            if entry.here
            and known.get(client) != entry.clock
            and (but is None or entry.owner is not but)
        ]
        for client, clock in known.items():
            entry = entries.get(client)
            if entry is None or not entry.here:
                last = clock if entry is None else max(clock, entry.clock)
                encoded.append(wire.uint(client) + wire.uint(last) + wire.data(b"null"))
        return _encode(encoded)


def read_known(known: bytes) -> dict[int, int]:
    """Read of whom somebody knows: clients, and their clocks.

    Raises:
        ProtocolError: If it is malformed, or there are more than :data:`MAX_ENTRIES`.
    """
    count, at = wire.read_uint(known, 0)
    if count > MAX_ENTRIES:
        raise ProtocolError(f"presence of {count} clients is known")
    clocks = {}
    for _ in range(count):
        client, at = wire.read_uint(known, at)
        clocks[client], at = wire.read_uint(known, at)
    if at != len(known):
        raise ProtocolError("bytes after the presence that is known")
    return clocks


def _encode(entries: Sequence[bytes]) -> bytes | None:
    return wire.uint(len(entries)) + b"".join(entries) if entries else None


def _own(owner: HasIds, client: int) -> bool:
    """Count a client id among a session's own, unless it has too many."""
    if client in owner.owned:
        return True
    if len(owner.owned) >= MAX_OWNED:
        return False
    owner.owned += (client,)
    return True


def _refuse_constant(constant: str) -> NoReturn:
    raise ProtocolError(f"presence state holds {constant}, which is not JSON")


def _check_depth(state: object) -> None:
    level = [state]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ProtocolError("presence state is nested too deeply")


_read_json = json.JSONDecoder(parse_constant=_refuse_constant).decode
_spell = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode
_spell_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


_NOTHING = b""
"""A state that is shown to nobody."""


def _shows(
    entry: Entry[Owner],
    amend: Amend | None,
    client: int,
    clock: int,
    content: bytes,
) -> bool:
    """Whether what is seen of a client may become a session's that announces it.

    Somebody else's state must not go on under their name.
    """
    if amend is None or clock > entry.clock or content == b"null":
        return True
    state = _canonical(content, amend)
    return entry.encoded == wire.uint(client) + wire.uint(clock) + wire.data(state)


def _canonical(content: bytes, amend: Amend | None = None) -> bytes:
    """Parse the JSON of a state and spell it anew, amended.

    Raises:
        ProtocolError: If it isn't JSON that every client can read, or no object.
    """
    try:
        state = _read_json(content.decode())
        if type(state) is not dict:
            raise ProtocolError("presence state is not an object")
        if content.count(b"{") + content.count(b"[") > MAX_DEPTH:
            _check_depth(state)
        if amend is not None and (state := amend(state)) is None:
            return _NOTHING
        try:
            return _spell(state).encode()
        except UnicodeEncodeError:  # Half an emoji: JSON can say it, UTF-8 can't.
            return _spell_ascii(state).encode()
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("presence state is not JSON") from exc
