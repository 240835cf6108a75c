"""Large documents, made up byte by byte: as logs of updates in causal order."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from random import Random

from collab.wire import data, text, uint

SEED = 1
CLIENTS = 4
ROWS = 600
"""Updates of a log; each brings something of every client."""


def few_structs(size: int) -> list[bytes]:
    """A text of pastes of a megabyte, cut up by a few deletions."""
    paste = ("a large paste, é and 漢字 " * 40_000).encode()[:1_000_000]
    paste = paste.decode(errors="ignore").encode()
    units = len(paste.decode())
    client = uint(2**31 + 7)
    log = []
    for number in range(max(2, size // len(paste))):
        clock = number * units
        place = b"\x84" + client + uint(clock - 1) if number else b"\x04\x01\x04text"
        head = b"\x01\x01" + client + uint(clock) + place
        gone = [clock + at for at in range(100, units, units // 20)]
        deletes = b"".join(uint(at) + uint(3) for at in gone)
        log.append(head + data(paste) + b"\x01" + client + uint(len(gone)) + deletes)
    return log


def typed(size: int) -> list[bytes]:
    """A text that several people type at the same time, between each other's letters.

    Hardly anything can be squashed: a struct has about 16 bytes, and a tenth of them
    are deleted again.
    """
    chance = Random(SEED)
    draw = chance.random
    names = sorted(chance.sample(range(2**31, 2**32), CLIENTS))
    people = [uint(name) for name in names]
    owner, clock, right = array("b"), array("l"), array("l")
    clocks = [0] * CLIENTS
    places: list[int | None] = [None] * CLIENTS
    log: list[bytes] = []
    while len(log) < ROWS:
        bodies = [bytearray() for _ in people]
        counts = [0] * CLIENTS
        starts = clocks.copy()
        gone: list[list[int]] = [[] for _ in people]
        while sum(map(len, bodies)) < size / ROWS:
            seen = [(at, -1 if at is None else right[at]) for at in places]
            for who, (left, beside) in enumerate(seen):
                item, body = len(owner), bodies[who]
                right.append(-1)
                if left is None:
                    body += b"\x04\x01\x04text"
                    if item:
                        right[item - 1] = item
                else:
                    body += b"\x84" if beside < 0 else b"\xc4"
                    body += people[owner[left]] + uint(clock[left])
                    if beside >= 0:
                        body += people[owner[beside]] + uint(clock[beside])
                    while right[left] != beside:  # Others were as fast.
                        left = right[left]
                    right[left], right[item] = item, beside
                body += b"\x01" + bytes((97 + item % 26,))
                owner.append(who)
                clock.append(clocks[who])
                clocks[who] += 1
                counts[who] += 1
                fate = draw()
                places[who] = item
                if fate < 0.1:
                    places[who] = int(draw() * len(owner))
                elif fate < 0.2:
                    gone[who].append(clocks[who] - 1)
                elif fate < 0.6:
                    neighbour = places[(who + 1) % CLIENTS]
                    places[who] = item if neighbour is None else neighbour
        log.append(_update(people, counts, starts, bodies, gone))
    return log


def cut(size: int) -> list[bytes]:
    """The same, with an emoji that was cut in half: it is kept and served as bytes."""
    emoji, within = uint(5), uint(6)
    return [
        b"\x01\x01" + emoji + b"\x00\x04\x01\x04text" + text("😀") + b"\x00",
        b"\x01\x01" + within + b"\x00\xc4" + emoji + b"\x00" + emoji + b"\x01\x01-\x00",
        *typed(size),
    ]


def xml(size: int) -> list[bytes]:
    """Elements with attributes, inside each other."""
    chance = Random(SEED)
    names = sorted(chance.sample(range(2**31, 2**32), CLIENTS))
    people = [uint(name) for name in names]
    clocks = [0] * CLIENTS
    elements: list[tuple[int, int]] = []
    last: dict[tuple[int, int], tuple[int, int]] = {}
    log: list[bytes] = []
    while len(log) < ROWS:
        bodies = [bytearray() for _ in people]
        counts = [0] * CLIENTS
        starts = clocks.copy()
        fresh: list[tuple[int, int]] = []
        news: dict[tuple[int, int], tuple[int, int]] = {}
        for who, body in enumerate(bodies):
            own: dict[tuple[int, int], tuple[int, int]] = {}
            while len(body) < size / ROWS / CLIENTS:
                element = who, clocks[who]
                if elements:
                    parent = elements[int(chance.random() * min(len(elements), 2000))]
                    before = own.get(parent) or last.get(parent)
                    body += b"\x87" if before else b"\x07\x00"
                    beside = before or parent
                    body += people[beside[0]] + uint(beside[1])
                    own[parent] = element
                elif not body:
                    body += b"\x07\x01\x03xml"
                else:
                    body += b"\x87" + people[who] + uint(clocks[who] - 3)
                body += b"\x03\x01p"
                fresh.append(element)
                for name in (b"id", b"class"):
                    body += b"\x28\x00" + people[who] + uint(element[1])
                    body += data(name) + b"\x01w\x01v"
                clocks[who] += 3
                counts[who] += 3
            for parent, element in own.items():
                news[parent] = max(news.get(parent, element), element)
        last |= news
        elements += fresh
        log.append(_update(people, counts, starts, bodies, [[] for _ in people]))
    return log


def _update(
    people: Sequence[bytes],
    counts: Sequence[int],
    starts: Sequence[int],
    bodies: Sequence[bytes | bytearray],
    gone: Sequence[Sequence[int]],
) -> bytes:
    pieces = [uint(len(people))]
    for who in reversed(range(len(people))):
        pieces += uint(counts[who]), people[who], uint(starts[who]), bytes(bodies[who])
    deleting = [who for who in range(len(people)) if gone[who]]
    pieces.append(uint(len(deleting)))
    for who in deleting:
        pieces += people[who], uint(len(gone[who]))
        for clock in gone[who]:
            pieces += uint(clock), b"\x01"
    return b"".join(pieces)


KINDS: dict[str, Callable[[int], list[bytes]]] = {
    "few structs": few_structs,
    "typed": typed,
    "cut": cut,
    "xml": xml,
}
