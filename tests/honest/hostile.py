"""Updates of clients that are not honest at all, tried on pycrdt behind the gate.

Run as a program, it must neither crash nor hang: ``python -m tests.honest.hostile SEED
CASES`` reads histories of honest updates as lines of hex, and an empty line behind
each. For every case it prints its number, and then the state that it came to.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

from pycrdt import Doc

from collab import wire
from collab.errors import UpdateRejected
from collab.gate import Gate, Verdict
from collab.updates import parse

ATTEMPTS = 5
"""Hostile updates in a case."""

JSON = (b"null", b"true", b'{"a":[1,0.5]}', b'"\\ud83d\\ude00"', b"12", b"[]", b"NaN")
VALUES = (
    b"\x7f",
    b"\x7e",
    b"\x7d\x05",
    b"\x77\x01a",
    b"\x75\x01\x7e",
    b"\x76\x01\x01a\x78",
)
TEXTS = ("a", "xyz", "😀", "a😀b", "é")


def cases(seed: int, count: int, histories: list[list[bytes]]) -> Iterator[str]:
    """Try each case; say its number before it and its state after it."""
    for number in range(count):
        yield f"case {number}"
        chance = random.Random(f"{seed}/{number}")
        gate = Gate()
        doc: Doc[Any] = Doc()
        history = chance.choice(histories)
        length = chance.randrange(min(len(history), 16))
        for update in history[:length]:
            offer(gate, doc, update)
        accepted = 0
        for _ in range(ATTEMPTS):
            update = (
                forge(chance, gate)
                if chance.random() < 0.6
                else mutate(chance, history[: length + 4])
            )
            accepted += offer(gate, doc, update)
        if gate.faithful:
            # What pycrdt knows is what the gate knows, and it can say so.
            assert wire.read_state_vector(doc.get_state()) == gate.clocks
            yield f"{accepted} {doc.get_update().hex()}"
        else:
            yield f"{accepted}"


def offer(gate: Gate, doc: Doc[Any], update: bytes) -> bool:
    try:
        parsed = parse(update)
        verdict = gate.judge(parsed)
    except UpdateRejected:
        return False
    if verdict is not Verdict.READY:
        return False
    doc.apply_update(update)
    gate.accept(parsed)
    return True


def mutate(chance: random.Random, honest: list[bytes]) -> bytes:
    """Flip bits of an honest update, cut it, or splice it with another."""
    update = bytearray(chance.choice(honest))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(update))
        match chance.randrange(5):
            case 0:
                update[at] ^= 1 << chance.randrange(8)
            case 1:
                update[at] = chance.choice(
                    (0, 1, 2, 4, 5, 7, 10, 0x84, 0xC4, 0x28, 0xFF)
                )
            case 2:
                del update[at : at + chance.randint(1, 3)]
            case 3:
                update[at:at] = chance.randbytes(chance.randint(1, 3))
            case _:
                other = chance.choice(honest)
                update[at:] = other[chance.randrange(len(other)) :]
        if not update:
            return b""
    return bytes(update)


def forge(chance: random.Random, gate: Gate) -> bytes:
    """Write an update that is almost right."""
    known = list(gate.clocks) or [5]
    clients = list(
        {chance.choice((*known, 5, 6, 7)) for _ in range(chance.randint(1, 3))}
    )
    ends = dict(gate.clocks)
    update = wire.uint(len(clients))
    for client in clients:
        clock = max(0, ends.get(client, 0) - chance.choice((0, 0, 0, 0, 1, 2)))
        structs = [struct(chance, ends, client) for _ in range(chance.randint(1, 3))]
        update += wire.uint(len(structs)) + wire.uint(client) + wire.uint(clock)
        update += b"".join(structs)
        ends[client] = clock + len(structs)
    deleted = chance.sample(list(ends), chance.randint(0, min(2, len(ends))))
    update += wire.uint(len(deleted))
    for client in deleted:
        start = chance.randint(0, max(0, ends[client] - 1))
        update += wire.uint(client) + b"\x01" + wire.uint(start)
        update += wire.uint(chance.choice((1, 1, 1, 2, 3)))
    return update


def struct(chance: random.Random, ends: dict[int, int], client: int) -> bytes:
    def reference() -> bytes:
        other = chance.choice(list(ends) or [client])
        beyond = chance.random() < 0.05
        clock = chance.randint(0, max(0, ends.get(other, 0) - 1 + beyond))
        return wire.uint(other) + wire.uint(clock)

    ref = chance.choice((0, 1, 3, 4, 4, 4, 4, 5, 6, 7, 7, 8, 8, 9, 0, 10))
    if ref in (0, 10):
        return bytes((ref,)) + wire.uint(1 if chance.random() < 0.95 else 0)
    info = ref | chance.choice((0, 0x20, 0x40, 0x80, 0x80, 0xC0, 0xA0, 0xE0))
    encoded = bytes((info,))
    if info & 0x80:
        encoded += reference()
    if info & 0x40:
        encoded += reference()
    if not info & 0xC0:
        if chance.random() < 0.5:
            encoded += b"\x01" + wire.text(
                chance.choice(("text", "map", "array", "xml"))
            )
        else:
            encoded += b"\x00" + reference()
        if info & 0x20:
            encoded += wire.text(chance.choice("ab"))
    match ref:
        case 1:
            return encoded + wire.uint(chance.choice((1, 1, 2, 3, 3, 0)))
        case 3:
            return encoded + wire.data(chance.randbytes(2))
        case 4:
            return encoded + wire.text(chance.choice(TEXTS))
        case 5:
            return encoded + wire.data(chance.choice(JSON))
        case 6:
            return encoded + wire.text("b") + wire.data(chance.choice(JSON))
        case 7:
            kind = chance.choice((0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 6, 6, 5, 7))
            return encoded + bytes((kind,)) + (b"\x01p" if kind in (3, 5) else b"")
        case 8:
            values = [chance.choice(VALUES) for _ in range(chance.choice((1, 1, 2, 3)))]
            return encoded + wire.uint(len(values)) + b"".join(values)
        case _:
            return (
                encoded
                + wire.text("guid")
                + chance.choice((b"\x76\x00", b"\x76\x00", b"\x7e"))
            )


def main() -> None:
    seed, count = map(int, sys.argv[1:])
    parts = sys.stdin.read().strip().split("\n\n")
    histories = [[bytes.fromhex(line) for line in part.split()] for part in parts]
    for line in cases(seed, count, histories):
        print(line, flush=True)


if __name__ == "__main__":
    main()
