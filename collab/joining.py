"""Updates joined into one, byte for byte.

pycrdt encodes a document, and merges updates, by decoding everything and encoding it
anew, and some things come out as others: see ``Gate.faithful``. Here nothing is looked
into. The updates that a document accepted are contiguous for each client, so that its
structs only have to be put behind each other.

Nothing is squashed either: what somebody types is a struct per keystroke, where a
``Doc`` makes one of a sentence. The 259,778 updates of the paper of Automerge are
223 KB in a ``Doc`` and 1,975 KB here; they take 0.8 s to join, 3 us each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final

from .contents import SLICE, finish, read_text, read_uint, skip_values
from .ranges import Ranges, unite, unite_steps
from .updates import ACCEPTED, DEFAULT, LARGE, Parsed, cut, parse_steps
from .wire import data, uint

_STEP: Final = 20_000
"""Structs whose offsets are noted at a time: 1 to 2 ms."""

BATCH: Final = 500
"""Updates that are taken apart at a time: 3 ms of work, if they are keystrokes."""

_GC, _STRING, _EMBED, _FORMAT, _ANY, _SUBDOCUMENT, _SKIP = 0, 4, 5, 6, 8, 9, 10
_WITH_OBJECTS: Final = frozenset((_EMBED, _FORMAT, _ANY, _SUBDOCUMENT))

_EVERYTHING: Final[Mapping[int, int]] = {}


class Joined:
    """Updates that were accepted one after another, as one.

    Raises:
        ValueError: If one has not been accepted: it doesn't build upon those before.
    """

    def __init__(self, updates: Iterable[bytes] = ()) -> None:
        self.heavy = False
        """Whether taking apart what was added lately takes long: see settle_steps."""
        self._fresh: list[bytes] = []
        self._sections: dict[int, _Section] = {}
        self._deletes: dict[int, Ranges] = {}
        for update in updates:
            self.add(update)

    def add(self, update: bytes) -> None:
        """Join one more, which builds upon those before and may repeat them."""
        self._fresh.append(update)
        if len(update) > LARGE:
            self.heavy = True
        if len(self._fresh) > BATCH:
            finish(self.settle_steps())

    def encode(self, clocks: Mapping[int, int] = _EVERYTHING) -> bytes:
        """Encode what somebody lacks who knows some clocks of some clients.

        Deletions have no clocks: all of them are part of it.
        """
        return finish(self.encode_steps(clocks))

    def encode_steps(
        self, clocks: Mapping[int, int] = _EVERYTHING
    ) -> Generator[None, None, bytes]:
        """Encode it with pauses. Nothing may be added between them."""
        if not clocks and not self._sections and len(self._fresh) == 1:
            return self._fresh[0]
        yield from self.settle_steps()
        # Yjs, too, begins with the highest client.
        clients = sorted(self._sections, reverse=True)
        lacking = [c for c in clients if self._sections[c].end > clocks.get(c, 0)]
        pieces = [uint(len(lacking))]
        for client in lacking:
            pieces += self._sections[client].since(clocks.get(client, 0))
            yield
        yield from _put_deletes(pieces, self._deletes)
        return b"".join(pieces)

    def settle_steps(self) -> Generator[None, None, None]:
        """Take apart what was added lately, with pauses.

        Nothing may be added between them.
        """
        fresh, self._fresh = self._fresh, []
        self.heavy = False
        for update in fresh:
            yield from self._take(update)
            yield

    def _take(self, update: bytes) -> Generator[None, None, None]:
        if len(update) > LARGE:
            parsed = yield from parse_steps(update, ACCEPTED, {})
        else:
            parsed = cut(update)
        for client, cuts in parsed.cuts.items():
            section = self._sections.get(client)
            if section is None:
                section = self._sections[client] = _Section(client)
            stop = parsed.bounds[client][1]
            yield from section.add(update, cuts, stop, parsed.ranges[client])
        for client, deletes in parsed.deletes.items():
            if len(update) > LARGE:
                yield from unite_steps(self._deletes.setdefault(client, []), deletes)
            else:
                unite(self._deletes.setdefault(client, []), deletes)


class _Section:
    """The structs of a client, from its first clock on."""

    def __init__(self, client: int) -> None:
        self.client = client
        self.end = 0
        self.encoded = bytearray()
        self.clocks = array("Q")
        """Of each struct."""
        self.offsets = array("Q")
        """Of each struct, in ``encoded``."""

    def add(
        self, update: bytes, cuts: Sequence[int], stop: int, ranges: Ranges
    ) -> Generator[None, None, None]:
        """Add what is not known of a section that ends at an offset of an update."""
        end = ranges[-1]
        known = self.end
        if end <= known:
            return
        if max(ranges[::2]) > known:
            raise ValueError("updates with a gap between them")
        clocks, offsets = array("Q"), array("Q")
        clocks.extend(cuts[::2])
        offsets.extend(cuts[1::2])
        # A Skip is wholly known, or the update would have had to wait; or it is last.
        while update[offsets[-1]] == _SKIP:
            clocks.pop()
            stop = offsets.pop()
        first = bisect_right(clocks, known) - 1
        offsets.append(stop)
        if clocks[first] < known:
            struct = update[offsets[first] : offsets[first + 1]]
            self._put(known, _rest(struct, self.client, known, known - clocks[first]))
            first += 1
        self.clocks.extend(clocks[first:])
        shift = len(self.encoded) - offsets[first]
        for at in range(first, len(offsets) - 1, _STEP):
            if at > first:
                yield
            some = offsets[at : min(at + _STEP, len(offsets) - 1)]
            self.offsets.extend([offset + shift for offset in some])
        self.encoded += update[offsets[first] : stop]
        self.end = end

    def _put(self, clock: int, struct: bytes) -> None:
        self.clocks.append(clock)
        self.offsets.append(len(self.encoded))
        self.encoded += struct

    def since(self, known: int) -> list[bytes]:
        """Encode what somebody lacks who knows all before a clock."""
        first = bisect_right(self.clocks, known) - 1
        count = len(self.clocks) - first
        at = self.offsets[first]
        rest = b""
        if self.clocks[first] < known:
            stop = self.offsets[first + 1] if count > 1 else len(self.encoded)
            struct = bytes(self.encoded[at:stop])
            rest = _rest(struct, self.client, known, known - self.clocks[first])
            at = stop
        head = uint(count) + uint(self.client) + uint(known)
        return [head, rest, bytes(memoryview(self.encoded)[at:])]


def trim_steps(
    update: bytes, parsed: Parsed, known: Mapping[int, int]
) -> Generator[None, None, bytes]:
    """Encode only what is not known of an update that is ready, with pauses.

    ``parsed`` is what the parser says of it, with its cuts.
    """
    pieces: list[bytes] = []
    count = 0
    for client, cuts in parsed.cuts.items():
        section = _Section(client)
        section.end = start = known.get(client, 0)
        ranges = parsed.ranges[client]
        yield from section.add(update, cuts, parsed.bounds[client][1], ranges)
        if section.end > start:
            pieces += section.since(start)
            count += 1
    yield from _put_deletes(pieces, parsed.deletes)
    return uint(count) + b"".join(pieces)


def encode_deletes(deletes: Mapping[int, Ranges]) -> bytes:
    """Encode deletions as what stands behind the structs of an update."""
    pieces: list[bytes] = []
    finish(_put_deletes(pieces, deletes))
    return b"".join(pieces)


def _put_deletes(
    pieces: list[bytes], deletes: Mapping[int, Ranges]
) -> Generator[None, None, None]:
    pieces.append(uint(len(deletes)))
    for client, ranges in sorted(deletes.items(), reverse=True):
        pieces += uint(client), uint(len(ranges) // 2)
        for at in range(0, len(ranges), 2):
            if at % SLICE == SLICE - 2:
                yield
            pieces += uint(ranges[at]), uint(ranges[at + 1] - ranges[at])


def _rest(struct: bytes, client: int, clock: int, known: int) -> bytes:
    """Encode a struct without its first clocks, as Yjs does (``Item.write``).

    Where that cuts a surrogate pair in half, U+FFFD takes the place of its second half.
    Whoever knows the first half but not the second has U+FFFD in its place, too: UTF-8
    cannot carry half a pair. Yjs comes to the same when it is sent all of the struct
    and leaves out what it knows (``ContentString.splice``).
    """
    info = struct[0]
    at = 1
    if info == _GC:
        length, _ = read_uint(struct, at)
        return struct[:1] + uint(length - known)
    right = b""
    if info & 0x80:
        _, at = read_uint(struct, at)
        _, at = read_uint(struct, at)
    if info & 0x40:
        before = at
        _, at = read_uint(struct, at)
        _, at = read_uint(struct, at)
        right = struct[before:at]
    if not info & 0xC0:
        kind, at = read_uint(struct, at)
        if kind:
            _, at = read_text(struct, at)
        else:
            _, at = read_uint(struct, at)
            _, at = read_uint(struct, at)
        if info & 0x20:
            _, at = read_text(struct, at)
    # It continues what is known.
    head = bytes((info | 0x80,)) + uint(client) + uint(clock - 1) + right
    ref = info & 31
    if ref == _STRING:
        text, _ = read_text(struct, at)
        units = text.encode("utf-16-le")[2 * known :]
        if 0xDC <= units[1] <= 0xDF:
            units = b"\xfd\xff" + units[2:]
        return head + data(units.decode("utf-16-le").encode())
    length, at = read_uint(struct, at)
    content = b""
    if ref == _ANY:
        at, _ = finish(skip_values(struct, at, known, DEFAULT.value_depth))
        content = struct[at:]
    return head + uint(length - known) + content


def same(one: bytes, other: bytes) -> bool:
    """Whether two encodings of a document say the same.

    The order of clients is nobody's concern, nor is that of the keys in an object: a
    ``Doc`` has them in another one each time.

    Raises:
        UpdateRejected: If one of them is malformed.
    """
    ours, theirs = cut(one), cut(other)
    if ours.ranges != theirs.ranges or ours.deletes != theirs.deletes:
        return False
    for client in ours.ranges:
        first, last = ours.bounds[client], theirs.bounds[client]
        if one[slice(*first)] == other[slice(*last)]:
            continue
        clocks = ours.cuts[client][::2]
        if clocks != theirs.cuts[client][::2]:
            return False
        pairs = zip(
            _structs(one, ours.cuts[client], first[1]),
            _structs(other, theirs.cuts[client], last[1]),
            strict=True,
        )
        for struct, twin in pairs:
            if struct != twin and not (
                struct[0] & 31 in _WITH_OBJECTS and sorted(struct) == sorted(twin)
            ):
                return False
    return True


def _structs(update: bytes, cuts: Sequence[int], stop: int) -> Iterator[bytes]:
    offsets = cuts[1::2]
    for start, end in zip(offsets, [*offsets[1:], stop], strict=True):
        yield update[start:end]
