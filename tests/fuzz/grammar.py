"""A grammar of Yjs updates, version 1, that breaks its own rules now and then.

It knows what was accepted before, so that most of what it writes builds upon that:
behind items and before them, in types and in entries of maps. Each rule is broken with
a small probability, where it stands: lengths, clocks, parents, origins, kinds of
content and of types, fillers, delete sets, JSON, values, depth, duplicates. It does not
use the encoders of the server.
"""

from __future__ import annotations

import json
import random
import struct
from dataclasses import dataclass, field
from typing import TypeAlias

from collab.gate import Gate
from tests.peers import uint

GC, DELETED, JSON, BYTES, STRING, EMBED, FORMAT, TYPE, ANY, DOC, SKIP = range(11)

Place: TypeAlias = str | tuple[int, int]
"""A root by its name, or a type by its item."""

Span: TypeAlias = tuple[int, int, int]
"""An item: its client, its first clock, and how many it has."""

ROOTS = {
    "text": (STRING, STRING, STRING, EMBED, FORMAT, DELETED, TYPE),
    "array": (ANY, ANY, BYTES, TYPE, DOC, DELETED),
    "xml": (TYPE, TYPE, STRING, DELETED),
    "map": (ANY, ANY, STRING, TYPE, BYTES, DOC, DELETED),
}
"""What stands in which root, if nobody is hostile."""

KEYS = ("a", "b", "é", "__proto__", "constructor", "length", "")
TEXTS = (
    "a",
    "xyz",
    "\n",
    "é",
    "漢字",
    "😀",
    "a😀b",
    "👩\u200d👩\u200d👧",
    "\x00",
    "\u2028",
    "\ufeff",
    "x" * 140,
)
NOT_TEXTS = (
    b"\xff",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf0\x9f\x98",
    b"\xf4\x90\x80\x80",
)
NAMES = ("p", "div", "é", "", "script", "__proto__")
ODD_JSON = (
    b"NaN",
    b"Infinity",
    b'"\\ud800"',
    b"1e999",
    b'{"a":',
    b"[" * 120 + b"]" * 120,
    b"",
    b"\xff",
    b"'a'",
    b"undefined",
    b"01",
    b"1_000",
    b'"\x01"',
    b"18446744073709551615",
    b"\xef\xbb\xbf1",
    b'{"a":1}x',
    b" 1 ",
    b'{"a":1,"a":2}',
    b"-0",
    b"1E400",
    b"9007199254740993",
    b"0.1e-400",
)
NUMBERS = (0, 1, 2, 127, 128, 16383, 16384, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1)
HUGE = (2**32, 2**53 - 1, 2**53, 2**63, 2**64 - 1, 2**70)


@dataclass
class Draft:
    """What an update would add, were it accepted."""

    lists: list[tuple[Place, int, Span]] = field(default_factory=list)
    entries: list[tuple[Place, str, Span]] = field(default_factory=list)
    types: list[tuple[int, int, int]] = field(default_factory=list)
    """Client, clock and kind."""


class Grammar:
    """Writes updates for a document."""

    def __init__(self, chance: random.Random, gate: Gate, wrong: float) -> None:
        self.chance = chance
        self.gate = gate
        self.wrong = wrong
        """How likely a rule is broken, each time that it applies."""
        self.lists: dict[Place, list[Span]] = {root: [] for root in ROOTS}
        self.entries: dict[tuple[Place, str], Span] = {}
        self.kinds: dict[tuple[int, int], int] = {}
        self.clients = [chance.choice((1, 5, 2**32 - 1)), chance.randrange(2**32)]
        self.draft = Draft()
        self._ends: dict[int, int] = {}

    def take(self) -> None:
        """Build upon the last update: it was accepted."""
        for client, clock, kind in self.draft.types:
            self.kinds[client, clock] = kind
            self.lists.setdefault((client, clock), [])
        for place, at, span in self.draft.lists:
            self.lists.setdefault(place, []).insert(at, span)
        for place, key, span in self.draft.entries:
            self.entries[place, key] = span

    # What is drawn.

    def breaks(self, times: float = 1.0) -> bool:
        """Whether a rule is broken."""
        return self.chance.random() < self.wrong * times

    def number(self) -> int:
        """A number that may be anything."""
        chance = self.chance
        if chance.random() < 0.7:
            return chance.choice(NUMBERS)
        return chance.choice(HUGE)

    def size(self, honest: int) -> bytes:
        """A length or a count, nearly always the right one."""
        if not self.breaks(0.3):
            return uint(honest)
        chance = self.chance
        return chance.choice(
            (
                uint(honest + 1),
                uint(max(0, honest - 1)),
                uint(0),
                uint(self.number()),
                uint(honest | 0x80)[:-1] + b"\x80\x00",
            )
        )

    def text(self, honest: str) -> bytes:
        """A string."""
        content = honest.encode()
        if self.breaks(0.3):
            content += self.chance.choice(NOT_TEXTS)
        return self.size(len(content)) + content

    def update(self) -> bytes:
        """Write an update; :meth:`take` says that it was accepted."""
        chance = self.chance
        self.draft = Draft()
        self._ends = dict(self.gate.clocks)
        if chance.random() < 0.1:
            self.clients.append(chance.randrange(2**32))
        count = chance.choice((1, 1, 1, 1, 2, 3))
        if chance.random() < 0.12:
            count = 0
        clients = [chance.choice(self.clients) for _ in range(count)]
        if not self.breaks():
            clients = list(dict.fromkeys(clients))
        sections = [self.section(client) for client in clients]
        update = self.size(len(sections)) + b"".join(sections) + self.deletes(not count)
        if self.breaks(0.3):
            update += chance.choice((b"\x00", b"\x00\x00", update))
        return update

    # Sections and structs.

    def section(self, client: int) -> bytes:
        chance = self.chance
        known = self._ends.get(client, 0)
        clock = known
        if known and chance.random() < 0.05:
            clock = chance.randrange(known)  # It is partly known.
        if self.breaks():
            clock = chance.choice((known + 1, known + 5, self.number()))
        count = chance.choice((1, 1, 1, 2, 3, 8))
        if chance.random() < 0.01:
            count = chance.randrange(60)
        structs = []
        at = clock
        for _ in range(count):
            encoded, length = self.struct(client, at)
            structs.append(encoded)
            at += length
        self._ends[client] = max(known, at)
        identity = uint(client) if not self.breaks(0.3) else uint(self.number())
        return self.size(len(structs)) + identity + uint(clock) + b"".join(structs)

    def struct(self, client: int, clock: int) -> tuple[bytes, int]:
        """A struct, and how many clocks it has."""
        chance = self.chance
        kind = chance.random()
        if kind < 0.03:
            length = chance.choice((1, 1, 2, 5))
            flags = chance.choice((0x20, 0x40, 0x80)) if self.breaks() else 0
            return bytes((GC | flags,)) + self.size(length), length
        if kind < 0.03 + self.wrong:
            length = chance.choice((1, 2, self.number()))
            return bytes((SKIP,)) + self.size(length), length
        place: Place = self.place()
        ref = chance.choice(self.contents(place))
        if self.breaks(2):
            ref = chance.randrange(32 if chance.random() < 0.3 else 11)
        if self.keyed(place) != self.breaks(0.5):
            return self.entry(client, clock, place, ref)
        return self.listed(client, clock, place, ref)

    def place(self) -> Place:
        """Where the next item is to be."""
        chance = self.chance
        if chance.random() < 0.6 or not self.kinds:
            if self.breaks():
                return chance.choice(("", "__proto__", "strange", "x" * 300))
            return chance.choice(tuple(ROOTS))
        return chance.choice(tuple(self.lists))

    def contents(self, place: Place) -> tuple[int, ...]:
        if isinstance(place, str):
            return ROOTS.get(place, ROOTS["array"])
        kind = self.kinds.get(place, 0)
        names = ("array", "map", "text", "xml", "xml", "map", "text")
        return ROOTS[names[kind % 7]]

    def keyed(self, place: Place) -> bool:
        if isinstance(place, str):
            return place == "map"
        kind = self.kinds.get(place, 0)
        return kind == 1 or (kind in (3, 6) and self.chance.random() < 0.3)

    def listed(
        self, client: int, clock: int, place: Place, ref: int
    ) -> tuple[bytes, int]:
        chance = self.chance
        siblings = self.lists.get(place, [])
        at = chance.randint(0, len(siblings))
        if siblings and chance.random() < 0.5:
            at = len(siblings)
        left = siblings[at - 1] if at else None
        right = siblings[at] if at < len(siblings) else None
        if left is not None and left[2] > 1 and chance.random() < 0.3:
            right = left  # Between two clocks of one item.
            left = (left[0], left[1], chance.randint(1, left[2] - 1))
            right = (right[0], left[1] + left[2], 1)
        if self.breaks() and siblings:
            left, right = chance.choice(siblings), chance.choice(siblings)
        if self.breaks():
            left = self.anything(client, clock)
        if self.breaks():
            right = self.anything(client, clock)
        content, length = self.content(client, clock, ref)
        head = self.head(ref, left, right, place, None)
        self.draft.lists.append((place, at, (client, clock, length)))
        return head + content, length

    def entry(
        self, client: int, clock: int, place: Place, ref: int
    ) -> tuple[bytes, int]:
        chance = self.chance
        key = chance.choice(KEYS)
        left = self.entries.get((place, key))
        if chance.random() < 0.1:
            left = None  # A rival of who wrote it first.
        right = None
        if self.breaks():
            right = self.anything(client, clock)
        if self.breaks():
            left = self.anything(client, clock)
        content, length = self.content(client, clock, ref, single=not self.breaks())
        head = self.head(ref, left, right, place, key)
        self.draft.entries.append((place, key, (client, clock, length)))
        return head + content, length

    def anything(self, client: int, clock: int) -> Span | None:
        """Some item: of another list, of the future, or none."""
        chance = self.chance
        match chance.randrange(5):
            case 0:
                return None
            case 1:
                return (client, clock + chance.choice((0, 1, 7)), 1)
            case 2:
                return (chance.choice((client, self.number())), self.number(), 1)
            case _:
                other = chance.choice(list(self._ends) or [client])
                return (
                    other,
                    chance.randint(0, max(0, self._ends.get(other, 1) - 1)),
                    1,
                )

    def head(
        self,
        ref: int,
        left: Span | None,
        right: Span | None,
        place: Place,
        key: str | None,
    ) -> bytes:
        """What stands before the content of an item: how it is placed."""
        info = ref | (0x80 if left else 0) | (0x40 if right else 0)
        info |= 0x20 if key is not None else 0
        if self.breaks(0.3):
            info ^= self.chance.choice((0x20, 0x40, 0x80))
        head = bytes((info & 0xFF,))
        if left:
            head += uint(left[0]) + uint(left[1] + left[2] - 1)
        if right:
            head += uint(right[0]) + uint(right[1])
        if not left and not right:
            if self.breaks(0.3):
                head += uint(self.chance.choice((2, 3, 2**31)))
            elif isinstance(place, str):
                head += b"\x01" + self.text(place)
            else:
                if self.breaks():
                    place = (place[0], place[1] + 1)
                head += b"\x00" + uint(place[0]) + uint(place[1])
            if key is not None:
                head += self.text(key)
        return head

    # What stands in an item.

    def content(
        self, client: int, clock: int, ref: int, single: bool = False
    ) -> tuple[bytes, int]:
        chance = self.chance
        match ref:
            case 1:
                length = 1 if single else chance.choice((1, 1, 2, 3, 9))
                return self.size(length), length
            case 2:
                return b"\x01" + self.text('"a"'), 1
            case 3:
                return self.data(chance.randbytes(chance.randrange(4))), 1
            case 4:
                text = chance.choice(TEXTS)
                if single:
                    text = text[:1] if text[:1] <= "\uffff" else "a"
                return self.text(text), len(text.encode("utf-16-le")) // 2
            case 5:
                return self.data(self.json()), 1
            case 6:
                return self.text(chance.choice(("bold", "link", ""))) + self.data(
                    self.json()
                ), 1
            case 7:
                kind = chance.choice((0, 0, 1, 1, 2, 2, 3, 3, 4, 6, 6))
                if self.breaks():
                    kind = chance.choice((5, 7, 9, 15, 127, self.number()))
                self.draft.types.append((client, clock, kind))
                named = (kind in (3, 5)) != self.breaks(0.3)
                name = self.text(chance.choice(NAMES)) if named else b""
                return uint(kind) + name, 1
            case 8:
                count = 1 if single else chance.choice((1, 1, 2, 5))
                values = b"".join(self.value(0) for _ in range(count))
                return self.size(count) + values, count
            case 9:
                options = self.value(0) if self.breaks() else self.options()
                return self.text(chance.choice(("guid", "", "g" * 40))) + options, 1
            case _:
                return chance.randbytes(chance.randrange(4)), 1

    def data(self, content: bytes) -> bytes:
        return self.size(len(content)) + content

    def json(self) -> bytes:
        if self.breaks(2):
            return self.chance.choice(ODD_JSON)
        return json.dumps(
            self.json_value(0), ensure_ascii=self.chance.random() < 0.5
        ).encode()

    def json_value(self, depth: int) -> object:
        chance = self.chance
        kind = chance.randrange(10 if depth < 3 else 7)
        plain = (None, True, 1, -0.5, "a😀", "", 300)
        if kind < 7:
            return plain[kind]
        if kind < 9:
            return {chance.choice(KEYS): self.json_value(depth + 1)}
        return [self.json_value(depth + 1) for _ in range(chance.randrange(3))]

    def value(self, depth: int) -> bytes:
        """A value of lib0's ``any``."""
        chance = self.chance
        if self.breaks(0.3):
            return bytes((chance.randrange(256),)) + chance.randbytes(
                chance.randrange(5)
            )
        if self.breaks(0.1):
            deep = chance.choice((63, 64, 65, 1000))
            return chance.choice((b"\x75\x01", b"\x76\x01\x01a")) * deep + b"\x7e"
        match chance.randrange(13 if depth < 4 else 9):
            case 0:
                return b"\x7f"
            case 1:
                return b"\x7e"
            case 2:
                return b"\x7d" + uint(chance.choice((0, 5, 0x40, 0xBF)) & 0x3F)
            case 3:
                return chance.choice((b"\x78", b"\x79"))
            case 4:
                return b"\x77" + self.text(chance.choice(TEXTS))
            case 5:
                number = chance.choice((0.1, float("nan"), float("inf"), -0.0, 1e300))
                return b"\x7b" + struct.pack(">d", number)
            case 6:
                return b"\x7c" + struct.pack(">f", 0.5)
            case 7:
                return b"\x74" + self.data(chance.randbytes(chance.randrange(4)))
            case 8:
                if chance.random() < 0.8:
                    return b"\x7d" + chance.choice((b"\x41", b"\x80\x01", b"\xbf\x7f"))
                return b"\x7a" + chance.randbytes(8)
            case 9 | 10:
                count = chance.randrange(4)
                values = [self.value(depth + 1) for _ in range(count)]
                return b"\x75" + self.size(count) + b"".join(values)
            case _:
                return self.options(depth)

    def options(self, depth: int = 0) -> bytes:
        """An object."""
        count = self.chance.randrange(3)
        keys = [
            self.text(self.chance.choice((*KEYS, "autoLoad"))) for _ in range(count)
        ]
        pairs = [key + self.value(depth + 1) for key in keys]
        return b"\x76" + self.size(count) + b"".join(pairs)

    # Deletes.

    def deletes(self, some: bool) -> bytes:
        chance = self.chance
        known = [client for client, end in self._ends.items() if end]
        if not known or not (some or chance.random() < 0.3):
            return self.size(0)
        clients = [chance.choice(known) for _ in range(chance.choice((1, 1, 1, 2)))]
        if not self.breaks():
            clients = list(dict.fromkeys(clients))
        if self.breaks():
            clients.append(self.number())
        encoded = self.size(len(clients))
        for client in clients:
            end = self._ends.get(client, 3)
            starts = [
                chance.randrange(max(1, end))
                for _ in range(chance.choice((1, 1, 2, 4)))
            ]
            if not self.breaks():
                starts = sorted(set(starts))
            ranges = []
            for at, start in enumerate(starts):
                until = starts[at + 1] if at + 1 < len(starts) else end
                length = max(1, min(chance.choice((1, 1, 2, 5)), until - start))
                if self.breaks():
                    length = chance.choice((0, length + 3, self.number()))
                ranges.append(uint(start) + uint(length))
            encoded += uint(client) + self.size(len(ranges)) + b"".join(ranges)
        return encoded


def mutate(chance: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Flip bits, cut, insert, repeat, or splice with something else."""
    mutated = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(mutated) + 1)
        match chance.randrange(8):
            case 0 if at < len(mutated):
                mutated[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(mutated):
                mutated[at] = chance.choice((0, 1, 2, 4, 7, 10, 0x7F, 0x80, 0x84, 0xFF))
            case 2:
                del mutated[at : at + chance.randint(1, 4)]
            case 3:
                mutated[at:at] = chance.randbytes(chance.randint(1, 4))
            case 4:
                mutated[at:] = b""
            case 5:
                piece = mutated[at : at + chance.randint(1, 12)]
                mutated[at:at] = piece * chance.choice((1, 2, 20))
            case 6:
                mutated[at:at] = uint(chance.choice((*NUMBERS, *HUGE)))
            case _ if others:
                other = chance.choice(others)
                mutated[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                pass
    return bytes(mutated)
