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
from collections.abc import Generator, Mapping
from enum import Enum, auto
from heapq import heappop, heappush
from math import inf
from typing import Any, Self

from pycrdt import Doc

from . import wire
from .contents import finish
from .errors import DocumentBroken, ProtocolError, QuotaExceeded, UpdateRejected
from .gate import Gate, Verdict
from .joining import Joined, same, trim_steps
from .limits import Limits
from .snapshots import INDEX, read_index
from .splitting import PIECE, split
from .updates import ACCEPTED, LARGE, Parsed, cut, parse, parse_steps

PARKING = 1200
"""Bytes of memory that a parked update takes, besides its own."""

MAX_PARKED = 32 * 1024 * 1024
"""Bytes of updates that wait for others, in one document."""

EMPTY = b"\x00\x00"
"""The update that changes nothing."""

LARGE_STATE = 1024 * 1024
"""Bytes of a document from which on it is encoded with pauses: pycrdt takes 5 ms, and
whoever compresses it 40 ms."""

SHARES = 8
"""Parts, each of some of the clients, in which pycrdt encodes a large document."""


MEMORABLE = 1024
"""Bytes of an update that brought no news, from which on it is remembered."""


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
        self.size = 0
        """Bytes of its state, at most."""
        self.max_parked = MAX_PARKED
        self.max_size: float = inf
        """Bytes of its state above which it is full: see :meth:`fit_steps`."""
        self._measured = -1
        """The version of which :attr:`size` is exact."""
        self._large_parked = 0
        self._repeat: bytes | None = None
        """The last one of some size that brought no news, and never will. Clients that
        were cut off together come back with the same, all deletions of the document."""

    @property
    def heavy(self) -> bool:
        """Whether even a small update may take long: it is given to apply_steps."""
        if self._large_parked > 0 or self.size + LARGE > self.max_size:
            return True
        return self.raw is not None and self.raw.heavy

    @property
    def large(self) -> bool:
        """Whether encoding it takes long: state_steps and diff_steps do it."""
        return self.size > LARGE_STATE or self.heavy

    def within(self, limits: Limits) -> Self:
        """Go on within limits. What was accepted before may be beyond them."""
        self.max_size = limits.document_size
        self.max_parked = limits.parked_size
        return self

    @classmethod
    def restore(cls, state: bytes, index: bytes) -> Self:
        """Make a document from what :meth:`snapshot` returned.

        Raises:
            ProtocolError: If the index is not one of ours.
            DocumentBroken: If pycrdt can't read the state.
        """
        return finish(cls.restore_steps(state, index))

    @classmethod
    def restore_steps(cls, state: bytes, index: bytes) -> Generator[None, None, Self]:
        """Make a document from what :meth:`snapshot` returned, with pauses.

        Raises:
            ProtocolError: If the index is not one of ours.
            DocumentBroken: If pycrdt can't read the state.
        """
        document = cls()
        gate, pieces, parked = read_index(state, index)
        try:
            document.gate = yield from Gate.decode_steps(gate)
        except ValueError as exc:
            raise ProtocolError("index without a gate of ours") from exc
        document.size = len(state)
        if not document.gate.faithful:
            document.raw = Joined()
        for piece in pieces:
            document._merge(piece)
            yield
            if document.raw is not None:
                document.raw.add(piece)
                if len(pieces) > 1:
                    yield from document.raw.settle_steps()
        for update in parked:
            parsed = yield from parse_steps(update, cuts={})
            try:
                yield from document.apply_steps(update, parsed)
            except QuotaExceeded:
                document._keep(update, parsed)
        return document

    def snapshot(self) -> tuple[bytes, bytes]:
        """Encode the document: its state in pieces, and an index beside it.

        The state is updates to be applied one after the other. The index holds their
        lengths, and what they can't: the gate's knowledge and parked updates.
        """
        state = self.state()
        pieces = [state]
        if len(state) > PIECE:
            pieces = list(split(state, cut(state), PIECE))
        index = [wire.uint(INDEX), wire.data(self.gate.encode())]
        index.append(wire.uint(len(pieces)))
        index += [wire.uint(len(piece)) for piece in pieces]
        index.append(wire.uint(len(self.parked)))
        index += [wire.data(update) for update in self.parked]
        return b"".join(pieces), b"".join(index)

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
        if update == self._repeat:
            return Outcome.REPEATED, []
        if parsed is None:
            parsed = parse(update)
        verdict = self.gate.judge(parsed)
        if verdict is Verdict.READY:
            if parsed.partial:
                update, parsed = finish(self._shorten(update, parsed))
            self._take(update, parsed)
            if self.waiting:
                return Outcome.APPLIED, [update, *finish(self._release(parsed))]
            return Outcome.APPLIED, [update]
        if verdict is Verdict.REPEAT:
            if len(update) >= MEMORABLE:
                self._repeat = update
            return Outcome.REPEATED, []
        if update in self.parked:
            return Outcome.REPEATED, []
        self._park(update, parsed)
        return Outcome.PARKED, []

    def apply_steps(
        self, update: bytes, parsed: Parsed | None = None
    ) -> Generator[None, None, tuple[Outcome, list[bytes]]]:
        """Take an update that is large, or may release one, with pauses.

        Between them the ``Doc`` may hold a part of it. The state vector is as it was
        before; nothing else may be asked for, and nothing be applied.

        Raises:
            UpdateRejected, QuotaExceeded, DocumentBroken: As :meth:`apply` does.
        """
        if parsed is None:
            parsed = yield from parse_steps(update, cuts={})
        verdict = yield from self.gate.judge_steps(parsed)
        if verdict is Verdict.READY:
            if parsed.partial:
                update, parsed = yield from self._shorten(update, parsed)
            yield from self._take_steps(update, parsed)
            if self.waiting:
                released = yield from self._release(parsed)
                return Outcome.APPLIED, [update, *released]
            return Outcome.APPLIED, [update]
        if verdict is Verdict.REPEAT or update in self.parked:
            return Outcome.REPEATED, []
        self._park(update, parsed)
        return Outcome.PARKED, []

    def has_steps(
        self, update: bytes, parsed: Parsed | None = None
    ) -> Generator[None, None, bool]:
        """Whether an update would change nothing here; with pauses.

        Raises:
            UpdateRejected: If no honest client can have made it.
        """
        if parsed is None:
            parsed = yield from parse_steps(update, cuts={})
        verdict = yield from self.gate.judge_steps(parsed)
        return verdict is Verdict.REPEAT

    def _shorten(
        self, update: bytes, parsed: Parsed
    ) -> Generator[None, None, tuple[bytes, Parsed]]:
        """Leave out what is known of an update that is ready.

        Yjs fails at an item whose beginning it knows, and has collected.
        """
        whole = yield from parse_steps(update, ACCEPTED, {})
        trimmed = yield from trim_steps(update, whole, self.gate.clocks)
        news = yield from parse_steps(trimmed, ACCEPTED, {})
        yield from self.gate.judge_steps(news)
        news.faithful = news.faithful and parsed.faithful
        return trimmed, news

    def fit_steps(
        self, update: bytes, parsed: Parsed | None
    ) -> Generator[None, None, None]:
        """See that there is room for an update, with pauses.

        What deletes, or changes nothing, always fits. A document that is nearly full is
        encoded, once it has changed.

        Raises:
            UpdateRejected: If no honest client can have made it.
            QuotaExceeded: If there is none.
        """
        if self.size + len(update) <= self.max_size:
            return
        if parsed is None:
            parsed = yield from parse_steps(update, cuts={})
        if not parsed.ranges or (yield from self.has_steps(update, parsed)):
            return
        if self._measured != self.version:
            yield from self.state_steps()
            self._measured = self.version
        if self.size + len(update) > self.max_size:
            raise QuotaExceeded("bytes in this document", int(self.max_size))

    def _take(self, update: bytes, parsed: Parsed) -> None:
        if self.raw is not None:
            self.raw.add(update)
        elif not parsed.faithful:
            self.raw = Joined([self._encode(), update])
        self._merge(update)
        self.gate.accept(parsed)
        self.size += len(update)
        self.version += 1

    def _take_steps(self, update: bytes, parsed: Parsed) -> Generator[None, None, None]:
        if self.raw is not None:
            yield from self.raw.settle_steps()
        if len(update) <= LARGE:
            self._take(update, parsed)
            yield
            return
        if parsed.ranges and not parsed.cuts:
            again = yield from parse_steps(update, ACCEPTED, {})
            parsed.cuts, parsed.bounds = again.cuts, again.bounds
        if self.raw is not None:
            self.raw.add(update)
        elif not parsed.faithful:
            self.raw = Joined([self._encode(), update])
        for piece in split(update, parsed, PIECE):
            self._merge(piece)
            yield
        if self.raw is not None:
            yield from self.raw.settle_steps()
        # Last, and its clocks all at once: until then the document is what it was.
        yield from self.gate.accept_steps(parsed)
        self.size += len(update)
        self.version += 1

    def _merge(self, update: bytes) -> None:
        """Apply an update to the ``Doc``, which panics at what it can't handle.

        A panic derives from ``BaseException`` and may leave the update half applied.
        """
        try:
            self.doc.apply_update(update)
        except BaseException as exc:
            if is_failure(exc):
                raise DocumentBroken(f"pycrdt failed at {len(update)} bytes") from exc
            raise

    def _park(self, update: bytes, parsed: Parsed) -> None:
        if self.parked_size + len(update) + PARKING > self.max_parked:
            raise QuotaExceeded("updates that wait for others", self.max_parked)
        self._keep(update, parsed)
        self._wait(update, parsed)

    def _keep(self, update: bytes, parsed: Parsed) -> None:
        self.parked[update] = parsed
        self.parked_size += len(update) + PARKING
        if len(update) > LARGE:
            self._large_parked += 1
            parsed.cuts = {}  # They would take as much memory as the update.

    def _wait(self, update: bytes, parsed: Parsed) -> None:
        client, clock = parsed.missing
        heappush(self.waiting.setdefault(client, []), (clock, update))

    def drop(self, update: bytes) -> None:
        """Forget a parked update, if there is one of these bytes."""
        if self.parked.pop(update, None) is not None:
            self.parked_size -= len(update) + PARKING
            if len(update) > LARGE:
                self._large_parked -= 1

    def _release(self, first: Parsed) -> Generator[None, None, list[bytes]]:
        """Apply what no longer waits, given that an update was accepted.

        Returns it, in causal order. There are pauses if any of it is large.
        """
        released: list[bytes] = []
        queue = [first]
        while queue:
            accepted = queue.pop()
            for client in accepted.clients():
                heap = self.waiting.get(client)
                while heap and heap[0][0] < self.gate.clocks.get(client, 0):
                    _, update = heappop(heap)
                    if update not in self.parked:
                        continue
                    parsed, news = self.parked[update], update
                    large = len(update) > LARGE
                    try:
                        if large:
                            verdict = yield from self.gate.judge_steps(parsed)
                        else:
                            verdict = self.gate.judge(parsed)
                        if verdict is Verdict.READY and parsed.partial:
                            news, parsed = yield from self._shorten(update, parsed)
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
                            if large:
                                yield from self._take_steps(news, parsed)
                            else:
                                self._take(news, parsed)
                        except DocumentBroken:
                            # Who sent what it waited for is not to blame.
                            self.culprit = update
                            return released
                        queue.append(parsed)
                        released.append(news)
                if heap is not None and not heap:
                    del self.waiting[client]
        return released

    def state_vector(self) -> bytes:
        """Encode how much of each client is here, parked updates not counted."""
        return _vector(self.gate.clocks)

    def state(self) -> bytes:
        """Encode the whole document as one update.

        Raises:
            DocumentBroken: If pycrdt failed: this object must not be used any more.
        """
        state = self._encode() if self.raw is None else self.raw.encode()
        self.size = len(state)
        return state

    def _encode(self, state_vector: bytes = b"\x00") -> bytes:
        try:
            return self.doc.get_update(state_vector)
        except BaseException as exc:
            if is_failure(exc):
                raise DocumentBroken("pycrdt failed to encode a document") from exc
            raise

    def state_steps(self) -> Generator[None, None, bytes]:
        """Encode the whole document as one update, with pauses.

        Nothing may be applied between them.

        Raises:
            DocumentBroken: As :meth:`state`.
        """
        if self.raw is None:
            state = yield from self._encode_steps({})
        else:
            state = yield from self.raw.encode_steps()
        self.size = len(state)
        return state

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
        return self._encode(_vector(self._trim(clocks)))

    def diff_steps(self, state_vector: bytes) -> Generator[None, None, bytes]:
        """Encode what somebody with a state vector lacks, with pauses.

        Nothing may be applied between them.

        Raises:
            ProtocolError, DocumentBroken: As :meth:`diff`.
        """
        clocks = wire.read_state_vector(state_vector)
        if not clocks:
            return (yield from self.state_steps())
        if self.raw is not None:
            return (yield from self.raw.encode_steps(clocks))
        return (yield from self._encode_steps(self._trim(clocks)))

    def unseen_steps(self, other: Document) -> Generator[None, None, bytes]:
        """Encode what another has and this one doesn't, with pauses.

        This one may be broken: what counts is what it has accepted.
        """
        if self.gate.covers(other.gate):
            return EMPTY
        return (yield from other.diff_steps(self.state_vector()))

    def _encode_steps(self, clocks: dict[int, int]) -> Generator[None, None, bytes]:
        """Have pycrdt encode what is behind some clocks, a few clients at a time.

        All that it says of a few clients is their sections between a number and the
        deletions; those are the same each time, if perhaps in another order.
        """
        known = self.gate.clocks
        lacking = {c: n - clocks.get(c, 0) for c, n in known.items()}
        share = sum(lacking.values()) / SHARES
        deletions = self._encode(self.state_vector())[1:]
        sections = []
        count = 0
        some: list[int] = []
        taken = 0
        for left, (client, clocks_left) in enumerate(lacking.items(), 1 - len(known)):
            some.append(client)
            taken += clocks_left
            if taken < share and left:
                continue
            yield
            there = known | {c: clocks.get(c, 0) for c in some}
            part = self._encode(_vector({c: n for c, n in there.items() if n}))
            found, at = wire.read_uint(part, 0)
            sections.append(part[at : len(part) - len(deletions)])
            count += found
            some.clear()
            taken = 0
        return b"".join((wire.uint(count), *sections, deletions))

    def _trim(self, clocks: dict[int, int]) -> dict[int, int]:
        """Only what we know of, within what we know: nothing else reaches pycrdt."""
        known = self.gate.clocks
        return {
            client: self._before_pair(client, min(clock, known[client]))
            for client, clock in clocks.items()
            if client in known and clock
        }

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

    def verify(self, state: bytes, index: bytes) -> bool:
        """Whether a snapshot says of this document what its log says.

        Its pieces must pass the gate, and have the log's end clock for each client and
        its deletions. They may delete more: of concurrent writes of a map entry, all
        but one are deleted by nobody. And restored, it must be this document again.
        """
        other = Document()
        other.gate = Gate(ACCEPTED)
        try:
            _, pieces, _ = read_index(state, index)
            for piece in pieces:
                outcome, _ = other.apply(piece, parse(piece, ACCEPTED))
                if outcome is Outcome.PARKED:
                    return False
            if not other.gate.covers(self.gate):
                return False
            restored = Document.restore(state, index)
            return (
                restored.gate.encode() == self.gate.encode()
                and restored.parked.keys() == self.parked.keys()
                and _amount_to_the_same(restored.state(), self.state())
            )
        except (ProtocolError, UpdateRejected, DocumentBroken):
            return False


def _amount_to_the_same(one: bytes, other: bytes) -> bool:
    """Whether two states are the same, or become so in a ``Doc``.

    What is applied at once it joins more than what comes in pieces.
    """
    if same(one, other):
        return True
    documents = Document(), Document()
    for document, state in zip(documents, (one, other), strict=True):
        document._merge(state)
    return same(*(document.state() for document in documents))


def _vector(clocks: Mapping[int, int]) -> bytes:
    return wire.uint(len(clocks)) + b"".join(
        wire.uint(client) + wire.uint(clock) for client, clock in clocks.items()
    )


def is_failure(exc: BaseException) -> bool:
    """Whether an exception is pycrdt's: a panic of Rust is no ``Exception``."""
    return isinstance(exc, Exception) or type(exc).__module__ == "pyo3_runtime"
