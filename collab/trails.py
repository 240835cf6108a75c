"""Trails: what the items of an update refer to, and whether they have an order.

A client's trail is flat, because long updates have items by the million: of each the
clock, how it is placed, and two references, which are a client and a clock each.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final

from .contents import SLICE
from .errors import UpdateRejected
from .ranges import Ranges

MAX_CLOCK: Final = 2**31 - 1
"""The largest clock: yrs counts in 32 bits, some of them signed."""

STRIDE: Final = 6
"""Numbers per entry of a trail: start, how, and two references (client, clock)."""

# How an item is placed, as bits of an entry.
ORIGIN = 1  # The first reference is its origin,
RIGHT = 2  # the second its right origin.
INSIDE = 4  # The first reference is the item of the type that it is in.
KEYED = 8  # It is a map entry, or an attribute.
FORMAT = 16  # It is a formatting mark.
GONE = 32  # It is not an item but a GC.
LONG = 64  # It has several clocks, and is not deleted.


def check_order(
    ranges: Mapping[int, Ranges],
    trails: Mapping[int, Sequence[int]],
    links: Mapping[int, Mapping[int, int]],
) -> Generator[None, None, None]:
    """Check that the items of an update can be put in an order at all.

    Yjs and yrs would keep those that cannot as pending, for ever.
    """
    # Mostly it is enough that the clients can: one merely answered the other.
    waits = {
        client: {
            c for c, clock in foreign.items() if c in ranges and clock >= ranges[c][0]
        }
        for client, foreign in links.items()
    }
    awaited: dict[int, list[int]] = {}
    for client, others in waits.items():
        for other in others:
            awaited.setdefault(other, []).append(client)
    free = [c for c in awaited if not waits.get(c)]
    for client in free:
        for other in awaited.get(client, ()):
            waits[other].discard(client)
            if not waits[other]:
                free.append(other)
    clients = [client for client, others in waits.items() if others]

    # They wrote at the same time.
    for run in in_order(ranges, trails, clients):
        if run is None:
            yield


def in_order(
    ranges: Mapping[int, Ranges],
    trails: Mapping[int, Sequence[int]],
    clients: Sequence[int],
) -> Iterator[tuple[int, int] | None]:
    """Integrate the items of clients in our mind, each behind what it refers to.

    Yields ``client, clock``: those of the client before that clock come next. And
    ``None`` every few thousand items, for a pause. References to other clients than
    these are none of its business.

    Raises:
        UpdateRejected: If there is no such order.
    """
    left = list(clients)
    todo = dict.fromkeys(clients, 0)
    done = {client: ranges[client][0] for client in clients}
    waiting: dict[int, list[tuple[int, int]]] = {client: [] for client in clients}
    pause = SLICE
    while left:
        client = left.pop()
        trail = trails[client]
        blocked = None
        for entry in range(todo[client], len(trail), STRIDE):
            pause -= 1
            if not pause:
                yield None
                pause = SLICE
            start, how, first, first_clock, second, second_clock = trail[
                entry : entry + STRIDE
            ]
            done[client] = start
            if how & (ORIGIN | INSIDE) and done.get(first, MAX_CLOCK) <= first_clock:
                blocked = first, first_clock
            elif how & RIGHT and done.get(second, MAX_CLOCK) <= second_clock:
                blocked = second, second_clock
            else:
                continue
            if blocked[0] == client:
                # It refers to what it only continues.
                blocked = None
                continue
            todo[client] = entry
            heappush(waiting[blocked[0]], (blocked[1], client))
            break
        if blocked is None:
            done[client] = MAX_CLOCK
        yield client, done[client]
        while waiting[client] and waiting[client][0][0] < done[client]:
            left.append(heappop(waiting[client])[1])
    if any(waiting.values()):
        raise UpdateRejected("cyclic-references")
