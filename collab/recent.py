"""What was appended to a log last, for clients that were away for a moment.

A difference to a state vector has all deletions of the document in it; what was
appended since somebody left is mostly a few bytes.
"""

from __future__ import annotations

from collections import deque
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
        self.rows: deque[bytes] = deque()
        self.size = 0

    def append(self, updates: Sequence[bytes]) -> None:
        """Add what was appended at the next positions."""
        self.rows.extend(updates)
        self.size += sum(map(len, updates))
        while len(self.rows) > MAX_ROWS or self.size > MAX_SIZE:
            self.size -= len(self.rows.popleft())
            self.start += 1

    def since(self, position: int) -> list[bytes] | None:
        """The updates behind a position; ``None`` if these are more than is kept."""
        if not self.start <= position <= self.start + len(self.rows):
            return None
        return [*self.rows][position - self.start :]


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
