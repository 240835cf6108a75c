"""Thinned, a history says what it said, wherever it can still be opened."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from time import process_time

import pytest
from pycrdt import Text

from collab import wire
from collab.contents import finish, skip_values
from collab.document import Document, Outcome
from collab.errors import CollabError, ProtocolError
from collab.gate import Gate, Verdict
from collab.joining import same
from collab.thinning import SIZE, Merged, Old, thin
from collab.updates import Parsed, cut, parse
from tests import traces
from tests.crafted import GAP, deleted, hexed, item, nest, typed
from tests.honest import Node, base64, hostile
from tests.test_honest_traffic import HOME, World

NOON = 1_699_963_200_000
"""Milliseconds at which a minute begins."""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


def log(*updates: bytes) -> list[Old]:
    """What somebody wrote within a minute."""
    return [Old(n, 1, update, "ann", NOON + n) for n, update in enumerate(updates, 1)]


def letters(text: str, first: int = 0) -> list[bytes]:
    """Updates of typing a text, letter by letter, from a clock on."""
    return [
        typed(5, clock, letter, (5, clock - 1) if clock else None)
        for clock, letter in enumerate(text, first)
    ]


def thinned(rows: Iterable[Old], merged: Iterable[Merged]) -> list[Old]:
    """What is left of rows, some of which become one."""
    left = {row.position: row for row in rows}
    for one in merged:
        span = one.position - one.first + 1
        for position in range(one.first, one.position):
            left.pop(position, None)
        left[one.position] = Old(one.position, span, one.update, one.author, one.at)
    return [left[position] for position in sorted(left)]


def spans(
    rows: Sequence[Old], keep: Container[int] = (), size: int = SIZE
) -> list[tuple[int, int]]:
    """The first and the last position of all rows that take the place of others."""
    merged = list(thin(rows, keep=keep, size=size))
    check(rows, thinned(rows, merged))
    return [(one.first, one.position) for one in merged]


def only(*updates: bytes) -> bytes:
    """What updates become that become one."""
    rows = log(*updates)
    assert spans(rows) == [(1, len(rows))]
    [merged] = thin(rows)
    gate = Gate()
    assert gate.judge(parse(merged.update)) is Verdict.READY
    return merged.update


def whole(document: Document) -> bytes:
    return document.state()


def check(
    rows: Iterable[Old],
    left: Sequence[Old],
    every: int = 1,
    state: Callable[[Document], bytes] = whole,
) -> None:
    """Compare what is left of rows with them, wherever one of it ends.

    ``every`` so many rows, and at the last one, their states are compared as well.
    """
    before, after = Document(), Document()
    old = iter(rows)
    for number, row in enumerate(left, 1):
        take(after, row)
        for one in old:
            take(before, one)
            if one.position == row.position:
                break
        assert before.gate == after.gate, row
        assert list(before.parked) == list(after.parked), row
        if number % every == 0 or row is left[-1]:
            assert facts(before.gate) == facts(after.gate), row
            if before.raw is None:
                assert same(state(before), state(after)), row
    assert next(old, None) is None


def take(document: Document, row: Old) -> None:
    with suppress(CollabError):  # Whoever opens the document leaves it out, too.
        document.apply(row.update)


def facts(gate: Gate) -> object:
    """What else a gate knows, for what it judges later."""
    places = {
        client: [gate.place(client, clock) for clock in range(end)]
        for client, end in gate.clocks.items()
    }
    return gate.faithful, gate.lows, gate.types, places


# What updates become, written out.


def test_typing_becomes_one_string() -> None:
    assert only(*letters("hello")) == typed(5, 0, "hello", None)


def test_a_run_may_begin_at_any_clock() -> None:
    rows = log(*letters("hello"))
    first, second = thin(rows, keep={2})
    assert first == Merged(1, 2, typed(5, 0, "he", None), "ann", NOON + 2, 2)
    assert second == Merged(3, 5, typed(5, 2, "llo", (5, 1)), "ann", NOON + 5, 3)


def test_typing_between_two_letters_becomes_one_string_between_them() -> None:
    around = typed(6, 0, "xy", None)
    rows = [
        Old(1, 1, around, "bob", NOON),
        Old(2, 1, item("c4 06 00 06 01 01 61"), "ann", NOON),
        Old(3, 1, item("c4 05 00 06 01 01 62", clock=1), "ann", NOON),
        Old(4, 1, item("c4 05 01 06 01 01 63", clock=2), "ann", NOON),
        # It has no right origin any more, and begins anew.
        Old(5, 1, item("84 05 02 01 64", clock=3), "ann", NOON),
        Old(6, 1, item("84 05 03 01 65", clock=4), "ann", NOON),
    ]
    assert spans(rows) == [(2, 6)]
    [merged] = thin(rows)
    assert merged.update == hexed(
        "01 02 05 00 c4 06 00 06 01 03 616263 84 05 02 02 6465 00"
    )


def test_what_does_not_continue_the_string_before_it_is_a_struct_of_its_own() -> None:
    assert only(
        typed(5, 0, "ab", None),
        typed(5, 2, "c", (5, 0)),
        item("04 01 01 74 01 64", clock=3),
        item("44 05 03 01 65", clock=4),
        item("c4 05 03 05 04 01 66", clock=5),
    ) == hexed(
        "01 05 05 00 04 01 01 74 02 6162 84 05 00 01 63 04 01 01 74 01 64"
        "   44 05 03 01 65 c4 05 03 05 04 01 66 00"
    )


def test_deletions_are_united() -> None:
    assert only(
        *letters("abc"),
        deleted(5, 2, 1),
        deleted(5, 1, 1),
        typed(5, 3, "d", (5, 0)),
        typed(5, 4, "e", (5, 3)),
        deleted(5, 1, 1, 4, 1),
    ) == hexed(
        "01 02 05 00 04 01 01 74 03 616263 84 05 00 02 6465 01 05 02 01 02 04 01"
    )


def test_deletions_alone_become_one_of_whatever_clients() -> None:
    there = [
        Old(1, 1, typed(5, 0, "abcdef", None), "bob", NOON),
        Old(2, 1, typed(6, 0, "xyz", None), "cyd", NOON),
    ]
    rows = [
        *there,
        Old(3, 1, deleted(5, 5, 1), "ann", NOON),
        Old(4, 1, deleted(6, 0, 2), "ann", NOON),
        Old(5, 1, deleted(5, 4, 1), "ann", NOON),
        # Nothing is typed in between that would be of one of them.
        Old(6, 1, typed(7, 0, "!", (5, 3)), "ann", NOON),
    ]
    assert spans(rows) == [(3, 6)]
    [merged] = thin(rows)
    assert merged.update == hexed(
        "01 01 07 00 84 05 03 01 21 02 06 01 00 02 05 01 04 02"
    )


def test_values_of_a_list_become_one_struct() -> None:
    assert only(
        item("08 01 01 61 01 7e"),
        item("88 05 00 02 7d01 7f", clock=1),
        item("88 05 02 01 7702c3a9", clock=3),
    ) == item("08 01 01 61 04 7e 7d01 7f 7702c3a9")


def test_an_emoji_stays_whole_and_halves_stay_halves() -> None:
    assert only(*letters("a"), typed(5, 1, "😀", (5, 0)), typed(5, 3, "b", (5, 2))) == (
        typed(5, 0, "a😀b", None)
    )
    assert only(*letters("\ufffd\ufffd")) == typed(5, 0, "\ufffd\ufffd", None)
    # From half a pair on that is deleted, documents are not what pycrdt says.
    cutting = only(typed(5, 0, "😀", None), deleted(5, 1, 1))
    assert cutting == hexed("01 01 05 00 04 01 01 74 04 f09f9880 01 05 01 01 01")


@pytest.mark.parametrize("flagged", ["a8", "88"])
def test_of_map_entries_each_stays(flagged: str) -> None:
    assert only(
        item("28 01 01 6d 01 6b 01 7e"),
        item(f"{flagged} 05 00 01 7f", clock=1),
        item(f"{flagged} 05 01 01 78", clock=2),
    ) == hexed(
        "01 03 05 00 28 01 01 6d 01 6b 01 7e"
        f"  {flagged} 05 00 01 7f {flagged} 05 01 01 78 00"
    )


def test_what_yjs_does_not_join_stays() -> None:
    mark = "86 05 00 04 626f6c64 04 74727565"
    embed = "85 05 01 02 7b7d"
    image = "83 05 02 01 ff"
    assert only(
        typed(5, 0, "a", None),
        item(mark, clock=1),
        item(embed, clock=2),
        item(image, clock=3),
        item("84 05 03 01 62", clock=4),
        item("88 05 04 01 7e", clock=5),
    ) == hexed(
        f"01 06 05 00 04 01 01 74 01 61 {mark} {embed} {image} 84 05 03 01 62"
        "   88 05 04 01 7e 00"
    )


# Where a run ends.


def test_a_row_alone_stays_as_it_is() -> None:
    assert spans([]) == []
    assert spans(log(typed(5, 0, "a", None))) == []


def test_a_run_is_of_one_author() -> None:
    rows = log(*letters("abcdefg"))
    rows[2:5] = [row._replace(author=None) for row in rows[2:5]]
    assert spans(rows) == [(1, 2), (3, 5), (6, 7)]
    assert [one.author for one in thin(rows)] == ["ann", None, "ann"]


def test_a_run_is_of_one_minute_of_the_clock() -> None:
    rows = log(*letters("abcd"))
    times = NOON + 59_998, NOON + 59_999, NOON + 60_000, NOON + 119_999
    rows = [row._replace(at=at) for row, at in zip(rows, times, strict=True)]
    assert spans(rows) == [(1, 2), (3, 4)]


def test_the_clock_may_be_set_back() -> None:
    rows = log(*letters("abcde"))
    times = NOON + 5000, NOON + 1000, NOON + 3000, NOON - 1, NOON - 60_000
    rows = [row._replace(at=at) for row, at in zip(rows, times, strict=True)]
    assert spans(rows) == [(1, 3), (4, 5)]
    assert [one.at for one in thin(rows)] == [NOON + 3000, NOON - 60_000]


def test_a_run_ends_at_what_is_kept() -> None:
    rows = log(*letters("abcdefgh"))
    assert spans(rows, keep={3, 4, 6}) == [(1, 3), (5, 6), (7, 8)]


def test_a_run_ends_at_a_position_that_is_missing() -> None:
    rows = log(*letters("abcd"))
    rows[2:] = [row._replace(position=row.position + 1) for row in rows[2:]]
    assert spans(rows) == [(1, 2), (4, 5)]


def test_a_busy_minute_becomes_several_rows() -> None:
    rows = log(*letters("x" * 500))
    merged = list(thin(rows, size=100))
    assert [len(one.update) <= 110 for one in merged] == [True] * len(merged)
    assert 5 <= len(merged) <= 7
    check(rows, thinned(rows, merged))
    pasted = [typed(5, n * 70, "x" * 70, (5, n * 70 - 1)) for n in range(1, 4)]
    assert spans(log(typed(5, 0, "x" * 70, None), *pasted), size=100) == []
    # What is deleted counts, and what is deleted beside it doesn't.
    there = typed(5, 0, "x" * 100, None)
    apart = [deleted(5, clock, 1) for clock in range(0, 100, 2)]
    assert len(spans(log(there, *apart), size=200)) == 3
    beside = [deleted(5, clock, 1) for clock in range(100)]
    assert spans(log(there, *beside), size=200) == [(1, 101)]


def test_a_run_has_structs_of_one_client() -> None:
    first = letters("ab")
    other = [typed(6, 0, "x", (5, 1)), deleted(5, 0, 1), typed(6, 1, "y", (6, 0))]
    assert spans(log(*first, *other, *letters("cd", 2))) == [(1, 2), (3, 5), (6, 7)]
    both = hexed("02 01 06 00 84 05 01 01 78 01 05 02 84 05 01 01 63 00")
    assert spans(log(*first, both, *letters("de", 3))) == [(1, 2), (4, 5)]


def test_while_something_is_parked_all_stays() -> None:
    a, b, c, d, e, f, g = letters("abcdefg")
    assert spans(log(a, b, d, e, c, f, g)) == [(1, 2), (6, 7)]
    # What is ready meanwhile may be what another one waits for.
    other = [typed(6, 0, "x", (5, 0)), typed(6, 1, "y", (6, 0))]
    assert spans(log(a, d, *other, b, c, e, f)) == [(7, 8)]


@pytest.mark.parametrize(
    "odd",
    {
        "a repeat": typed(5, 1, "b", (5, 0)),
        "partly known": typed(5, 0, "abc", None),
        "a Skip": GAP,
        "collected": item("00 01", clock=2),
        "deleted": item("81 05 01 01", clock=2),
        "nothing": b"\x00\x00",
        "rejected": b"\x01\x01\x05\x02\x0b",
    }.items(),
    ids=lambda odd: odd[0],
)
def test_what_is_odd_stays(odd: tuple[str, bytes]) -> None:
    start = letters("ab")
    document = Document()
    for row in log(*start, odd[1]):
        take(document, row)
    after = letters("cd", document.gate.clocks[5])
    assert spans(log(*start, odd[1], *after)) == [(1, 2), (4, 5)]


def test_nothing_follows_a_type_that_was_deleted() -> None:
    """What is put into it later is collected, and would only be deleted."""
    inside = item("04 00 05 00 01 78", clock=1)
    late = item("84 05 01 01 79", clock=2), item("84 05 02 01 7a", clock=3)
    rows = log(nest(5, 0, None), inside, deleted(5, 0, 1), *late)
    assert spans(rows) == [(1, 3), (4, 5)]


def test_nothing_follows_a_map_entry_that_may_have_been_a_type() -> None:
    text = item("27 01 01 6d 01 6b 02")
    other = item("28 01 01 6d 01 6c 01 7e", clock=1)
    again = item("a8 05 01 01 7f", clock=2)
    elsewhere = typed(5, 3, "y", None), typed(5, 4, "z", (5, 3))
    assert spans(log(text, other, again, *elsewhere)) == [(4, 5)]
    # In a map within that one there are only values.
    inner = item("27 01 01 6d 01 6b 01")
    moved = [
        item("28 00 05 00 01 78 01 7d01", clock=1),
        item("a8 05 01 01 7d02", clock=2),
        item("a8 05 02 01 7d03", clock=3),
    ]
    assert spans(log(inner, *moved)) == [(2, 4)]


def test_what_would_be_judged_otherwise_as_one_stays() -> None:
    # Both halves of an emoji at once are none.
    halves = deleted(5, 0, 1), deleted(5, 1, 1)
    assert spans(log(typed(5, 0, "😀", None), *halves)) == []
    # A limit is for one update.
    entries = [item("28 01 01 6d 01 6b 01 7e", clock=clock) for clock in range(4002)]
    assert list(thin(log(*entries))) == []
    assert len(list(thin(log(*entries[:4000])))) == 1


# Again, and from the middle.


def test_what_was_thinned_is_thinned_further() -> None:
    rows = log(*letters("abcdefgh"))
    once = thinned(rows, thin(rows[:5], keep={2}))
    assert [row.span for row in once] == [2, 3, 1, 1, 1]
    assert list(thin(once)) == [
        Merged(1, 8, typed(5, 0, "abcdefgh", None), "ann", NOON + 8, 5)
    ]
    twice = thinned(once, thin(once))
    assert list(thin(twice)) == []
    check(rows, twice)


def test_thinning_begins_behind_a_snapshot() -> None:
    a, b, c, d, e, f, g = letters("abcdefg")
    rows = log(a, b, e, c, d, f, g)
    for position in range(len(rows)):
        document = Document()
        for row in rows[:position]:
            document.apply(row.update)
        found = thin(rows[position:], snapshot=document.snapshot())
        behind = [(one.first, one.position) for one in found]
        # The last two, unless the snapshot was in between; before that, "e" is parked.
        assert behind == {0: [(1, 2), (6, 7)], 6: []}.get(position, [(6, 7)])
    with pytest.raises(ProtocolError):
        list(thin(rows, snapshot=(b"", b"\x07")))


def test_a_snapshot_knows_of_types_in_maps() -> None:
    rows = log(
        item("27 01 01 6d 01 6b 02"),
        item("28 01 01 6d 01 6c 01 7e", clock=1),
        item("a8 05 01 01 7f", clock=2),
    )
    document = Document()
    document.apply(rows[0].update)
    assert list(thin(rows[1:], snapshot=document.snapshot())) == []


# Random ones, and real ones.


def dated(
    updates: Iterable[tuple[str | None, bytes]], chance: Random, pace: int
) -> list[Old]:
    """Rows at random times, ``pace`` milliseconds apart at most; or back in time."""
    rows = []
    at = NOON
    for position, (author, update) in enumerate(updates, 1):
        at += (
            chance.randrange(pace) if chance.random() < 0.9 else -chance.randrange(pace)
        )
        rows.append(Old(position, 1, update, author, at))
    return rows


def try_all(rows: Sequence[Old], chance: Random, every: int = 1) -> list[Old]:
    """Thin rows, and compare; return what is left."""
    keep = set(chance.sample(range(1, len(rows) + 1), k=len(rows) // 50))
    size = chance.choice((200, 1000, SIZE))
    left = thinned(rows, thin(rows, keep=keep, size=size))
    check(rows, left, every)
    assert keep <= {row.position for row in left}
    # In steps it comes to the same.
    half = len(rows) // 2
    steps = thinned(rows, thin(rows[:half], keep=keep, size=size))
    assert thinned(steps, thin(steps, keep=keep, size=size)) == left
    assert list(thin(left, keep=keep, size=size)) == []
    return left


@pytest.mark.parametrize("seed", range(20))
def test_made_up_histories(seed: int) -> None:
    chance = Random(seed)
    edits, text = traces.generate(seed, 300)
    authors = [chance.choice(("ann", "bob", None)) for _ in range(3)]
    rows = dated(
        ((authors[agent], update) for agent, update in edits),
        chance,
        chance.choice((500, 20_000)),
    )
    left = try_all(rows, chance)
    assert len(left) < len(rows) // 2
    document = Document()
    for row in left:
        document.apply(row.update)
    assert str(document.doc.get("text", type=Text)) == text


def small_histories() -> Iterator[list[bytes]]:
    """The updates of each history in small-test-dataset.bin, if that is at hand."""
    path = traces.find("small-test-dataset.bin")
    if path is None:
        return
    dataset = path.read_bytes()
    count, at = wire.read_uint(dataset, 0)
    for _ in range(count):
        length, at = wire.read_uint(dataset, at)
        updates = []
        for _ in range(length):
            update, at = wire.read_data(dataset, at)
            updates.append(update)
        yield updates
        # The text, the map and the array that it ends in.
        _, at = wire.read_text(dataset, at)
        at, _ = finish(skip_values(dataset, at, 2, 64))


@pytest.mark.slow
def test_5320_histories() -> None:
    rows = left = 0
    for number, updates in enumerate(small_histories()):
        print(f"history {number}")
        chance = Random(number)
        history = dated(((None, update) for update in updates), chance, 1000)
        rows += len(history)
        left += len(try_all(history, chance))
    print(f"{rows} rows: {left} are left")


def test_two_friends() -> None:
    edits = traces.read_log("friendsforever")
    if edits is None:
        edits = iter(traces.generate(1, 3000, 2)[0])
    chance = Random(1)
    rows = dated(((None, update) for _, update in edits), chance, 600)
    left = try_all(rows, chance, every=50)
    print(f"{len(rows)} rows: {len(left)} are left")
    assert len(left) < len(rows) // 5


def test_a_paper() -> None:
    """Measured and printed; what is left is little more than a snapshot."""
    edits = traces.read_log("automerge-paper")
    if edits is None:
        edits = iter(traces.generate(1, 5000, 1)[0])
    rows = [
        Old(position, 1, update, "martin", NOON + position * 333)
        for position, (_, update) in enumerate(edits, 1)
    ]
    started = process_time()
    merged = list(thin(rows))
    seconds = process_time() - started
    left = thinned(rows, merged)
    before, after = (sum(len(row.update) for row in each) for each in (rows, left))
    print(f"{len(rows)} rows of {before} bytes: {len(left)} of {after} are left")
    print(f"{seconds / len(rows) * 1e6:.1f} us per row")
    check(rows, left, every=500)
    assert len(left) < len(rows) // 100
    assert after < before // 8


class Listening(Document):
    """A document that notes what arrives, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[bytes] = []

    def apply(
        self, update: bytes, parsed: Parsed | None = None
    ) -> tuple[Outcome, list[bytes]]:
        self.arrived.append(update)
        return super().apply(update, parsed)


def visible(rows: Iterable[Old]) -> list[bytes]:
    """What clients see of rows."""
    document = Document()
    updates = []
    for row in rows:
        _, seen = document.apply(row.update)
        updates += seen
    return updates


@pytest.mark.parametrize("seed", range(12))
def test_honest_clients_load_what_is_thinned(node: Node, seed: int) -> None:
    chance = Random(seed)
    plan = replace(
        HOME,
        seed=seed,
        browsers=chance.randint(1, 4),
        split=chance.random() < 0.2,
        formats=chance.random() < 0.5,
        nested=chance.random() < 0.8,
        offline=chance.choice((0, 0.1)),
        merges=chance.choice((0, 0.1)),
        disorder=chance.choice((0, 3, 30)),
        undo=chance.random() < 0.5,
        gc=chance.random() < 0.5,
    )
    world = World(node, plan)
    world.document = document = Listening()
    for _ in range(5):
        world.round(edits=40)
    world.settle()
    rows = dated(((None, update) for update in document.arrived), chance, 1000)
    left = try_all(rows, chance)
    # What Yjs shows of formatting depends on what it is told at once.
    loaded = [
        node.ask("load", updates=[list(map(base64, visible(each)))])[1]
        for each in (rows, left)
    ]
    assert loaded[0] == loaded[1]
    assert not loaded[0]["pending"]
    if not plan.formats:
        _, apart = node.ask("load", updates=list(map(base64, visible(left))))
        assert apart["content"] == loaded[0]["content"]


@pytest.fixture(scope="module")
def honest(node: Node) -> list[bytes]:
    """A short history of Yjs clients."""
    world = World(node, HOME)
    for _ in range(3):
        world.round(edits=20)
    return [world.updates[number] for number in world.order]


@pytest.mark.parametrize("seed", range(80))
def test_hostile_updates_that_are_accepted(
    node: Node, honest: list[bytes], seed: int
) -> None:
    """Of 3,000 such histories two came out otherwise, in the order of items whose right
    origin was to the left of their origin; see the module.
    """
    chance = Random(seed)
    gate = Gate()
    updates = []
    for update in honest[: chance.randrange(16)]:
        parsed = parse(update)
        assert gate.judge(parsed) is Verdict.READY
        gate.accept(parsed)
        updates.append(update)
    for _ in range(400):
        update = (
            hostile.forge(chance, gate)
            if chance.random() < 0.8
            else hostile.mutate(chance, honest[:20])
        )
        try:
            parsed = cut(update)
            verdict = gate.judge(parsed)
        except CollabError:
            continue
        # Most of them are such as may become one with others.
        usual = (
            verdict is Verdict.READY
            and parsed.faithful
            and not parsed.gone
            and parsed.ranges.keys() <= {5}
        )
        if not usual and chance.random() < 0.95:
            continue
        if verdict is Verdict.READY:
            gate.accept(parsed)
        updates.append(update)
    rows = dated(((None, update) for update in updates), chance, 1000)

    def squashed(document: Document) -> bytes:
        # pycrdt squashes what is next to what has changed. What was deleted before, and
        # behind, something that is left may stay in pieces. Yjs squashes all it loads.
        _, loaded = node.ask("load", updates=[base64(document.state())])
        return b64decode(loaded["state"])

    check(rows, thinned(rows, thin(rows)), state=squashed)
