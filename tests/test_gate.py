"""The gate: whether an update may pass, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab import wire
from collab.errors import QuotaExceeded, UpdateRejected
from collab.gate import Gate, Verdict
from collab.updates import UpdateLimits, parse
from tests.crafted import (
    GAP,
    RECORDED,
    deleted,
    gate_of,
    hexed,
    item,
    kind,
    nest,
    take,
    typed,
)

READY, EARLY, REPEAT = Verdict.READY, Verdict.EARLY, Verdict.REPEAT


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


def test_a_gate_knows_what_is_there_and_what_is_deleted() -> None:
    gate = gate_of(*map(hexed, RECORDED["types within types"]))
    assert gate.clocks == {5: 6}
    assert gate.deleted == {5: [0, 3, 5, 6]}
    assert gate == gate_of(
        hexed("01 01 05 00 04 01 01 74 06 616263646566 01 05 02 00 03 05 01")
    )
    assert gate != gate_of(hexed("01 01 05 00 04 01 01 74 06 616263646566 00"))


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


def test_what_is_known_is_not_deleted_by_being_sent_as_collected() -> None:
    collected = hexed("01 01 05 00 00 05 00")
    gate = gate_of(typed(5, 0, "abc", None), collected)
    assert gate.clocks == {5: 5}
    assert gate.deleted == {5: [3, 5]}


def test_many_deletes_at_once_are_merged() -> None:
    gate = gate_of(typed(5, 0, "x" * 500, None), deleted(5, 3, 100, 400, 2))
    evens = [n for clock in range(0, 400, 2) for n in (clock, 1)]
    take(gate, deleted(5, *evens))
    assert gate.deleted[5][:8] == [0, 1, 2, 103, 104, 105, 106, 107]
    assert gate.deleted[5][-6:] == [396, 397, 398, 399, 400, 402]


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


def test_what_is_long_behind_a_map_entry_is_one_too() -> None:
    """pycrdt loses its parent when one of its clocks is deleted, and then the map."""
    for alone in (
        "28 01 01 6d 01 6b 02 7e 7e",
        "24 01 01 6d 01 6b 02 6162",
    ):
        assert kind(item(alone)) == "long-map-entry"
    for partly in (
        "01 01 05 00 28 01 01 6d 01 6b 02 7e 7e 01 05 01 00 01",
        "01 02 05 00 28 01 01 6d 01 6b 02 7e 7e 88 05 01 01 7e 01 05 01 01 01",
    ):
        assert kind(hexed(partly)) == "long-map-entry"
    entry = item("28 01 01 6d 01 6b 01 7e")
    for behind in (
        "01 01 06 00 88 05 00 02 7e 7e 00",
        "01 01 06 00 84 05 00 02 6162 00",
        "01 01 05 01 88 05 00 02 7e 7e 00",
        "01 02 05 01 88 05 00 01 7e 88 05 01 02 7e 7e 00",
    ):
        assert kind(hexed(behind), entry) == "long-map-entry"
    # Without garbage collection, Yjs makes one of what was deleted.
    take(Gate(), hexed("01 01 05 00 28 01 01 6d 01 6b 02 7e 7e 01 05 01 00 02"))
    last = "01 02 05 00 28 01 01 6d 01 6b 02 7e 7e 88 05 01 01 7e 01 05 01 00 02"
    take(Gate(), hexed(last))
    # Merged by Yjs, map entries have no key of their own; deleted, they become one.
    take(gate_of(entry), hexed("01 02 05 01 88 05 00 01 7e 88 05 01 01 7e 00"))
    take(gate_of(entry), hexed("01 01 05 01 81 05 00 03 00"))


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
    # What is in a type goes with what is collected, on whichever side that is.
    inner = (
        nest(5, 0, None),
        item("04 00 05 00 01 61", clock=1),
        hexed("01 01 07 00 00 01 00"),
    )
    take(gate_of(*inner), item("c4 07 00 05 01 01 61", 6))
    take(gate_of(*inner), item("c4 05 01 07 00 01 61", 6))


def test_what_is_at_a_root_is_not_beside_what_is_collected() -> None:
    # Yjs would collect it, and pycrdt would not.
    history = typed(5, 0, "a", None), hexed("01 01 06 00 00 01 00")
    before = hexed("01 01 05 01 c4 05 00 06 00 01 62 00")
    assert kind(before, *history) == "between-two-places"
    behind = hexed("01 01 05 01 c4 06 00 05 00 01 62 00")
    assert kind(behind, *history) == "between-two-places"
    # Nor is the rest of something of which the beginning is known as collected.
    rest = hexed("01 01 06 00 41 05 00 02 00")
    assert kind(rest, *history) == "between-two-places"


def test_what_continues_something_known_is_where_that_is() -> None:
    typing = hexed("01 01 05 00 04 01 01 74 02 6162 00")
    entry = hexed("01 01 05 00 28 01 01 6d 01 6b 03 7e 7e 7e 01 05 01 00 03")
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


def test_an_item_is_not_within_a_letter_that_was_deleted() -> None:
    inside = hexed("01 01 06 00 04 00 05 00 01 61 00")
    letter = typed(5, 0, "a", None), deleted(5, 0, 1)
    assert kind(inside, *letter) == "parent-not-a-type"
    restarted = Gate.decode(gate_of(*letter).encode())
    with pytest.raises(UpdateRejected):
        restarted.judge(parse(inside))


@pytest.mark.parametrize(
    "edge",
    [
        deleted(5, 0, 2),
        deleted(5, 2, 1),
        deleted(5, 1, 1, 2, 1),
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


def test_a_document_has_so_many_clients() -> None:
    gate = Gate(UpdateLimits(clients=3))
    take(gate, b"\x02" + b"\x01\x01\x00\x00\x01" + b"\x01\x02\x00\x00\x01" + b"\x00")
    both = b"\x02" + b"\x01\x03\x00\x00\x01" + b"\x01\x04\x00\x00\x01" + b"\x00"
    with pytest.raises(QuotaExceeded):
        gate.judge(parse(both))
    take(gate, typed(3, 0, "a", None))
    take(gate, typed(3, 1, "b", (3, 0)))
    with pytest.raises(QuotaExceeded):
        gate.judge(parse(typed(4, 0, "a", None)))


def test_one_update_may_bring_all_the_clients_of_a_document() -> None:
    gate = Gate()
    pages = [b"\x01" + wire.uint(c) + b"\x00\x00\x01" for c in range(20_000)]
    take(gate, wire.uint(20_000) + b"".join(pages) + b"\x00")
    assert len(gate.clocks) == 20_000


def test_what_is_not_a_gate_is_an_error() -> None:
    good = gate_of(typed(7, 0, "a😀b", None), deleted(7, 0, 1)).encode()
    for at in range(len(good)):
        with pytest.raises(ValueError, match="gate"):
            Gate.decode(good[:at])
    with pytest.raises(ValueError, match="gate"):
        Gate.decode(good + b"\x00")
    with pytest.raises(ValueError, match="version"):
        Gate.decode(b"\x03" + good[1:])


def test_a_gate_of_version_1_is_read() -> None:
    # Recorded before what came as deleted was told from what was deleted later.
    old = hexed("01 0101 05 01 0201 05 02 00 01000000")
    gate = Gate.decode(old)
    assert (gate.clocks, gate.deleted) == ({5: 2}, {5: [0, 1]})
    take(gate, hexed("01 01 06 00 04 00 05 00 01 61 00"))


def test_a_replica_that_deleted_more_covers_one_that_did_not() -> None:
    text = typed(5, 0, "abcd", None)
    less, more = gate_of(text, deleted(5, 1, 1)), gate_of(text, deleted(5, 0, 3))
    assert more.covers(less)
    assert not less.covers(more)
    assert not more.covers(gate_of(typed(5, 0, "abc", None)))
