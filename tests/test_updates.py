"""The parser: what an update carries, and what no honest client writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import collab
from collab import contents, wire
from collab.errors import UpdateRejected
from collab.gate import Gate, Verdict
from collab.updates import Parsed, UpdateLimits, cut, parse, parse_steps
from tests.crafted import (
    GAP,
    RECORDED,
    deleted,
    embedded,
    hexed,
    kind,
    take,
    typed,
)

READY, REPEAT = Verdict.READY, Verdict.REPEAT


def test_an_update_is_ranges_references_and_deletes() -> None:
    parsed = parse(
        hexed("02 01 07 00 c4 05 02 06 01 02 7879 02 05 03 84 05 02 01 61 81 05 03 02")
        + hexed("02 07 01 00 01 05 02 00 01 02 02")
    )
    assert parsed.ranges == {7: [0, 2], 5: [3, 6]}
    assert parsed.needs == {5: 2, 6: 1}
    assert parsed.deletes == {7: [0, 1], 5: [0, 1, 2, 4]}
    assert parsed.gone == {5: [4, 6]}
    assert list(parsed.clients()) == [7, 5]


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


def test_structs_and_clients_are_limited() -> None:
    limits = UpdateLimits(structs=3, clients=3)
    assert kind(deleted(5, 0, 1, 2, 1, 4, 1, 6, 1), limits=limits) == "too-many-structs"
    four = b"\x01\x04\x05\x00" + b"\x00\x01" * 4 + b"\x00"
    assert kind(four, limits=limits) == "too-many-structs"

    five = b"\x05" + b"".join(bytes((1, c, 0, 0, 1)) for c in range(5)) + b"\x00"
    assert kind(five, limits=limits) == "too-many-clients"


def test_one_map_entry_may_be_written_by_thousands_at_once() -> None:
    def writes(clients: int, each: int) -> bytes:
        entries = b"\x00" + b"\x28\x01\x01m\x01k\x01\x7e" * each
        sections = [wire.uint(each) + wire.uint(c) + entries for c in range(clients)]
        return wire.uint(clients) + b"".join(sections) + b"\x00"

    assert take(Gate(), writes(4_000, 1))
    assert kind(writes(4_001, 1)) == "rival-entries"
    assert kind(writes(1, 4_001)) == "rival-entries"
    assert kind(writes(3, 1_334)) == "rival-entries"


def test_every_word_of_the_list_is_used_and_no_other() -> None:
    listed = re.findall(r"^    ``([a-z0-9-]+)``  ", UpdateRejected.__doc__ or "", re.M)
    raised = {
        node.args[0].value
        for path in Path(collab.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "UpdateRejected"
        and isinstance(node.args[0], ast.Constant)
    }
    assert raised == set(listed)


def summary(parsed: Parsed) -> list[object]:
    trails = {client: list(trail) for client, trail in parsed.trails.items()}
    names = set(Parsed.__slots__) - {"trails", "bounds", "cuts"}
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


@pytest.mark.parametrize("update", VALID, ids=bytes.hex)
def test_structs_are_between_cuts(update: bytes) -> None:
    parsed = cut(update)
    assert summary(parsed) == summary(parse(update))
    assert parsed.cuts.keys() == parsed.bounds.keys() == parsed.ranges.keys()
    for client, (start, end) in parsed.bounds.items():
        clocks, offsets = parsed.cuts[client][::2], parsed.cuts[client][1::2]
        # Each struct alone is an update, if it is not a gap.
        count, _ = wire.read_uint(update, start)
        assert count == len(clocks)
        stops = [*offsets[1:], end]
        for clock, offset, stop in zip(clocks, offsets, stops, strict=True):
            if update[offset] != 10:
                head = b"\x01\x01" + wire.uint(client) + wire.uint(clock)
                alone = parse(head + update[offset:stop] + b"\x00")
                assert alone.ranges[client][0] == clock
                assert alone.ranges[client][-1] <= parsed.ranges[client][-1]


def test_a_long_update_is_parsed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    typing = b"".join(b"\x84\x05" + wire.uint(n) + b"\x01x" for n in range(9_999))
    long = (
        b"\x01" + wire.uint(10_000) + b"\x05\x00\x04\x01\x01t\x01x" + typing + b"\x00"
    )
    assert len(list(parse_steps(long))) == 10_000 // contents.SLICE
    assert parse(long).ranges == {5: [0, 10_000]}
    values = (
        b"\x01\x01\x05\x00\x08\x01\x01a" + wire.uint(9_000) + b"\x7e" * 9_000 + b"\x00"
    )
    assert len(list(parse_steps(values))) == 9_000 // contents.SLICE
