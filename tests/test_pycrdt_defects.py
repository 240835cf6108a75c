"""What pycrdt 0.14.13 does to a server that trusts it, and that it can't do it to ours.

The first half of a test shows the defect; when pycrdt is fixed it fails, and may go,
and so may what works around it. The second half shows that it cannot reach us. What
kills or hangs a process does so in a process of its own.

``tests/test_architecture.py`` holds that nothing here uses pycrdt's ``Awareness``,
``Decoder``, ``Encoder`` and ``Snapshot``, which are unsafe whatever one does.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pycrdt import Doc, Map, Text, get_state, merge_updates

from collab import wire
from collab.document import Document, Outcome
from collab.errors import ProtocolError, UpdateRejected
from collab.gate import Gate, Verdict
from collab.updates import parse
from tests.honest import Node, base64

HANG = "hang"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


def run(code: str, *updates: bytes, seconds: float = 20) -> tuple[int | str, str]:
    """Run code in another process; return how it ended and what it printed.

    It has the updates as ``u``, and a document that has applied them as ``d``.
    """
    program = "\n".join(
        (
            "import sys",
            "from pycrdt import *",
            "u = [bytes.fromhex(line) for line in sys.stdin.read().split()]",
            "d = Doc()",
            "for update in u: d.apply_update(update)",
            code,
        )
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input="\n".join(update.hex() for update in updates),
            capture_output=True,
            text=True,
            timeout=seconds,
            env={"RUST_BACKTRACE": "0"},
        )
    except subprocess.TimeoutExpired:
        return HANG, ""
    return done.returncode, done.stdout + done.stderr


def refused(update: bytes, *before: bytes) -> str:
    """The word that a document rejects an update with; it is the same afterwards."""
    document = Document()
    for honest in before:
        document.apply(honest)
    state, version = document.state(), document.version
    with pytest.raises(UpdateRejected) as rejected:
        document.apply(update)
    assert document.state() == state
    assert document.version == version
    assert not document.parked
    return rejected.value.kind


def is_panic(exc: BaseException) -> bool:
    return type(exc).__module__ == "pyo3_runtime"


def typed(client: int, clock: int, text: str) -> bytes:
    """The update of typing: behind the last character, or first."""
    place = (
        bytes((0x84,)) + wire.uint(client) + wire.uint(clock - 1)
        if clock
        else b"\x04\x01" + wire.text("text")
    )
    return (
        b"\x01\x01"
        + wire.uint(client)
        + wire.uint(clock)
        + place
        + wire.text(text)
        + b"\0"
    )


def deleted(client: int, clock: int, length: int) -> bytes:
    return bytes((0, 1, client, 1, clock, length))


# F1 to F15 and the paragraphs are those of the reliability study.


def test_a_struct_without_length_makes_a_document_that_cannot_be_saved() -> None:  # F1
    brick = bytes.fromhex("01010501000000")
    doc: Doc[Any] = Doc()
    doc.apply_update(brick)
    with pytest.raises(BaseException, match="divide by zero") as panic:
        doc.get_update()
    assert is_panic(panic.value)

    assert refused(brick) == "empty-struct"
    assert refused(brick, typed(5, 0, "a")) == "empty-struct"


def test_two_sections_of_a_client_corrupt_memory() -> None:  # F2, F3
    twice = bytes.fromhex(
        "02 01 05 00 04 01 01 61 03 616263 01 05 00 04 01 01 61 03 616263 00"
    )
    doc: Doc[Any] = Doc()
    doc.apply_update(twice)
    assert str(doc.get("a", type=Text)) == "abcabc"
    assert doc.get_state() == bytes.fromhex("010503")

    assert refused(twice) == "duplicate-client"


def test_a_string_read_as_an_array_loops_for_ever() -> None:  # F4
    emoji = bytes.fromhex("0101020004010361727204f09f988000")
    assert run("d.get('arr', type=Array).to_py()", emoji, seconds=3)[0] == HANG

    # It is what any client may write, so nothing here reads a type as what it is not.
    document = Document()
    assert document.apply(emoji) == (Outcome.APPLIED, [emoji])
    assert document.state() == emoji


def nested_value(depth: int) -> bytes:
    return (
        b"\x01\x01\x05\x00\x08\x01\x01a\x01" + b"\x75\x01" * depth + b"\x7e" + b"\x00"
    )


def test_deep_values_overflow_the_stack(node: Node) -> None:  # F5, F10
    assert run("d.get('a', type=Array).to_py()", nested_value(30_000))[0] in (
        -signal.SIGSEGV,
        -signal.SIGABRT,
    )
    # Browsers give up earlier: the document is lost for all of them.
    _, loaded = node.ask("load", updates=[base64(nested_value(10_000))])
    assert "Maximum call stack" in loaded["error"]

    assert refused(nested_value(65)) == "value-too-deep"
    assert refused(nested_value(30_000)) == "value-too-deep"
    assert Gate().judge(parse(nested_value(64))) is Verdict.READY


def nested_types(depth: int) -> bytes:
    structs = b"\x07\x01\x01a\x00" + b"".join(
        b"\x07\x00\x05" + wire.uint(clock) + b"\x00" for clock in range(depth - 1)
    )
    return b"\x01" + wire.uint(depth) + b"\x05\x00" + structs + b"\x00"


def test_deep_types_overflow_the_stack() -> None:  # F5
    deep = nested_types(60_000)
    code = "d.apply_update(bytes.fromhex('000105010001'))"
    assert run(code, deep)[0] in (-signal.SIGSEGV, -signal.SIGABRT)

    assert refused(deep) == "nested-too-deep"
    assert refused(nested_types(258)) == "nested-too-deep"
    document = Document()
    document.apply(nested_types(257))
    # One more, in an update of its own, in what is 256 deep.
    one_more = bytes.fromhex("0101068002 07 00058002 00 00")
    assert refused(bytes.fromhex("01010600 07 00058002 00 00"), nested_types(257))
    assert Gate().judge(parse(one_more)) is Verdict.EARLY


def test_writing_one_entry_again_and_again_is_quadratic() -> None:  # F6
    writes = 40_000  # 18 s in pycrdt, with the interpreter locked all along.
    flood = (
        b"\x01"
        + wire.uint(writes)
        + b"\x05\x00"
        + b"\x28\x01\x01a\x01k\x01\x7e" * writes
        + b"\x00"
    )
    assert refused(flood) == "rival-entries"


def test_deletes_in_descending_order_are_quadratic() -> None:  # F7
    ranges = 40_000  # 1.7 s in pycrdt; 67 ms if ascending.
    update = (
        b"\x00\x01\x05"
        + wire.uint(ranges)
        + b"".join(wire.uint(2 * n) + b"\x01" for n in reversed(range(ranges)))
    )
    assert refused(update) == "unsorted-deletes"


def test_a_client_without_structs_panics() -> None:  # F8
    doc: Doc[Any] = Doc()
    doc.apply_update(typed(1, 0, "a"))
    with pytest.raises(BaseException, match="unwrap") as panic:
        doc.apply_update(bytes.fromhex("0100010000"))
    assert is_panic(panic.value)

    assert refused(bytes.fromhex("0100010000")) == "empty-section"
    assert refused(bytes.fromhex("0100010000"), typed(1, 0, "a")) == "empty-section"


@pytest.mark.parametrize(
    ("update", "kind"),
    [
        ("010105000701016109 00", "unknown-type"),
        ("01010500070101610f 00", "unknown-type"),
    ],
)
def test_a_type_that_comes_out_of_pycrdt_as_no_type_of_yjs(
    node: Node, update: str, kind: str
) -> None:  # F9
    doc: Doc[Any] = Doc()
    doc.apply_update(bytes.fromhex(update))
    _, loaded = node.ask("load", updates=[base64(doc.get_update())])
    assert "error" in loaded

    assert refused(bytes.fromhex(update)) == kind


def test_an_xml_hook_cannot_be_read() -> None:  # F9
    hook = bytes.fromhex("010105000701016105 04686f6f6b 00")
    doc: Doc[Any] = Doc()
    with pytest.raises(ValueError, match="end of buffer"):
        doc.apply_update(hook)

    assert refused(hook) == "xml-hook"


def test_half_an_emoji_shifts_the_clocks(node: Node) -> None:  # F11
    first, second = typed(5, 0, "a😀b"), deleted(5, 0, 2)
    third = typed(5, 4, "NEXT")
    doc: Doc[Any] = Doc()
    doc.apply_update(first)
    doc.apply_update(second)
    assert doc.get_state() == bytes.fromhex("010504")
    _, loaded = node.ask("load", updates=[base64(doc.get_update()), base64(third)])
    assert loaded["pending"]

    document = Document()
    document.apply(first)
    assert document.gate.faithful
    document.apply(second)
    assert not document.gate.faithful
    # Whoever joins now, or after a restart, sees what follows.
    restarted = Document.restore(*document.snapshot())
    assert not restarted.gate.faithful
    assert restarted.apply(third) == (Outcome.APPLIED, [third])
    for state in ([document.state(), third], [restarted.state()]):
        _, loaded = node.ask("load", updates=[base64(update) for update in state])
        assert not loaded["pending"]
        assert "bNEXT" in loaded["content"]


def test_out_of_order_updates_are_never_integrated() -> None:  # F12
    honest = [
        bytes.fromhex("01 01 05 00 04 01 01 61 01 78 00"),
        bytes.fromhex("01 01 05 01 44 05 00 01 78 00"),
        bytes.fromhex("01 01 05 02 84 05 00 01 78 00"),
        bytes.fromhex("01 01 05 03 44 05 01 01 78 00"),
    ]
    doc: Doc[Any] = Doc()
    for index in (0, 2, 3, 1):
        doc.apply_update(honest[index])
    assert str(doc.get("a", type=Text)) == "xxx"

    document = Document()
    assert document.apply(honest[0]) == (Outcome.APPLIED, honest[:1])
    assert document.apply(honest[2]) == (Outcome.PARKED, [])
    assert document.apply(honest[3]) == (Outcome.PARKED, [])
    assert document.apply(honest[1]) == (Outcome.APPLIED, honest[1:])
    assert str(document.doc.get("a", type=Text)) == "xxxx"
    assert not document.parked


def test_what_is_pending_is_not_encoded() -> None:  # F13
    first, second, cut = typed(5, 0, "abc"), typed(5, 3, "XYZ"), deleted(5, 0, 1)
    doc: Doc[Any] = Doc()
    doc.apply_update(second)
    doc.apply_update(cut)
    assert doc.get_update() == bytes.fromhex("0000")

    document = Document()
    assert document.apply(second)[0] is Outcome.PARKED
    assert document.apply(cut)[0] is Outcome.PARKED
    restarted = Document.restore(*document.snapshot())
    restarted.apply(first)
    assert str(restarted.doc.get("text", type=Text)) == "bcXYZ"


def test_a_formatting_mark_as_a_map_entry_makes_the_map_unreadable() -> None:  # F14
    mark = bytes.fromhex("0101050026010161016b01620474727565 00")
    doc: Doc[Any] = Doc()
    doc.apply_update(mark)
    with pytest.raises(KeyError):
        doc.get("a", type=Map).to_py()

    assert refused(mark) == "format-as-map-entry"
    # It is one too behind a map entry, whose place it takes.
    entry = bytes.fromhex("0101050028010161016b017e 00")
    behind = bytes.fromhex("01010501860500 01620474727565 00")
    assert refused(behind, entry) == "format-as-map-entry"


def test_a_map_entry_with_two_values_would_be_left_without_its_map() -> None:
    """Partly deleted, then its map: yrs reads a parent that isn't there any more."""
    map = bytes.fromhex("01010500070101780301 7000".replace(" ", ""))
    entry = bytes.fromhex("01010501280005000161027701617f00")
    assert refused(entry, map) == "long-map-entry"


def test_an_update_that_panics_is_half_applied() -> None:  # F15
    half = bytes.fromhex("020106000001010600000200")
    doc: Doc[Any] = Doc()
    doc.apply_update(typed(5, 0, "a"))
    with pytest.raises(BaseException, match="divide by zero") as panic:
        doc.apply_update(half)
    assert is_panic(panic.value)
    assert wire.read_state_vector(doc.get_state()) == {5: 1, 6: 1}

    assert refused(half, typed(5, 0, "a")) == "duplicate-client"


def test_numbers_in_json_are_rounded(node: Node) -> None:
    number = b"0.09274077872974995"
    embed = b"\x01\x01\x05\x00\x05\x01\x04text" + wire.data(number) + b"\x00"
    doc: Doc[Any] = Doc()
    doc.apply_update(embed)
    assert number not in doc.get_update()
    assert number not in merge_updates(embed, typed(6, 0, "a"))

    document = Document()
    document.apply(embed)
    assert not document.gate.faithful
    document.apply(typed(6, 0, "a"))
    restarted = Document.restore(*document.snapshot())
    restarted.apply(typed(6, 1, "b"))
    for each in (document, restarted):
        assert number in each.state()
        assert number in each.diff(bytes.fromhex("010601"))
        _, loaded = node.ask("load", updates=[base64(each.state())])
        assert number.decode() in loaded["content"]


def test_big_integers_become_floats() -> None:
    big = b"\x7a" + (5).to_bytes(8, "big")
    update = b"\x01\x01\x05\x00\x08\x01\x04text\x01" + big + b"\x00"
    doc: Doc[Any] = Doc()
    doc.apply_update(update)
    assert big not in doc.get_update()
    assert big not in merge_updates(update, typed(6, 0, "a"))

    document = Document()
    document.apply(update)
    assert not document.gate.faithful
    document.apply(typed(6, 0, "a"))
    restarted = Document.restore(*document.snapshot())
    restarted.apply(typed(6, 1, "b"))
    for each in (document, restarted):
        assert big in each.state()
        assert big in each.diff(bytes.fromhex("010601"))


def test_an_integer_in_json_beyond_63_bits_is_an_error() -> None:
    embed = b"\x01\x01\x05\x00\x05\x01\x01a\x1312347241200037450000\x00"
    embed = embed.replace(b"\x13", b"\x14")
    doc: Doc[Any] = Doc()
    with pytest.raises(ValueError, match="out of range"):
        doc.apply_update(embed)

    assert refused(embed) == "invalid-json"


def test_a_length_is_allocated_before_it_is_read() -> None:
    bomb = wire.uint(2**26)
    with pytest.raises(ValueError, match="Cannot encode"):
        get_state(bomb)  # 128 MiB of memory, for four bytes.

    with pytest.raises(ProtocolError):
        wire.read_state_vector(bomb)
    with pytest.raises(ProtocolError):
        Document().diff(bomb)
    assert refused(bomb) == "length-exceeds-bytes"


def test_version_2_passes_as_an_empty_version_1(node: Node) -> None:
    version_2 = bytes.fromhex("00000605000000010000020401000101010403616263000000")
    doc: Doc[Any] = Doc()
    doc.apply_update(version_2)
    assert doc.get_update() == bytes.fromhex("0000")

    assert refused(version_2) == "trailing-bytes"


def test_legacy_json_cannot_be_decoded() -> None:
    legacy = bytes.fromhex("01010500020101610131 00")
    doc: Doc[Any] = Doc()
    with pytest.raises(ValueError, match="end of buffer"):
        doc.apply_update(legacy)

    assert refused(legacy) == "legacy-json"


@pytest.mark.parametrize(
    "json", [b"NaN", b'"\\ud800"', b"1e999", b"[" * 200 + b"]" * 200]
)
def test_json_that_a_browser_may_read_and_pycrdt_not(json: bytes) -> None:
    embed = b"\x01\x01\x05\x00\x05\x01\x01a" + wire.data(json) + b"\x00"
    doc: Doc[Any] = Doc()
    with pytest.raises(ValueError, match="JSON parsing"):
        doc.apply_update(embed)

    assert refused(embed) in ("invalid-json", "value-too-deep")


def test_clocks_of_more_than_31_bits_are_cut() -> None:
    far = b"\x01\x01\x05" + wire.uint(2**53 - 2) + b"\x04\x01\x01a\x01x\x00"
    assert refused(far) == "clock-overflow"
    collected = b"\x01\x02\x05\x00" + (b"\x00" + wire.uint(2**31)) * 2 + b"\x00"
    doc: Doc[Any] = Doc()
    doc.apply_update(collected)
    assert wire.read_state_vector(doc.get_state()) == {5: 0}

    assert refused(collected) == "clock-overflow"
    long_identity = b"\x01\x01" + b"\xff" * 9 + b"\x01\x00\x04\x01\x01a\x01x\x00"
    assert refused(long_identity) == "integer-overflow"


def test_deletes_that_name_a_client_twice_are_read_differently(node: Node) -> None:
    twice = bytes.fromhex("00 02 05 01 00 01 05 01 01 01")
    doc: Doc[Any] = Doc()
    doc.apply_update(typed(5, 0, "abc"))
    doc.apply_update(twice)
    _, loaded = node.ask("load", updates=[base64(typed(5, 0, "abc")), base64(twice)])
    assert str(doc.get("text", type=Text)) == "ac" or "c" in loaded["content"]

    assert refused(twice, typed(5, 0, "abc")) == "duplicate-client"


def test_deletes_of_what_is_not_there_wait_for_ever() -> None:
    document = Document()
    assert document.apply(deleted(5, 0, 100))[0] is Outcome.PARKED
    document.apply(typed(5, 0, "abc"))
    assert str(document.doc.get("text", type=Text)) == "abc"


def test_a_gap_is_shown_before_it_is_filled(node: Node) -> None:
    gap = bytes.fromhex("01 02 05 00 0a03 04 01 04 74657874 01 78 00")
    _, loaded = node.ask("load", updates=[base64(gap)])
    doc: Doc[Any] = Doc()
    doc.apply_update(gap)
    assert str(doc.get("text", type=Text)) == "x"
    assert '"x"' not in loaded["content"]

    document = Document()
    assert document.apply(gap)[0] is Outcome.PARKED
    assert str(document.doc.get("text", type=Text)) == ""


def test_an_item_inside_of_a_string_is_an_error_and_half_applied() -> None:
    inside = bytes.fromhex("01 01 06 00 04 00 05 00 01 78 00")
    doc: Doc[Any] = Doc()
    doc.apply_update(typed(5, 0, "abc"))
    with pytest.raises(RuntimeError, match="parent"):
        doc.apply_update(inside)

    assert refused(inside, typed(5, 0, "abc")) == "parent-not-a-type"


@pytest.mark.parametrize(
    ("update", "kind"),
    [
        ("01 01 05 00 84 05 00 01 78 00", "future-reference"),
        ("01 01 05 00 44 05 09 01 78 00", "future-reference"),
        ("01 01 05 00 04 00 05 00 01 78 00", "future-reference"),
        (
            "02 01 06 00 84 05 00 01 78  01 05 00 84 06 00 01 78 00",
            "cyclic-references",
        ),
    ],
)
def test_items_that_wait_for_themselves_stay_pending(update: str, kind: str) -> None:
    cycle = bytes.fromhex(update)
    doc: Doc[Any] = Doc()
    doc.apply_update(cycle)
    assert doc.get_state() == b"\0"

    assert refused(cycle) == kind
