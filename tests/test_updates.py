"""The gate: what an update carries, whether it may pass, and when."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab import updates, wire
from collab.errors import QuotaExceeded, UpdateRejected
from collab.updates import (
    Gate,
    Parsed,
    UpdateLimits,
    Verdict,
    parse,
    parse_steps,
    sections,
)

READY, EARLY, REPEAT = Verdict.READY, Verdict.EARLY, Verdict.REPEAT

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


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


def take(gate: Gate, update: bytes) -> Parsed:
    """Have a gate accept what is ready."""
    parsed = parse(update)
    assert gate.judge(parsed) is READY
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


@pytest.mark.parametrize("history", RECORDED.values(), ids=RECORDED)
def test_what_yjs_writes_is_ready_once_and_then_a_repeat(history: list[str]) -> None:
    gate = Gate()
    for text in history:
        update = hexed(text)
        parsed = parse(update)
        if update != b"\x00\x00":
            assert gate.judge(parsed) is READY
            gate.accept(parsed)
        assert gate.judge(parse(update)) is REPEAT
        assert parsed.size == len(update)


def test_an_update_is_ranges_references_and_deletes() -> None:
    parsed = parse(
        hexed("02 01 07 00 c4 05 02 06 01 02 7879 02 05 03 84 05 02 01 61 81 05 03 02")
        + hexed("02 07 01 00 01 05 02 00 01 02 02")
    )
    assert parsed.ranges == {7: [0, 2], 5: [3, 6]}
    assert parsed.needs == {5: 2, 6: 1}
    assert parsed.deletes == {7: [0, 1], 5: [0, 1, 2, 4]}
    assert parsed.gone == {5: [4, 6]}
    assert parsed.structs == 6
    assert list(parsed.clients()) == [7, 5]


def test_a_gate_knows_what_is_there_and_what_is_deleted() -> None:
    gate = gate_of(*map(hexed, RECORDED["types within types"]))
    assert gate.clocks == {5: 6}
    assert gate.deleted == {5: [0, 3, 5, 6]}
    assert gate == gate_of(
        hexed("01 01 05 00 04 01 01 74 06 616263646566 01 05 02 00 03 05 01")
    )
    assert gate != gate_of(hexed("01 01 05 00 04 01 01 74 06 616263646566 00"))


REJECTED = {
    "a cut integer": ("01 01 85 85 85", "truncated"),
    "no deletes": ("01 01 05 00 04 01 01 74 01 61", "truncated"),
    "a cut number": ("01 01 05 00 08 01 01 61 01 7b 00", "truncated"),
    "nothing at all": ("", "truncated"),
    "two updates": ("00 00 00 00", "trailing-bytes"),
    "version 2": (
        "00000245010200020005000081008406037461634101010100010101030001 05010100",
        "trailing-bytes",
    ),
    "an empty version 2": ("00000000000001000000000000", "trailing-bytes"),
    "many clients": ("ff ff ff ff 0f 00", "length-exceeds-bytes"),
    "many structs": ("01 ff ff 03 05 00 00", "length-exceeds-bytes"),
    "many values": ("01 01 05 00 08 01 01 61 ff 03 7e 00", "length-exceeds-bytes"),
    "a large array": (
        "01 01 05 00 08 01 01 61 01 75 ff ff 03 00",
        "length-exceeds-bytes",
    ),
    "a large map": ("01 01 05 00 08 01 01 61 01 76 02 00 00", "length-exceeds-bytes"),
    "a long string": ("01 01 05 00 04 01 01 61 05 61 00", "length-exceeds-bytes"),
    "long bytes": ("01 01 05 00 03 01 01 61 05 61 00", "length-exceeds-bytes"),
    "long bytes as value": (
        "01 01 05 00 08 01 01 61 01 74 05 00",
        "length-exceeds-bytes",
    ),
    "a long name": ("01 01 05 00 04 01 7f 61 01 61 00", "length-exceeds-bytes"),
    "long JSON": ("01 01 05 00 05 01 01 61 05 61 00", "length-exceeds-bytes"),
    "many deletes": ("00 01 05 ff 03 00 01", "length-exceeds-bytes"),
    "54 bits": ("01 01 ff ff ff ff ff ff ff 1f 00 00 01 00", "integer-overflow"),
    "56 bits": ("01 01 ff ff ff ff ff ff ff ff 01 00", "integer-overflow"),
    "a signed integer of 54 bits": (
        "01 01 05 00 08 01 01 61 01 7d bf ff ff ff ff ff ff 7f 00",
        "integer-overflow",
    ),
    "a late start": ("01 01 05 ff ff ff ff 07 00 01 00", "clock-overflow"),
    "a late end": ("01 01 05 fe ff ff ff 07 00 02 00", "clock-overflow"),
    "a long ContentDeleted": (
        "01 01 05 01 81 05 00 ff ff ff ff 07 00",
        "clock-overflow",
    ),
    "a late origin": ("01 01 05 00 84 06 ff ff ff ff 07 01 61 00", "clock-overflow"),
    "a late delete": ("00 01 05 01 fe ff ff ff 07 02", "clock-overflow"),
    "Latin-1": ("01 01 05 00 04 01 01 74 02 61 e9 00", "invalid-text"),
    "a surrogate": ("01 01 05 00 04 01 01 74 03 eda080 00", "invalid-text"),
    "an overlong NUL": ("01 01 05 00 04 01 01 74 02 c080 00", "invalid-text"),
    "a name not UTF-8": ("01 01 05 00 04 01 01 ff 01 61 00", "invalid-text"),
    "a key not UTF-8": ("01 01 05 00 28 01 01 6d 01 ff 01 7e 00", "invalid-text"),
    "JSON not UTF-8": ("01 01 05 00 05 01 01 74 03 22ff22 00", "invalid-text"),
    "a value of kind 115": ("01 01 05 00 08 01 01 61 01 73 00", "invalid-value"),
    "a value of kind 0": ("01 01 05 00 08 01 01 61 01 00 00", "invalid-value"),
    "a value of kind 128": ("01 01 05 00 08 01 01 61 01 80 00", "invalid-value"),
    "two sections": (
        "02 01 05 00 04 01 01 74 01 61 01 05 01 84 05 00 01 62 00",
        "duplicate-client",
    ),
    "two lists of deletes": ("00 02 05 01 00 01 05 01 02 01", "duplicate-client"),
    "no structs": ("01 00 05 00 00", "empty-section"),
    "nothing but a gap": ("01 01 05 00 0a 03 00", "empty-section"),
    "no ranges": ("00 01 05 00", "empty-section"),
    "an empty string": ("01 01 05 00 04 01 01 74 00 00", "empty-struct"),
    "an empty ContentDeleted": ("01 01 05 00 01 01 01 74 00 00", "empty-struct"),
    "no values": ("01 01 05 00 08 01 01 61 00 00", "empty-struct"),
    "an empty GC": ("01 01 05 01 00 00 00", "empty-struct"),
    "an empty Skip": ("01 02 05 00 0a 00 00 01 00", "empty-struct"),
    "an empty delete": ("00 01 05 01 00 00", "empty-struct"),
    "GC with an origin": ("01 01 05 00 80 05 01 00", "flags-on-filler"),
    "GC with a key": ("01 01 05 00 20 01 00", "flags-on-filler"),
    "Skip with a right origin": ("01 01 05 00 4a 05 01 00", "flags-on-filler"),
    "content 11": ("01 01 05 00 0b 01 01 61 00", "unknown-content"),
    "content 31": ("01 01 05 00 1f 01 01 61 00", "unknown-content"),
    "type 7": ("01 01 05 00 07 01 01 61 07 00", "unknown-type"),
    "type 15": ("01 01 05 00 07 01 01 61 0f 00", "unknown-type"),
    "a parent of kind 2": ("01 01 05 00 04 02 01 61 01 61 00", "unknown-parent"),
    "ContentJSON": ("01 01 05 00 02 01 01 61 01 01 31 00", "legacy-json"),
    "XmlHook": ("01 01 05 00 07 01 01 78 05 01 68 00", "xml-hook"),
    "a subdocument of null": (
        "01 01 05 00 29 01 01 6d 01 73 01 67 7e 00",
        "invalid-subdocument",
    ),
    "a mark as an attribute": (
        "01 01 05 00 26 01 01 6d 01 6b 01 62 04 74727565 00",
        "format-as-map-entry",
    ),
    "its own origin": ("01 01 05 00 84 05 00 01 61 00", "future-reference"),
    "a later origin": ("01 01 05 01 84 05 02 01 61 00", "future-reference"),
    "a later right origin": ("01 01 05 01 44 05 02 01 61 00", "future-reference"),
    "its own parent": ("01 01 05 01 04 00 05 01 01 61 00", "future-reference"),
    "each behind the other": (
        "02 01 06 00 84 05 00 01 61 01 05 00 84 06 00 01 62 00",
        "cyclic-references",
    ),
    "each before the other": (
        "02 01 06 00 44 05 00 01 61 01 05 00 44 06 00 01 62 00",
        "cyclic-references",
    ),
    "each within the other": (
        "02 01 06 00 07 00 05 00 00 01 05 00 07 00 06 00 00 00",
        "cyclic-references",
    ),
    "descending deletes": ("00 01 05 02 02 01 00 01", "unsorted-deletes"),
    "overlapping deletes": ("00 01 05 02 00 02 01 01", "unsorted-deletes"),
    "an item within a string": (
        "01 02 05 00 04 01 01 74 01 61 04 00 05 00 01 62 00",
        "parent-not-a-type",
    ),
}


@pytest.mark.parametrize(("text", "reason"), REJECTED.values(), ids=REJECTED)
def test_what_no_honest_client_writes_is_rejected(text: str, reason: str) -> None:
    assert kind(hexed(text)) == reason


@pytest.mark.parametrize(
    "json",
    [
        b"",
        b"{",
        b"NaN",
        b"-Infinity",
        b"undefined",
        b"01",
        b"'a'",
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b"1e999",
        b"-1e999",
        b"9223372036854775808",
        b"[18446744073709551615]",
        b"1" * 310,
        b"1" * 5000,
        b"true false",
        b'"a\nb"',
    ],
)
def test_json_that_pycrdt_cannot_read_is_rejected(json: bytes) -> None:
    assert kind(embedded(json)) == "invalid-json"


@pytest.mark.parametrize(
    ("json", "exact"),
    [
        (b"null", True),
        (b'{"a": [1, 0.5, -2e0, "\\ud83d\\ude00", "1e5, 12345678901234567"]}', False),
        (b'{"a": [1, 0.5, "\\ud83d\\ude00", "1e5 or 12345678901234567.5"]}', True),
        (b"9007199254740993", True),
        (b"18446744073709551616", False),
        (b"0.30000000000000004", False),
        (b"0.123456789012345", True),
        (b"3e100", False),
    ],
)
def test_json_that_pycrdt_rounds_is_accepted_but_not_trusted(
    json: bytes, exact: bool
) -> None:
    gate = Gate()
    parsed = take(gate, embedded(json))
    assert parsed.exact is parsed.faithful is gate.faithful is exact


def test_a_bigint_is_accepted_but_not_trusted() -> None:
    gate = Gate()
    take(gate, valued(b"\x7a" + bytes(8)))
    assert not gate.faithful


def test_depth_of_values_and_of_json_is_limited() -> None:
    assert take(Gate(), valued(b"\x75\x01" * 64 + b"\x7e"))
    assert kind(valued(b"\x75\x01" * 65 + b"\x7e")) == "value-too-deep"
    assert kind(valued(b"\x76\x01\x00" * 65 + b"\x7e")) == "value-too-deep"
    assert take(Gate(), embedded(b"[" * 100 + b"]" * 100))
    assert take(Gate(), embedded(b'["' + b"[" * 200 + b'"]'))
    assert take(Gate(), embedded(b"[" + b",".join([b"[]"] * 200) + b"]"))
    assert kind(embedded(b"[" * 101 + b"]" * 101)) == "value-too-deep"
    assert kind(embedded(b"[" * 100_000)) == "value-too-deep"


def test_structs_and_clients_are_limited() -> None:
    limits = UpdateLimits(structs=3, new_clients=2, clients=3)
    assert kind(deleted(5, 0, 1, 2, 1, 4, 1, 6, 1), limits=limits) == "too-many-structs"
    four = b"\x01\x04\x05\x00" + b"\x00\x01" * 4 + b"\x00"
    assert kind(four, limits=limits) == "too-many-structs"

    five = b"\x05" + b"".join(bytes((1, c, 0, 0, 1)) for c in range(5)) + b"\x00"
    assert kind(five, limits=limits) == "too-many-clients"

    gate = Gate(limits)
    three = b"\x03" + b"".join(bytes((1, c, 0, 0, 1)) for c in (1, 2, 3)) + b"\x00"
    with pytest.raises(UpdateRejected, match="too-many-clients"):
        gate.judge(parse(three))
    for client in (1, 2, 3):
        take(gate, typed(client, 0, "a", None))
    take(gate, typed(3, 1, "b", (3, 0)))
    with pytest.raises(QuotaExceeded):
        gate.judge(parse(typed(4, 0, "a", None)))


def test_one_map_entry_has_few_rivals_of_one_client() -> None:
    def writes(clients: int, each: int) -> bytes:
        section = wire.uint(each) + b"%c\x00" + b"\x28\x01\x01m\x01k\x01\x7e" * each
        return (
            wire.uint(clients)
            + b"".join(section.replace(b"%c", bytes((c,)), 1) for c in range(clients))
            + b"\x00"
        )

    assert take(Gate(), writes(1, 65))
    assert take(Gate(), writes(100, 1))
    assert kind(writes(1, 66)) == "rival-entries"
    assert kind(writes(100, 2)) == "rival-entries"


def test_an_update_waits_for_what_comes_before_it() -> None:
    gate = gate_of(typed(5, 0, "a", None))
    parsed = parse(typed(5, 3, "d", (5, 2)))
    assert gate.judge(parsed) is EARLY
    assert parsed.missing == (5, 2)
    take(gate, typed(5, 1, "bc", (5, 0)))
    assert gate.judge(parsed) is READY


@pytest.mark.parametrize(
    ("update", "missing"),
    [
        (typed(5, 0, "a", (6, 3)), (6, 3)),
        (item("c4 06 01 07 08 01 61"), (6, 1)),
        (item("44 06 02 01 61"), (6, 2)),
        (item("04 00 06 02 01 61"), (6, 2)),
        (deleted(6, 0, 1, 4, 2), (6, 5)),
        (hexed("01 01 05 00 04 01 01 74 01 61 01 05 01 00 02"), (5, 1)),
        (GAP, (5, 1)),
        (hexed("01 02 05 00 0a 02 00 01 00"), (5, 1)),
    ],
)
def test_an_update_waits_for_what_it_refers_to(
    update: bytes, missing: tuple[int, int]
) -> None:
    parsed = parse(update)
    gate = Gate()
    assert gate.judge(parsed) is EARLY
    assert parsed.missing == missing
    assert gate == Gate()


def test_a_gap_that_is_known_does_not_wait() -> None:
    a, b, c = (typed(5, n, "abc"[n], (5, n - 1) if n else None) for n in range(3))
    gate = gate_of(a, b)
    assert gate.judge(parse(GAP)) is READY
    take(gate, GAP)
    assert gate == gate_of(a, b, c)


def test_deletes_may_name_what_the_update_brings() -> None:
    gate = gate_of(hexed("01 01 05 00 04 01 01 74 02 6162 01 05 01 00 02"))
    assert gate.deleted == {5: [0, 2]}


def test_references_may_name_what_the_update_brings() -> None:
    gate = gate_of(hexed("02 01 06 00 84 05 00 01 61 01 05 00 04 01 01 74 01 62 00"))
    assert gate.clocks == {5: 1, 6: 1}


def test_two_who_answer_each_other_are_not_a_cycle() -> None:
    both = (
        "02 02 06 00 84 05 00 01 61 c4 05 01 06 00 01 62"
        "   02 05 00 04 01 01 74 01 63 84 06 00 01 64 00"
    )
    assert gate_of(hexed(both)).clocks == {5: 2, 6: 2}


def test_an_update_that_is_partly_known_is_ready() -> None:
    gate = gate_of(typed(5, 0, "abc", None))
    take(gate, typed(5, 0, "abcde", None))
    assert gate.clocks == {5: 5}
    assert gate.judge(parse(typed(5, 1, "bcd", (5, 0)))) is REPEAT


def test_a_repeat_deletes_nothing_new() -> None:
    gate = gate_of(typed(5, 0, "abcdefgh", None), deleted(5, 1, 2), deleted(5, 5, 2))
    assert gate.deleted == {5: [1, 3, 5, 7]}
    for ranges in ((1, 1), (2, 1), (1, 2), (5, 2), (1, 2, 5, 2)):
        assert gate.judge(parse(deleted(5, *ranges))) is REPEAT
    for ranges in ((0, 1), (0, 2), (2, 2), (3, 1), (1, 6), (7, 1), (1, 2, 6, 2)):
        assert gate.judge(parse(deleted(5, *ranges))) is READY


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=40))
def test_deletes_add_up_to_a_set(ranges: list[tuple[int, int]]) -> None:
    gate = gate_of(typed(5, 0, "x" * 100, None))
    clocks: set[int] = set()
    for start, length in ranges:
        more = set(range(start, start + length))
        parsed = parse(deleted(5, start, length))
        assert gate.judge(parsed) is (REPEAT if more <= clocks else READY)
        gate.accept(parsed)
        clocks |= more
        flat = gate.deleted[5]
        assert flat == sorted(set(flat))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        assert {n for start, end in pairs for n in range(start, end)} == clocks


def test_many_deletes_at_once_are_merged() -> None:
    gate = gate_of(typed(5, 0, "x" * 500, None), deleted(5, 3, 100, 400, 2))
    evens = [n for clock in range(0, 400, 2) for n in (clock, 1)]
    take(gate, deleted(5, *evens))
    assert gate.deleted[5][:8] == [0, 1, 2, 103, 104, 105, 106, 107]
    assert gate.deleted[5][-6:] == [396, 397, 398, 399, 400, 402]


def nest(client: int, clock: int, inside: tuple[int, int] | None) -> bytes:
    place = (
        b"\x07\x01\x01a"
        if inside is None
        else b"\x07\x00" + wire.uint(inside[0]) + wire.uint(inside[1])
    )
    return b"\x01\x01" + wire.uint(client) + wire.uint(clock) + place + b"\x00\x00"


def test_types_nest_256_deep_over_many_updates() -> None:
    gate = Gate()
    take(gate, nest(5, 0, None))
    for clock in range(1, 257):
        take(gate, nest(5, clock, (5, clock - 1)))
    with pytest.raises(UpdateRejected, match="nested-too-deep"):
        gate.judge(parse(nest(5, 257, (5, 256))))
    # Beside the deepest one is as deep; whoever writes it, and whatever it is.
    take(gate, bytes.fromhex("01 01 06 00 87 05 8002 00 00"))
    with pytest.raises(UpdateRejected, match="nested-too-deep"):
        gate.judge(parse(nest(7, 0, (6, 0))))
    take(gate, bytes.fromhex("01 01 08 00 47 06 00 00 00"))
    with pytest.raises(UpdateRejected, match="nested-too-deep"):
        gate.judge(parse(nest(7, 0, (8, 0))))
    assert Gate.decode(gate.encode()).places.keys() == gate.places.keys()
    with pytest.raises(UpdateRejected, match="nested-too-deep"):
        Gate.decode(gate.encode()).judge(parse(nest(7, 0, (8, 0))))


def test_types_nest_256_deep_within_one_update() -> None:
    def chain(depth: int) -> bytes:
        inner = b"".join(b"\x07\x00\x05" + wire.uint(n) + b"\x00" for n in range(depth))
        return (
            b"\x01"
            + wire.uint(depth + 1)
            + b"\x05\x00\x07\x01\x01a\x00"
            + inner
            + b"\x00"
        )

    take(Gate(), chain(256))
    assert kind(chain(257)) == "nested-too-deep"
    assert kind(chain(100_000)) == "nested-too-deep"


def test_a_mark_behind_a_map_entry_is_one_too() -> None:
    entry = item("28 01 01 6d 01 6b 01 7e")
    mark = hexed("01 01 06 00 86 05 00 01 62 04 74727565 00")
    assert kind(mark, entry) == "format-as-map-entry"
    within = hexed("01 01 05 00 27 01 01 6d 01 6b 02 00")
    mark = hexed("01 01 06 00 06 00 05 00 01 62 04 74727565 00")
    take(gate_of(within), mark)


def test_an_item_is_not_between_a_list_and_a_map() -> None:
    list_and_map = hexed("01 02 05 00 04 01 01 74 01 61 28 01 01 6d 01 6b 01 7e 00")
    assert kind(item("c4 05 00 05 01 01 61", 6), list_and_map) == "between-two-places"
    # What is next to something collected goes with it, whatever is on its other side.
    collected = hexed("01 02 05 00 00 01 28 01 01 6d 01 6b 01 7e 00")
    take(gate_of(collected), item("c4 05 00 05 01 01 61", 6))


def test_what_continues_something_known_is_where_that_is() -> None:
    typing = hexed("01 01 05 00 04 01 01 74 02 6162 00")
    entry = hexed("01 01 05 00 28 01 01 6d 01 6b 03 7e 7e 7e 00")
    assert kind(entry, typing) == "between-two-places"
    # A state that is known is not looked at, whatever has come since.
    later = hexed("01 01 05 02 28 01 01 6d 01 6b 01 7e 00")
    gate = gate_of(typing, later)
    take(gate, hexed("02 01 06 00 28 01 01 6d 01 6c 01 7e") + typing[1:])


def test_an_item_is_within_a_type_or_what_may_have_been_one() -> None:
    inside = hexed("01 01 06 00 04 00 05 00 01 61 00")
    assert kind(inside, typed(5, 0, "a", None)) == "parent-not-a-type"
    take(gate_of(nest(5, 0, None)), inside)
    take(gate_of(hexed("01 01 05 00 01 01 01 61 01 00")), inside)
    take(gate_of(hexed("01 01 05 00 00 01 00")), inside)
    take(gate_of(nest(5, 0, None), deleted(5, 0, 1)), inside)


@pytest.mark.parametrize(
    "edge",
    [
        deleted(5, 0, 2),
        deleted(5, 2, 1),
        typed(6, 0, "x", (5, 1)),
        item("44 05 02 01 78", client=6),
        item("c4 05 03 05 02 01 78", client=6),
        item("c6 05 01 05 02 01 62 04 74727565", client=5, clock=4),
    ],
)
def test_an_edge_within_an_emoji_is_accepted_but_not_trusted(edge: bytes) -> None:
    gate = gate_of(typed(5, 0, "a😀b", None))
    assert gate.faithful
    assert gate.clocks == {5: 4}
    parsed = take(gate, edge)
    assert not parsed.faithful
    assert not gate.faithful
    assert not Gate.decode(gate.encode()).faithful


@pytest.mark.parametrize(
    "edge",
    [
        deleted(5, 0, 1),
        deleted(5, 1, 2),
        typed(6, 0, "x", (5, 0)),
        typed(6, 0, "x", (5, 2)),
        item("44 05 01 01 78", client=6),
        item("c4 05 02 05 03 01 78", client=6),
        typed(5, 4, "😀", (5, 3)),
    ],
)
def test_an_edge_beside_an_emoji_is_trusted(edge: bytes) -> None:
    gate = gate_of(typed(5, 0, "a😀b", None))
    take(gate, edge)
    assert gate.faithful


def test_an_emoji_and_its_cut_may_come_in_one_update() -> None:
    cut = hexed("01 01 05 00 04 01 01 74 06 61f09f988062 01 05 01 00 02")
    assert not gate_of(cut).faithful


def test_what_is_known_may_end_within_an_emoji() -> None:
    half = "01 01 05 00 04 01 01 74 04 61efbfbd 00"
    gate = gate_of(hexed(half))
    assert gate.clocks == {5: 2}
    take(gate, typed(5, 0, "a😀b", None))
    assert not gate.faithful


def test_a_gate_is_the_same_after_a_restart() -> None:
    gate = gate_of(typed(7, 0, "a😀b", None), deleted(7, 0, 1))
    for name in ("types within types", "XML"):
        again = gate_of(*map(hexed, RECORDED[name]))
        assert Gate.decode(again.encode()) == again
        assert Gate.decode(again.encode()).encode() == again.encode()
    again = Gate.decode(gate.encode())
    assert again == gate
    take(again, deleted(7, 1, 1))
    assert gate.faithful
    assert not again.faithful


def test_what_is_not_a_gate_is_an_error() -> None:
    good = gate_of(typed(7, 0, "a😀b", None), deleted(7, 0, 1)).encode()
    for at in range(len(good)):
        with pytest.raises(ValueError, match="gate"):
            Gate.decode(good[:at])
    with pytest.raises(ValueError, match="gate"):
        Gate.decode(good + b"\x00")
    with pytest.raises(ValueError, match="version"):
        Gate.decode(b"\x02" + good[1:])


def test_a_replica_that_deleted_more_covers_one_that_did_not() -> None:
    text = typed(5, 0, "abcd", None)
    less, more = gate_of(text, deleted(5, 1, 1)), gate_of(text, deleted(5, 0, 3))
    assert more.covers(less)
    assert not less.covers(more)
    assert not more.covers(gate_of(typed(5, 0, "abc", None)))


def test_two_encodings_have_the_same_sections() -> None:
    one, two = "01 05 00 04 01 01 74 01 61", "01 06 00 04 01 01 74 01 62"
    deletes = "02 05 01 00 01 06 01 00 01"
    assert sections(hexed("02" + one + two + deletes)) == (
        {5: hexed(one), 6: hexed(two)},
        {5: [0, 1], 6: [0, 1]},
    )
    assert sections(hexed("02" + two + one + "02 06 01 00 01 05 01 00 01")) == sections(
        hexed("02" + one + two + deletes)
    )


def test_every_word_of_the_list_is_used_and_no_other() -> None:
    source = Path(updates.__file__).read_text()
    listed = set(
        re.findall(r"^``([a-z0-9-]+)``  ", updates.__doc__ or "", re.MULTILINE)
    )
    raised = {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "UpdateRejected"
        and isinstance(node.args[0], ast.Constant)
    }
    assert raised == listed


def summary(parsed: Parsed) -> list[object]:
    trails = {client: list(trail) for client, trail in parsed.trails.items()}
    names = set(Parsed.__slots__) - {"trails", "bounds"}
    return [trails, *(getattr(parsed, name) for name in sorted(names))]


def drain(steps: Generator[None, None, Parsed]) -> Parsed:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            parsed: Parsed = done.value
            return parsed


def parsed_or_kind(parser: Callable[[], Parsed]) -> Parsed | str:
    try:
        return parser()
    except UpdateRejected as exc:
        return exc.kind


VALID = [hexed(text) for history in RECORDED.values() for text in history] + [
    GAP,
    typed(5, 0, "a😀b", None),
    typed(2**53 - 1, 3, "x" * 300, (2**32 - 1, 70_000)),
    deleted(5, 0, 1, 2, 3),
    embedded(b'{"a": [1.5, "\\u00e9", {}]}'),
    hexed("02 01 06 00 84 05 00 01 61 01 05 00 04 01 01 74 01 62 01 05 01 00 01"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    update = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(update)))
        match draw(st.integers(0, 3)):
            case 0:
                del update[at : at + draw(st.integers(1, 4))]
            case 1:
                update[at:at] = draw(st.binary(max_size=4))
            case 2:
                update[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case _:
                update[at:] = draw(st.sampled_from(VALID))[at:]
    return bytes(update)


@given(st.one_of(st.binary(max_size=64), mutated()))
def test_whatever_the_bytes_a_verdict_or_a_rejection_follows(update: bytes) -> None:
    parsed = parsed_or_kind(lambda: parse(update))
    slowly = parsed_or_kind(lambda: drain(parse_steps(update)))
    if isinstance(parsed, str) or isinstance(slowly, str):
        assert parsed == slowly
        return
    assert summary(parsed) == summary(slowly)
    gate = Gate()
    try:
        verdict = gate.judge(parsed)
    except UpdateRejected:
        return
    if verdict is READY:
        gate.accept(parsed)
        assert gate.judge(parse(update)) is REPEAT
        assert Gate.decode(gate.encode()) == gate


@pytest.mark.parametrize("update", VALID, ids=bytes.hex)
def test_no_part_of_an_update_is_one(update: bytes) -> None:
    for at in range(len(update)):
        with pytest.raises(UpdateRejected):
            parse(update[:at])


def test_a_long_update_is_parsed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    typing = b"".join(b"\x84\x05" + wire.uint(n) + b"\x01x" for n in range(9_999))
    long = (
        b"\x01" + wire.uint(10_000) + b"\x05\x00\x04\x01\x01t\x01x" + typing + b"\x00"
    )
    assert len(list(parse_steps(long))) == 10_000 // updates.SLICE
    assert parse(long).ranges == {5: [0, 10_000]}
    values = (
        b"\x01\x01\x05\x00\x08\x01\x01a" + wire.uint(9_000) + b"\x7e" * 9_000 + b"\x00"
    )
    assert len(list(parse_steps(values))) == 9_000 // updates.SLICE
