"""A document takes updates in any order, and serves all of them, whatever they cut."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any, cast

import pytest
from pycrdt import Doc, Map, Text, merge_updates

import collab.document
import collab.joining
from collab import wire
from collab.contents import finish
from collab.document import (
    EMPTY,
    MAX_PARKED,
    MEMORABLE,
    PARKING,
    Document,
    Outcome,
)
from collab.errors import (
    DocumentBroken,
    ProtocolError,
    QuotaExceeded,
    UpdateRejected,
)
from collab.joining import same
from collab.updates import parse
from tests.crafted import hexed, sections, typed
from tests.traces import generate
from tests.vectors import YJS, history

HISTORIES = list(YJS["histories"])
WHOLE = [name for name in HISTORIES if name not in ("drift", "within")]
"""The histories in which no emoji is cut in half."""


def read(document: Document, name: str = "t") -> str:
    return str(document.doc.get(name, type=Text))


def load(state: bytes, name: str = "t") -> str:
    """What a client shows that has nothing and is sent a state."""
    parse(state)
    doc: Doc[Any] = Doc()
    text = doc.get(name, type=Text)
    doc.apply_update(state)
    return str(text)


def clocks(**known: int) -> bytes:
    """The state vector of clients c1, c2..."""
    return wire.uint(len(known)) + b"".join(
        wire.uint(int(client[1:])) + wire.uint(clock) for client, clock in known.items()
    )


def copy(document: Document) -> Document:
    return Document.restore(*document.snapshot())


def made(updates: list[bytes]) -> Document:
    document = Document()
    for update in updates:
        document.apply(update)
    return document


class Cursed:
    """A ``Doc`` with a fail-point: pycrdt panics at one update, and only there."""

    def __init__(self, poison: bytes) -> None:
        self.doc: Doc[Any] = Doc()
        self.poison = poison

    def apply_update(self, update: bytes) -> None:
        if update == self.poison:
            # A client without structs makes yrs 0.28 panic, if it knows the client.
            update = bytes.fromhex("0100010000")
        self.doc.apply_update(update)


# Taking updates.


def test_a_new_document_is_empty() -> None:
    document = Document()
    assert document.state() == EMPTY
    assert document.state_vector() == b"\x00"
    assert document.diff(b"\x00") == EMPTY
    assert document.diff(clocks(c1=5)) == EMPTY
    assert copy(document).state() == EMPTY
    assert verified(document, EMPTY)


@pytest.mark.parametrize("name", WHOLE)
def test_updates_in_order_are_visible_at_once(name: str) -> None:
    document = Document()
    for update in history(name):
        assert document.apply(update) == (Outcome.APPLIED, [update])
    assert read(document) == YJS["histories"][name]["text"]
    assert load(document.state()) == YJS["histories"][name]["text"]


@pytest.mark.parametrize("name", HISTORIES)
def test_a_repeat_changes_nothing(name: str) -> None:
    updates = history(name)
    document = made(updates)
    before = document.snapshot(), document.version
    for update in updates:
        assert document.apply(update) == (Outcome.REPEATED, [])
    assert document.apply(document.state())[0] is Outcome.REPEATED
    assert (document.snapshot(), document.version) == before


def test_a_long_repeat_that_is_remembered_hides_no_news() -> None:
    document = Document()
    document.apply(typed(1, 0, "x" * 2 * MEMORABLE, None))
    state = document.state()
    assert len(state) >= MEMORABLE
    for _ in range(2):
        assert document.apply(state) == (Outcome.REPEATED, [])
    with pytest.raises(UpdateRejected):
        document.apply(b"")
    before = document.version
    gone = Doc[Any]()
    gone.apply_update(state)
    del gone.get("t", type=Text)[:1_000]
    assert document.apply(gone.get_update())[0] is Outcome.APPLIED
    assert document.version > before
    assert read(document) == str(gone.get("t", type=Text))
    assert document.apply(gone.get_update()) == (Outcome.REPEATED, [])


@pytest.mark.parametrize("name", HISTORIES)
def test_any_order_ends_in_the_same(name: str) -> None:
    updates = history(name)
    expected = made(updates)
    for order in permutations(updates):
        document = Document()
        seen: list[bytes] = []
        for update in order:
            outcome, visible = document.apply(update)
            assert (outcome is Outcome.APPLIED) == bool(visible)
            seen += visible
        assert sorted(seen) == sorted(updates)
        assert made(seen).gate == expected.gate
        assert document.gate == expected.gate
        assert not document.parked
        assert not document.parked_size
        assert not document.waiting
        if name in WHOLE:
            assert read(document) == YJS["histories"][name]["text"]
        assert load(document.state()) == load(expected.state())


def test_updates_2_3_1_4_end_in_abc() -> None:
    first, second, third, fourth = history("reorder")
    document = Document()
    assert document.apply(second) == (Outcome.PARKED, [])
    assert document.apply(third) == (Outcome.PARKED, [])
    assert document.state() == EMPTY
    assert document.apply(first) == (Outcome.APPLIED, [first, second, third])
    assert document.apply(fourth) == (Outcome.APPLIED, [fourth])
    assert read(document) == "abc"
    assert load(document.state()) == "abc"


def test_what_is_parked_twice_waits_once() -> None:
    first, second, third, _ = history("reorder")
    document = made([third, second])
    assert document.apply(second) == (Outcome.REPEATED, [])
    assert list(document.parked) == [third, second]
    assert document.apply(first) == (Outcome.APPLIED, [first, second, third])


def test_parked_updates_that_became_repeats_are_let_go() -> None:
    updates = history("reorder")
    document = made(updates[1:3])
    whole = merge_updates(*updates)
    assert document.apply(whole) == (Outcome.APPLIED, [whole])
    assert not document.parked
    assert not document.parked_size
    assert not document.waiting
    assert read(document) == "abc"


def test_a_parked_deletion_takes_effect_with_what_it_deletes() -> None:
    a1, a2, b1, b2 = history("pending")
    document = Document()
    assert document.apply(b2) == (Outcome.PARKED, [])
    assert document.apply(a1) == (Outcome.APPLIED, [a1, b2])
    assert read(document) == "bc"
    assert document.apply(b1) == (Outcome.PARKED, [])
    assert document.apply(a2) == (Outcome.APPLIED, [a2, b1])
    assert read(document) == "bcdefXYZ"


def test_rejection_changes_nothing() -> None:
    document = made(history("answers")[:3])
    document.apply(history("pending")[2])  # waits for clocks 3 to 5 of client 1
    before = document.snapshot(), document.version, dict(document.parked)
    for poison in ("01010501000000", "0100010000", "ff", "", "000000"):
        with pytest.raises(UpdateRejected):
            document.apply(bytes.fromhex(poison))
    assert (document.snapshot(), document.version, dict(document.parked)) == before


def test_what_waits_has_a_limit() -> None:
    document = Document()
    size = MAX_PARKED // 3
    filler = b"a" * size

    def early(client: int) -> bytes:
        # The second clock of a client: it continues the first.
        head = b"\x01\x01" + wire.uint(client) + b"\x01\x84" + wire.uint(client)
        return head + b"\x00" + wire.data(filler) + b"\x00"

    for client in (1, 2):
        assert document.apply(early(client))[0] is Outcome.PARKED
    parked = list(document.parked)
    with pytest.raises(QuotaExceeded) as raised:
        document.apply(early(3))
    assert raised.value.limit == MAX_PARKED
    assert list(document.parked) == parked
    assert document.parked_size == sum(len(update) + PARKING for update in parked)
    assert set(document.waiting) == {1, 2}
    # It still takes what is ready, and that makes room.
    first = bytes.fromhex("0101 01 00 04 01 01 74 01 61 00")
    assert document.apply(first) == (Outcome.APPLIED, [first, parked[0]])
    assert document.apply(early(3))[0] is Outcome.PARKED


def crowd(clients: range) -> bytes:
    """An update of clients that each had one clock, which was collected."""
    pages = [b"\x01" + wire.uint(client) + b"\x00\x00\x01" for client in clients]
    return wire.uint(len(pages)) + b"".join(pages) + b"\x00"


def test_what_waited_stays_if_there_is_no_room_for_it() -> None:
    def behind(client: int, clock: int, text: bytes) -> bytes:
        place = b"\x84\x01\x00" + wire.data(text) + b"\x00"
        return b"\x01\x01" + wire.uint(client) + wire.uint(clock) + place

    stranger, known = behind(2, 0, b"!"), behind(1, 1, b"b")
    first = bytes.fromhex("0101 01 00 04 01 01 74 01 61 00")
    document = made([crowd(range(3, 20_002)), stranger, known])
    # Whoever sends what it waited for isn't told of a limit that others are over.
    assert document.apply(first) == (Outcome.APPLIED, [first, known])
    assert read(document) == "ab"
    assert list(document.parked) == [stranger]
    assert document.parked_size == len(stranger) + PARKING
    with pytest.raises(QuotaExceeded, match="clients"):
        document.apply(stranger)
    # It was acknowledged, so it outlives a restart.
    restored = copy(document)
    assert list(restored.parked) == [stranger]
    assert restored.parked_size == len(stranger) + PARKING
    assert read(restored) == "ab"


def test_a_panic_of_pycrdt_breaks_the_document() -> None:
    updates = history("reorder")
    document = Document()
    document.doc = cast(Any, Cursed(updates[1]))
    document.apply(updates[0])
    with pytest.raises(DocumentBroken) as raised:
        document.apply(updates[1])
    cause = raised.value.__cause__
    assert type(cause).__module__ == "pyo3_runtime"
    assert not isinstance(cause, Exception)
    assert raised.value.close_code == 1011


def test_an_interrupt_is_not_a_panic() -> None:
    class Interrupted:
        def apply_update(self, update: bytes) -> None:
            raise KeyboardInterrupt

    document = Document()
    document.doc = cast(Any, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        document.apply(history("reorder")[0])


# Emojis cut in half.


def test_an_author_goes_on_after_deleting_half_an_emoji() -> None:
    emoji, cut, following, last = history("drift")
    document = made([emoji, cut])
    assert document.raw is not None
    restored = copy(document)
    for each in (document, restored):
        assert each.apply(following) == (Outcome.APPLIED, [following])
        assert "NEXT" in load(each.state())
        assert "NEXT" in load(each.diff(clocks(c2=7)))
        assert sections(each.diff(clocks(c1=8)))[0] == {}
        again = copy(each)
        again.apply(last)
        assert "NEXT!" in load(again.state())
        assert again.gate.clocks == {1: 9}


def test_an_insertion_within_an_emoji_keeps_its_place() -> None:
    updates = history("within")
    document = made(updates)
    restored = copy(document)
    assert restored.gate.clocks == document.gate.clocks == {1: 5, 2: 1}
    assert load(restored.state()).endswith("end")


# Serving.


@pytest.mark.parametrize("name", HISTORIES)
def test_a_diff_completes_what_somebody_has(name: str) -> None:
    updates = history(name)
    for have in range(len(updates)):
        somebody = made(updates[:have])
        document = made(updates)
        somebody.apply(document.diff(somebody.state_vector()))
        assert somebody.gate == document.gate
        assert load(somebody.state()) == load(document.state())


@pytest.mark.parametrize("name", HISTORIES)
def test_any_state_vector_is_answered_with_what_clients_can_read(name: str) -> None:
    document = made(history(name))
    for one in range(10):
        for two in range(5):
            diff = document.diff(clocks(c1=one, c2=two))
            carried = sections(diff)[0]
            ends = parse(diff).ranges
            for client, known in ((1, one), (2, two)):
                end = document.gate.clocks.get(client, 0)
                if known < end:
                    # An emoji is not cut in half for somebody who has half of it.
                    assert ends[client][0] in (known, known - 1)
                    assert ends[client][-1] == end
                else:
                    assert client not in carried


@pytest.mark.parametrize(
    "state_vector",
    [
        clocks(c99=7),
        clocks(c1=wire.MAX_UINT),
        clocks(c1=2**31, c99=2**32),
        clocks(c99=0, c1=0),
        clocks(c9007199254740991=wire.MAX_UINT),
    ],
)
@pytest.mark.parametrize("name", ["answers", "drift"])
def test_a_foreign_state_vector_is_answered(name: str, state_vector: bytes) -> None:
    document = made(history(name))
    diff = document.diff(state_vector)
    parse(diff)
    known = wire.read_state_vector(state_vector)
    assert (1 in parse(diff).ranges) == (known.get(1, 0) < document.gate.clocks[1])


@pytest.mark.parametrize("state_vector", ["", "80808020", "0201010101", "000000"])
def test_a_malformed_state_vector_is_refused(state_vector: str) -> None:
    document = made(history("answers"))
    with pytest.raises(ProtocolError):
        document.diff(bytes.fromhex(state_vector))
    assert read(document) == "cd"


def test_deletions_are_part_of_every_diff() -> None:
    document = made(history("answers"))
    diff = document.diff(document.state_vector())
    assert parse(diff).deletes == {1: [0, 1], 2: [0, 1]}


def test_the_state_vector_does_not_count_what_is_parked() -> None:
    document = made(history("reorder")[1:3])
    assert document.state_vector() == b"\x00"
    document.apply(history("reorder")[0])
    assert wire.read_state_vector(document.state_vector()) == {1: 3}


# With pauses.


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take everything for large, and cut it small."""
    monkeypatch.setattr(collab.document, "LARGE", 0)
    monkeypatch.setattr(collab.document, "PIECE", 20)
    monkeypatch.setattr(collab.joining, "LARGE", 0)


def agree(document: Document, other: Document) -> None:
    assert other.gate.encode() == document.gate.encode()
    assert other.parked.keys() == document.parked.keys()
    assert other.parked_size == document.parked_size
    assert set(other.waiting) == set(document.waiting)
    assert same(finish(other.state_steps()), other.state())
    assert load(other.state()) == load(document.state())


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("name", HISTORIES)
def test_pauses_make_no_difference(name: str) -> None:
    updates = history(name)
    for order in (updates, updates[::-1], updates[1:] + updates[:1] + updates):
        document, other = Document(), Document()
        for update in order:
            assert finish(other.apply_steps(update)) == document.apply(update)
            agree(document, other)
            agree(document, copy(other))
            assert other.verify(*other.snapshot())


@pytest.mark.usefixtures("short_steps")
@pytest.mark.parametrize("seed", range(4))
def test_pauses_make_no_difference_to_many(seed: int) -> None:
    print(f"seed {seed}")
    log, _ = generate(seed, 200)
    updates = [update for _, update in log]
    chance = Random(seed)
    order: list[bytes] = []
    while updates:
        count = chance.choice((1, 5, 20))
        order.append(merge_updates(*updates[:count]))
        del updates[:count]
    if seed % 2:
        order.sort(key=lambda _: chance.random())
    document, other = Document(), Document()
    for update in order:
        assert finish(other.apply_steps(update)) == document.apply(update)
    agree(document, other)
    agree(document, copy(other))
    for _ in range(20):
        known = {c: chance.randint(0, n) for c, n in document.gate.clocks.items()}
        wanted = wire.uint(len(known)) + b"".join(
            wire.uint(client) + wire.uint(clock) for client, clock in known.items()
        )
        diff, twin = finish(document.diff_steps(wanted)), document.diff(wanted)
        assert same(diff, twin)


# Snapshots.


@pytest.fixture(params=range(5))
def lived(request: pytest.FixtureRequest) -> tuple[int, list[bytes]]:
    seed: int = request.param
    print(f"seed {seed}")
    log, _ = generate(seed, 150)
    return seed, [update for _, update in log]


def test_a_document_is_restored_at_any_moment(lived: tuple[int, list[bytes]]) -> None:
    seed, updates = lived
    chance = Random(seed)
    disordered = sorted(updates, key=lambda _: chance.random())
    document = Document()
    for update in disordered:
        document.apply(update)
        if chance.random() < 0.2:
            restored = copy(document)
            assert restored.gate == document.gate
            assert set(restored.parked) == set(document.parked)
            assert restored.parked_size == document.parked_size
            assert restored.state_vector() == document.state_vector()
            document = restored
    expected = made(updates)
    assert document.gate == expected.gate
    assert read(document, "text") == read(expected, "text")


def test_parked_updates_survive_a_snapshot() -> None:
    a1, a2, b1, b2 = history("pending")
    document = copy(made([b1, b2]))
    assert list(document.parked) == [b1, b2]
    document.apply(a1)
    document = copy(document)
    document.apply(a2)
    assert read(document) == "bcdefXYZ"
    assert load(copy(document).state()) == "bcdefXYZ"


@pytest.mark.parametrize("index", ["", "00", "02", "01", "0105", "0100", "0102030000"])
def test_an_index_that_is_not_ours_is_refused(index: str) -> None:
    state = made(history("answers")).state()
    with pytest.raises(ProtocolError):
        Document.restore(state, bytes.fromhex(index))


def test_a_state_that_pycrdt_cannot_read_is_refused() -> None:
    state, index = made(history("answers")).snapshot()
    with pytest.raises(DocumentBroken):
        Document.restore(b"\x01\xff\xff".ljust(len(state), b"\xff"), index)


def verified(document: Document, state: bytes) -> bool:
    """Whether a state is verified that stands in one piece beside an index."""
    parked = b"".join(map(wire.data, document.parked))
    index = b"\x01" + wire.data(document.gate.encode())
    return document.verify(state, index + wire.uint(len(document.parked)) + parked)


@pytest.mark.parametrize("name", HISTORIES)
def test_the_own_state_is_verified(name: str) -> None:
    document = made(history(name))
    assert verified(document, document.state())
    assert verified(copy(document), document.state())


@pytest.mark.parametrize("name", HISTORIES)
def test_a_state_that_lacks_an_update_is_not_verified(name: str) -> None:
    updates = history(name)
    for missing in updates:
        kept = [update for update in updates if update is not missing]
        lacking = made(kept)
        assert not verified(made(updates), lacking.state())
        assert not verified(made(updates), merge_updates(*kept))


def test_a_state_that_resurrects_what_was_deleted_is_not_verified() -> None:
    updates = history("answers")
    assert not verified(made(updates), made(updates[:-1]).state())


def test_a_state_may_delete_what_lost_against_a_concurrent_write() -> None:
    writers: list[Doc[Any]] = [Doc(client_id=1), Doc(client_id=2)]
    for number, writer in enumerate(writers):
        writer.get("map", type=Map)["key"] = number
    document = made([writer.get_update() for writer in writers])
    state = document.state()
    assert parse(state).deletes
    assert not document.gate.deleted
    assert verified(document, state)


def test_objects_may_have_their_keys_in_any_order() -> None:
    writer: Doc[Any] = Doc()
    shapes = writer.get("shapes", type=Map)
    for number in range(50):
        shapes[str(number)] = {"id": number, "x": 1.5, "props": {"w": 1, "h": 2}}
    document = made([writer.get_update()])
    assert document.gate.faithful
    assert verified(document, document.state())
    # The states of two replicas hardly ever are the same bytes.
    assert verified(made([document.state()]), writer.get_update())


@pytest.mark.parametrize("state", ["", "ff", "01010501000000", "0000"])
def test_what_is_no_state_is_not_verified(state: str) -> None:
    assert not verified(made(history("answers")), bytes.fromhex(state))


def test_many_small_updates_that_wait_are_too_many_at_last() -> None:
    document = Document()

    def park() -> None:
        for client in range(1, 2 * MAX_PARKED // PARKING):
            # One character of each client, whose first five it waits for.
            section = b"\x01\x01" + wire.uint(client) + b"\x05"
            document.apply(section + b"\x04\x01\x01t\x01x\x00")

    with pytest.raises(QuotaExceeded):
        park()
    assert 1 < len(document.parked) <= MAX_PARKED // PARKING


COLLECTED = hexed("01 01 05 00 00 03 00")
"""Three clocks that somebody has collected."""

NEWS = hexed("01 01 05 03 84 05 02 01 64 00")
"""The last letter of "abcd"."""


def test_of_what_is_partly_known_only_the_news_is_shown() -> None:
    # Yjs throws at an item of which it has collected the beginning.
    document = made([COLLECTED])
    assert document.apply(typed(5, 0, "abcd", None)) == (Outcome.APPLIED, [NEWS])
    assert document.gate.clocks == {5: 4}
    assert document.apply(NEWS) == (Outcome.REPEATED, [])


def test_of_what_was_parked_and_is_partly_known_only_the_news_is_shown() -> None:
    document = Document()
    late, partial = typed(6, 1, "y", (6, 0)), typed(5, 0, "abcd", None)
    two = b"\x02" + late[1:-1] + partial[1:]
    assert document.apply(two) == (Outcome.PARKED, [])
    document.apply(COLLECTED)
    first = typed(6, 0, "x", None)
    outcome, visible = document.apply(first)
    assert outcome is Outcome.APPLIED
    assert visible[0] == first
    assert sections(visible[1])[0] == {6: late[1:-1], 5: NEWS[1:-1]}


def test_the_news_of_half_an_emoji_are_not_trusted() -> None:
    document = made([typed(5, 0, "a\ufffd", None)])
    outcome, visible = document.apply(typed(5, 0, "a\U0001f600b", None))
    assert outcome is Outcome.APPLIED
    assert visible == [typed(5, 2, "\ufffdb", (5, 1))]
    assert not document.gate.faithful
    assert load(document.state()) == "a\ufffd\ufffdb"


def test_the_news_of_what_is_large_are_found_in_steps() -> None:
    whole = typed(5, 0, "x" * 100_000, None)
    document = made([typed(5, 0, "x" * 60_000, None)])
    outcome, visible = finish(document.apply_steps(whole))
    assert outcome is Outcome.APPLIED
    assert visible == [typed(5, 60_000, "x" * 40_000, (5, 59_999))]
    assert read(document) == "x" * 100_000
