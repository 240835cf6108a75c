"""Updates cut into smaller ones, so that applying them can be paused.

pycrdt holds the interpreter's lock while it applies an update: half a second for 13 MiB
of two million structs, and seconds if several people wrote them at the same time. The
pieces are cut between structs, which stay byte for byte as they are. Each piece refers
only to itself and to what stands before it; deletions come last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from .trails import in_order
from .updates import Parsed
from .wire import uint

PIECE: Final = 64 * 1024
"""Bytes of a piece: 5 to 10 ms for pycrdt, if its structs are small."""


DELETES: Final = 32
"""How much smaller pieces of deletions are: pycrdt takes 20 us for one of 4 bytes."""


def split(update: bytes, parsed: Parsed, size: int = PIECE) -> Iterator[bytes]:
    """Cut an update into pieces of about so many bytes, to be applied in their order.

    ``parsed`` is what the parser says of it, with its cuts. A struct is never cut, so
    that a piece of one may be larger. What has gaps in between is left whole.

    Making a piece takes about as long as pycrdt takes for it.
    """
    if len(update) <= size or any(len(r) > 2 for r in parsed.ranges.values()):
        yield update
        return
    sections = {client: _Section(client, parsed) for client in parsed.ranges}
    piece: dict[int, int] = {}
    """The first struct of each client in this piece."""
    used = 0
    for run in in_order(parsed.ranges, parsed.trails, list(sections)):
        if run is None:
            continue
        client, clock = run
        section = sections[client]
        stop = section.find(clock)
        while section.at < stop:
            if used >= size:
                yield _assemble(update, sections, piece)
                piece.clear()
                used = 0
            piece.setdefault(client, section.at)
            used += section.take(stop, size - used)
    if piece:
        yield _assemble(update, sections, piece)
    yield from _split_deletes(parsed, max(1, size // DELETES))


class _Section:
    """The structs of a client that are not in a piece yet."""

    def __init__(self, client: int, parsed: Parsed) -> None:
        start, end = parsed.ranges[client]
        cuts = parsed.cuts[client]
        self.clocks = cuts[::2]
        self.offsets = cuts[1::2]
        # A Skip before or behind them is not in the ranges, and left out.
        self.at = bisect_left(self.clocks, start)
        self.last = bisect_left(self.clocks, end)
        self.stop = (
            self.offsets[self.last]
            if self.last < len(self.offsets)
            else parsed.bounds[client][1]
        )

    def offset(self, index: int) -> int:
        """Where a struct begins, or the last one ends."""
        return self.offsets[index] if index < self.last else self.stop

    def find(self, clock: int) -> int:
        """The first struct that is not before a clock."""
        return bisect_left(self.clocks, clock, self.at, self.last)

    def take(self, until: int, room: int) -> int:
        """Take structs before one until so many bytes are full; return their bytes."""
        start = self.offsets[self.at]
        self.at = bisect_left(self.offsets, start + room, self.at + 1, until)
        return self.offset(self.at) - start


def _assemble(
    update: bytes, sections: dict[int, _Section], piece: dict[int, int]
) -> bytes:
    # Yjs, too, begins with the highest client.
    parts = [uint(len(piece))]
    for client in sorted(piece, reverse=True):
        section, first = sections[client], piece[client]
        parts += uint(section.at - first), uint(client), uint(section.clocks[first])
        parts.append(update[section.offsets[first] : section.offset(section.at)])
    parts.append(b"\x00")
    return b"".join(parts)


def _split_deletes(parsed: Parsed, size: int) -> Iterator[bytes]:
    sections: list[bytes] = []
    used = 0
    for client, ranges in parsed.deletes.items():
        at = 0
        while at < len(ranges):
            first = at
            encoded = bytearray()
            while at < len(ranges) and used + len(encoded) < size:
                encoded += uint(ranges[at]) + uint(ranges[at + 1] - ranges[at])
                at += 2
            sections.append(uint(client) + uint((at - first) // 2) + encoded)
            used += len(sections[-1])
            if used >= size:
                yield b"".join((b"\x00", uint(len(sections)), *sections))
                sections.clear()
                used = 0
    if sections:
        yield b"".join((b"\x00", uint(len(sections)), *sections))
