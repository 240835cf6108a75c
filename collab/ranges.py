"""Sets of clocks, such as those that are deleted, as ascending ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TypeAlias

Ranges: TypeAlias = list[int]
"""Ascending ranges of clocks, flat: start, end, start, end. Ends are exclusive."""

MANY = 64
"""Ranges that are rather merged with all that is known than put in one by one."""

STEP = 4_000
"""Numbers that are merged at a time."""


def extend(ranges: Ranges, start: int, end: int) -> None:
    """Add a range that is not before the last one."""
    if ranges and ranges[-1] == start:
        ranges[-1] = end
    else:
        ranges += (start, end)


def unite(known: Ranges, more: Ranges) -> None:
    """Add ranges, wherever they are."""
    if len(more) > 2 * MANY:
        for _ in unite_steps(known, more):
            pass
        return
    for at in range(0, len(more), 2):
        _put(known, more[at], more[at + 1])


def unite_steps(known: Ranges, more: Ranges) -> Iterator[None]:
    """Add many ranges, pausing every millisecond or two."""
    parts = [(0, len(more))] if more else []
    while parts:
        first, last = parts.pop()
        # What is known from the range that begins before, or touches, these.
        left = bisect_left(known, more[first]) & ~1
        right = bisect_right(known, more[last - 1], left)
        right += right & 1
        if last - first == 2:
            _put(known, more[first], more[last - 1])
        elif right - left + last - first > STEP:
            middle = first + (last - first) // 4 * 2
            parts += (middle, last), (first, middle)
            continue
        else:
            known[left:right] = _merged(known[left:right], more[first:last])
        yield


def _put(known: Ranges, start: int, end: int) -> None:
    left = bisect_left(known, start)
    right = bisect_right(known, end, left)
    # What is between gives way; an end inside of a range is not one.
    known[left:right] = ([] if left & 1 else [start]) + ([] if right & 1 else [end])


def _merged(ours: Ranges, theirs: Ranges) -> Ranges:
    pairs = sorted(
        (ranges[at], ranges[at + 1])
        for ranges in (ours, theirs)
        for at in range(0, len(ranges), 2)
    )
    merged: Ranges = []
    for start, end in pairs:
        if merged and start <= merged[-1]:
            if end > merged[-1]:
                merged[-1] = end
        else:
            merged += (start, end)
    return merged


def includes(known: Ranges, ranges: Ranges) -> bool:
    """Whether all of some ranges are known."""
    for at in range(0, len(ranges), 2):
        # Odd if it falls into a range; then that must reach to its end.
        index = bisect_right(known, ranges[at])
        if not index & 1 or known[index] < ranges[at + 1]:
            return False
    return True


def behind(ranges: Ranges, clock: int) -> Ranges:
    """The part of ranges from a clock on."""
    at = bisect_right(ranges, clock)
    return [clock, *ranges[at:]] if at & 1 else ranges[at:]
