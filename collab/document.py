"""One document: the fold of its log.

Updates go through the gate; those that are ready go into pycrdt's ``Doc``, those that
came early are parked. pycrdt is fast and correct on well-formed updates in causal
order, and only there (what it does elsewhere is in ``tests/test_pycrdt_defects.py``).

A ``Doc`` cannot encode every document. Where half an emoji was deleted, or something
was inserted within one, its clocks drift, and edits are lost; it makes numbers of
BigInts, and rounds fractions in formatting and embeds. From the first such update on, a
document keeps the bytes of its updates too, and is served from them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from enum import Enum, auto
from heapq import heappop, heappush
from typing import Any

from pycrdt import Doc

from . import wire
from .errors import DocumentBroken, ProtocolError, QuotaExceeded, UpdateRejected
from .gate import Gate, Verdict
from .joining import Joined, same
from .updates import ACCEPTED, Parsed, parse

PARKING = 1200
"""Bytes of memory that a parked update takes, besides its own."""

MAX_PARKED = 32 * 1024 * 1024
"""Bytes of updates that wait for others, in one document."""

EMPTY = b"\x00\x00"
"""The update that changes nothing."""

INDEX = 1
"""The version of the encoding of what stands beside a snapshot's state."""


class Outcome(Enum):
    """What came of an update."""

    APPLIED = auto()
    PARKED = auto()
    REPEATED = auto()


class Document:
    """A CRDT behind the gate, and what waits in front of it."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.doc: Doc[Any] = Doc()
        self.version = 0
        self.parked: dict[bytes, Parsed] = {}
        self.parked_size = 0
        self.waiting: dict[int, list[tuple[int, bytes]]] = {}
        """Per client a heap of the clocks that parked updates wait for."""
        self.culprit: bytes | None = None
        """The parked update at which pycrdt failed when it was released. This object
        must not be used any more then."""
        self.raw: Joined | None = None
        """The bytes of the document, once the ``Doc`` can't be trusted to encode it."""

    @classmethod
    def restore(cls, state: bytes, index: bytes) -> Document:
        """Make a document from what :meth:`snapshot` returned.

        Raises:
            ProtocolError: If the index is not one of ours.
            DocumentBroken: If pycrdt can't read the state.
        """
        document = cls()
        version, at = wire.read_uint(index, 0)
        if version != INDEX:
            raise ProtocolError(f"index of version {version}")
        gate, at = wire.read_data(index, at)
        count, at = wire.read_uint(index, at)
        try:
            document.gate = Gate.decode(gate)
        except ValueError as exc:
            raise ProtocolError("index without a gate of ours") from exc
        document._merge(state)
        if not document.gate.faithful:
            document.raw = Joined([state])
        for _ in range(count):
            update, at = wire.read_data(index, at)
            try:
                document.apply(update)
            except QuotaExceeded:
                document._keep(update, parse(update))
        return document

    def snapshot(self) -> tuple[bytes, bytes]:
        """Encode the document: its state as one update, and an index beside it.

        The index holds what the state can't: the gate's knowledge and parked updates.
        """
        parked = b"".join(wire.data(update) for update in self.parked)
        index = (
            wire.uint(INDEX)
            + wire.data(self.gate.encode())
            + wire.uint(len(self.parked))
            + parked
        )
        return self.state(), index

    def apply(
        self, update: bytes, parsed: Parsed | None = None
    ) -> tuple[Outcome, list[bytes]]:
        """Take an update; return what came of it, and what can be seen since.

        That is the update itself and those that waited for it, in causal order. If
        pycrdt fails at one of those, :attr:`culprit` says which. ``parsed`` spares
        parsing it again.

        Raises:
            UpdateRejected: If no honest client can have made it. Nothing has changed.
            QuotaExceeded: If too much would be parked. Nothing has changed.
            DocumentBroken: If pycrdt failed: this object must not be used any more.
        """
        if parsed is None:
            parsed = parse(update)
        verdict = self.gate.judge(parsed)
        if verdict is Verdict.READY:
            self._take(update, parsed)
            if self.waiting:
                return Outcome.APPLIED, [update, *self._release(parsed)]
            return Outcome.APPLIED, [update]
        if verdict is Verdict.REPEAT or update in self.parked:
            return Outcome.REPEATED, []
        self._park(update, parsed)
        return Outcome.PARKED, []

    def _take(self, update: bytes, parsed: Parsed) -> None:
        if self.raw is not None:
            self.raw.add(update)
        elif not parsed.faithful:
            self.raw = Joined([self._encode(), update])
        self._merge(update)
        self.gate.accept(parsed)
        self.version += 1

    def _merge(self, update: bytes) -> None:
        """Apply an update to the ``Doc``, which panics at what it can't handle.

        A panic derives from ``BaseException`` and may leave the update half applied.
        """
        try:
            self.doc.apply_update(update)
        except BaseException as exc:
            if _is_failure(exc):
                raise DocumentBroken(f"pycrdt failed at {len(update)} bytes") from exc
            raise

    def _park(self, update: bytes, parsed: Parsed) -> None:
        if self.parked_size + len(update) + PARKING > MAX_PARKED:
            raise QuotaExceeded("updates that wait for others", MAX_PARKED)
        self._keep(update, parsed)
        self._wait(update, parsed)

    def _keep(self, update: bytes, parsed: Parsed) -> None:
        self.parked[update] = parsed
        self.parked_size += len(update) + PARKING

    def _wait(self, update: bytes, parsed: Parsed) -> None:
        client, clock = parsed.missing
        heappush(self.waiting.setdefault(client, []), (clock, update))

    def drop(self, update: bytes) -> None:
        """Forget a parked update, if there is one of these bytes."""
        if self.parked.pop(update, None) is not None:
            self.parked_size -= len(update) + PARKING

    def _release(self, news: Parsed) -> Iterator[bytes]:
        """Apply what no longer waits, given that an update was accepted."""
        queue = [news]
        while queue:
            accepted = queue.pop()
            for client in accepted.clients():
                heap = self.waiting.get(client)
                while heap and heap[0][0] < self.gate.clocks.get(client, 0):
                    _, update = heappop(heap)
                    if update not in self.parked:
                        continue
                    parsed = self.parked[update]
                    try:
                        verdict = self.gate.judge(parsed)
                    except UpdateRejected:
                        verdict = Verdict.REPEAT  # It can never be applied: let it go.
                    except QuotaExceeded:
                        # It was acknowledged: it stays, for when there is room. Nobody
                        # is to blame who has merely sent what it waited for.
                        continue
                    if verdict is Verdict.EARLY:
                        self._wait(update, parsed)
                        continue
                    self.drop(update)
                    if verdict is Verdict.READY:
                        try:
                            self._take(update, parsed)
                        except DocumentBroken:
                            # Who sent what it waited for is not to blame.
                            self.culprit = update
                            return
                        queue.append(parsed)
                        yield update
                if heap is not None and not heap:
                    del self.waiting[client]

    def state_vector(self) -> bytes:
        """Encode how much of each client is here, parked updates not counted."""
        clocks = self.gate.clocks
        return wire.uint(len(clocks)) + b"".join(
            wire.uint(client) + wire.uint(clock) for client, clock in clocks.items()
        )

    def state(self) -> bytes:
        """Encode the whole document as one update.

        Raises:
            DocumentBroken: If pycrdt failed: this object must not be used any more.
        """
        return self._encode() if self.raw is None else self.raw.encode()

    def _encode(self, state_vector: bytes = b"\x00") -> bytes:
        try:
            return self.doc.get_update(state_vector)
        except BaseException as exc:
            if _is_failure(exc):
                raise DocumentBroken("pycrdt failed to encode a document") from exc
            raise

    def diff(self, state_vector: bytes) -> bytes:
        """Encode what somebody with a state vector lacks, as one update.

        Deletions have no clocks: all of them are part of every diff.

        Raises:
            ProtocolError: If the state vector is malformed.
            DocumentBroken: As :meth:`state`.
        """
        clocks = wire.read_state_vector(state_vector)
        if not clocks:
            return self.state()
        if not self.gate.clocks:
            return EMPTY
        if self.raw is not None:
            return self.raw.encode(clocks)
        # Only what we know of, within what we know: nothing else reaches pycrdt.
        known = self.gate.clocks
        trimmed = {
            client: self._before_pair(client, min(clock, known[client]))
            for client, clock in clocks.items()
            if client in known and clock
        }
        encoded = wire.uint(len(trimmed)) + b"".join(
            wire.uint(client) + wire.uint(clock) for client, clock in trimmed.items()
        )
        return self._encode(encoded)

    def _before_pair(self, client: int, clock: int) -> int:
        """A clock that is not between the halves of a surrogate pair.

        pycrdt would leave the half out and give what follows its clock.
        """
        lows = self.gate.lows.get(client)
        if lows is not None:
            at = bisect_left(lows, clock)
            if at < len(lows) and lows[at] == clock:
                return clock - 1
        return clock

    def verify(self, state: bytes) -> bool:
        """Whether a state says of this document what its log says.

        It must pass the gate, have the log's end clock for each client and its
        deletions, and come back unchanged from another ``Doc``. It may delete more:
        of concurrent writes of a map entry, all but one are deleted by nobody.
        """
        other = Document()
        other.gate = Gate(ACCEPTED)
        try:
            outcome, _ = other.apply(state, parse(state, ACCEPTED))
            if outcome is Outcome.PARKED or not other.gate.covers(self.gate):
                return False
            return self.raw is not None or other._comes_back(state)
        except (UpdateRejected, DocumentBroken):
            return False

    def _comes_back(self, state: bytes) -> bool:
        """Whether this document, made from a state, encodes as it was."""
        ours = self.state()
        if same(ours, state):
            return True
        # pycrdt joins neighbours that it left apart before. Joined, they stay so.
        other = Document()
        other.gate = Gate(ACCEPTED)
        other.apply(ours, parse(ours, ACCEPTED))
        return other.gate == self.gate and same(other.state(), ours)


def _is_failure(exc: BaseException) -> bool:
    """Whether an exception is pycrdt's: a panic of Rust is no ``Exception``."""
    return isinstance(exc, Exception) or type(exc).__module__ == "pyo3_runtime"
