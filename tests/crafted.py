"""Updates written out, byte by byte, and gates that have accepted some."""

from __future__ import annotations

import pytest

from collab import wire
from collab.errors import UpdateRejected
from collab.gate import Gate, Verdict
from collab.updates import Parsed, UpdateLimits, cut, parse

# Recorded from Yjs 13.6.33: what `doc.on("update")` says of transactions of client 5.
RECORDED = {
    "typing in a text": [
        "01 01 05 00 04 01 01 74 01 61 00",
        "01 01 05 01 84 05 00 01 62 00",
        "01 01 05 02 c4 05 00 05 01 01 63 00",
    ],
    "formatting and an embed": [
        "01 01 05 00 04 01 01 74 03 616263 00",
        "01 04 05 03 c6 05 00 05 01 04 626f6c64 04 74727565"
        "c6 05 03 05 01 04 6c696e6b 0c 7b2268726566223a2278227d"
        "c6 05 01 05 02 04 626f6c64 04 6e756c6c"
        "c6 05 05 05 02 04 6c696e6b 04 6e756c6c 00",
        "01 01 05 07 45 05 00 11 7b22696d616765223a22612e706e67227d 00",
    ],
    "values in a map": [
        "01 01 05 00 28 01 01 6d 01 6b 01 75 0a 7f 7e 7d41 7c3f000000"
        "7b7e37e43c8800759c 7a0000000000000005 78 7702c3a9 7601 0161 7500 740101 00",
        "01 01 05 01 a8 05 00 01 7d01 01 05 01 00 01",
        "00 01 05 01 01 01",
    ],
    "types within types": [
        "01 04 05 00 07 01 01 61 01 27 00 05 00 01 74 02 04 00 05 01 01 78"
        "88 05 00 02 7d01 7d02 00",
        "01 01 05 05 84 05 02 01 79 00",
        "00 01 05 02 00 03 05 01",
    ],
    "XML": [
        "01 01 05 00 07 01 01 78 03 01 70 00",
        "01 01 05 01 28 00 05 00 02 6964 01 77 01 31 00",
        "01 02 05 02 07 00 05 00 06 04 00 05 02 02 6869 00",
    ],
    "bytes in an array": ["01 01 05 00 03 01 01 61 03 01 02 03 00"],
    "a subdocument": [
        "01 01 05 00 29 01 01 6d 01 73 01 67 76 02 08 6175746f4c6f6164 78"
        "04 6d657461 76 01 01 61 7d01 00"
    ],
    "a state": [
        "01 03 05 00 04 01 01 74 01 61 81 05 00 01 84 05 01 01 63 01 05 01 01 01"
    ],
    "what was collected": ["01 02 06 00 01 01 01 61 01 00 04 01 06 01 00 05"],
    "nothing": ["00 00"],
}

GAP = bytes.fromhex("01 03 05 00 04 01 01 74 01 61 0a 01 84 05 01 01 63 00")
"""Yjs merged the first and the third letter of "abc"."""


def sections(update: bytes) -> tuple[dict[int, bytes], dict[int, list[int]]]:
    """The bytes of each client's structs, and what is deleted."""
    parsed = cut(update)
    structs = {
        client: update[start:end] for client, (start, end) in parsed.bounds.items()
    }
    return structs, dict(parsed.deletes)


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


def take(gate: Gate, update: bytes) -> Parsed:
    """Have a gate accept what is ready."""
    parsed = parse(update)
    assert gate.judge(parsed) is Verdict.READY
    gate.accept(parsed)
    return parsed


def gate_of(*history: bytes) -> Gate:
    gate = Gate()
    for update in history:
        take(gate, update)
    return gate


def typed(client: int, clock: int, text: str, behind: tuple[int, int] | None) -> bytes:
    """The update of typing behind an item; behind none, at a root."""
    place = (
        b"\x04\x01\x01t"
        if behind is None
        else b"\x84" + wire.uint(behind[0]) + wire.uint(behind[1])
    )
    return (
        b"\x01\x01"
        + wire.uint(client)
        + wire.uint(clock)
        + place
        + wire.text(text)
        + b"\x00"
    )


def deleted(client: int, *ranges: int) -> bytes:
    """The update of deleting ranges, each a clock and a length."""
    encoded = b"\x00\x01" + wire.uint(client) + wire.uint(len(ranges) // 2)
    return encoded + b"".join(map(wire.uint, ranges))


def item(body: str, client: int = 5, clock: int = 0) -> bytes:
    """An update of one item."""
    return b"\x01\x01" + wire.uint(client) + wire.uint(clock) + hexed(body) + b"\x00"


def valued(body: bytes) -> bytes:
    """An update of one value, in an array at a root."""
    return b"\x01\x01\x05\x00\x08\x01\x01a\x01" + body + b"\x00"


def embedded(json: bytes) -> bytes:
    """An update of one embed."""
    return b"\x01\x01\x05\x00\x05\x01\x01t" + wire.data(json) + b"\x00"


def kind(update: bytes, *history: bytes, limits: UpdateLimits | None = None) -> str:
    """The word that an update is rejected with."""
    gate = gate_of(*history)
    before = gate.encode()
    with pytest.raises(UpdateRejected) as rejected:
        gate.judge(parse(update, limits or UpdateLimits()))
    assert gate.encode() == before
    return rejected.value.kind


def nest(client: int, clock: int, inside: tuple[int, int] | None) -> bytes:
    place = (
        b"\x07\x01\x01a"
        if inside is None
        else b"\x07\x00" + wire.uint(inside[0]) + wire.uint(inside[1])
    )
    return b"\x01\x01" + wire.uint(client) + wire.uint(clock) + place + b"\x00\x00"
