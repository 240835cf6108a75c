"""What was appended to a log last, for clients that were away for a moment.

A difference to a state vector has all deletions of the document in it; what was
appended since somebody left is mostly a few bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from .gate import Verdict, compare
from .ranges import Ranges, behind, includes, unite
from .updates import ACCEPTED, parse

MAX_ROWS = 1000
MAX_SIZE = 128 * 1024
"""Bytes of updates that are kept."""


class Recent:
    """The last updates of a log, without gaps."""

    def __init__(self, position: int = 0) -> None:
        self.start = position
        """The position behind which they are."""
        self.end = position
        self.rows: list[bytes] = []
        self.positions = array("q")
        """Where each of them ends: one that was thinned stands for several."""
        self.size = 0
        self.sufficed: tuple[tuple[int, bytes], list[bytes]] | None = None
        """A position and a state vector, and the updates that sufficed for these: who
        was cut off together comes back with the same."""
        self.whole = False
        """Whether nothing can be put before them: there is no room, or no more."""

    def append(self, updates: Sequence[bytes]) -> None:
        """Add what was appended at the next positions."""
        before, self.end = self.end, self.end + len(updates)
        self.rows += updates
        self.positions.extend(range(before + 1, self.end + 1))
        self.size += sum(map(len, updates))
        over = max(0, len(self.rows) - MAX_ROWS)
        size = self.size - sum(map(len, self.rows[:over]))
        while size > MAX_SIZE:
            size -= len(self.rows[over])
            over += 1
        if over:
            self.start = self.positions[over - 1]
            self.size = size
            self.whole = True
            del self.rows[:over], self.positions[:over]

    def precede(self, start: int, rows: Sequence[tuple[int, bytes]]) -> None:
        """Put rows of the log before, which are all from a position up to here.

        Each comes with the position at which it ends. As many are taken as there is
        room for; nothing can be put before them any more.
        """
        first, space = len(rows), MAX_SIZE - self.size
        while first and len(self.rows) + len(rows) - first < MAX_ROWS:
            if len(rows[first - 1][1]) > space:
                break
            first -= 1
            space -= len(rows[first][1])
        if first:
            start, rows = rows[first - 1][0], rows[first:]
        self.start = start
        self.rows[:0] = [update for _, update in rows]
        self.positions[:0] = array("q", [position for position, _ in rows])
        self.size = MAX_SIZE - space
        self.whole = True

    def since(self, position: int) -> list[bytes] | None:
        """The updates behind a position; ``None`` if these are more than is kept.

        The first of them may stand for some positions before it, too.
        """
        if not self.start <= position <= self.end:
            return None
        return self.rows[bisect_right(self.positions, position) :]


def suffices(
    clocks: Mapping[int, int],
    updates: Sequence[bytes],
    wanted: Mapping[int, int],
    deleted: Mapping[int, Ranges],
) -> bool:
    """Whether somebody with a state vector has what is wanted, given some updates.

    Each must build upon what is there before it: rows stand in the order in which they
    came, and one that came early stands before what it waited for. It may stand before
    the first of these, and only delete what they bring. So of that they have to delete
    all that is ``deleted``; of what came before, the position says it.
    """
    reached = dict(clocks)
    brought: dict[int, int] = {}
    named: dict[int, Ranges] = {}
    for update in updates:
        parsed = parse(update, ACCEPTED)
        if compare(reached, parsed) is Verdict.EARLY:
            return False
        for client, ranges in parsed.ranges.items():
            reached[client] = max(reached.get(client, 0), ranges[-1])
            brought[client] = min(brought.get(client, ranges[0]), ranges[0])
        for deletes in (parsed.gone, parsed.deletes):
            for client, ranges in deletes.items():
                unite(named.setdefault(client, []), ranges)
    if any(reached.get(client, 0) < clock for client, clock in wanted.items()):
        return False
    return all(
        includes(named.get(client, []), behind(deleted.get(client, []), first))
        for client, first in brought.items()
    )
