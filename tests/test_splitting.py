"""The pieces of an update are the update."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from pycrdt import merge_updates

from collab.contents import finish
from collab.document import Document, Outcome
from collab.joining import Joined, same
from collab.splitting import split
from collab.updates import ACCEPTED, Parsed, cut, parse, parse_steps
from tests.crafted import GAP, deleted, hexed, item, sections, typed
from tests.honest import Node
from tests.test_joining import lived
from tests.traces import generate
from tests.vectors import YJS, history

HISTORIES = list(YJS["histories"])


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


def pieces(update: bytes, size: int) -> list[bytes]:
    return list(split(update, cut(update), size))


def fold(updates: list[bytes]) -> Document:
    document = Document()
    for update in updates:
        document.apply(update)
    return document


def check(whole: bytes, size: int, known: list[bytes] | None = None) -> int:
    """Apply a whole and its pieces to a document; return how many pieces there are."""
    one, other = fold(known or []), fold(known or [])
    one.apply(whole)
    parts = pieces(whole, size)
    for part in parts:
        outcome, _ = other.apply(part, parse(part, ACCEPTED))
        # What is deleted may be no news: it came as deleted.
        assert outcome is Outcome.APPLIED or part[0] == 0 or known
    assert other.gate == one.gate
    assert other.gate.places.keys() == one.gate.places.keys()
    assert other.gate.faithful == one.gate.faithful
    if one.gate.faithful:
        # pycrdt joins more of what it is given at once: so it is, once more.
        again = [fold([document.state()]) for document in (one, other)]
        assert same(again[0].state(), again[1].state())
    else:
        together = [Joined([*(known or []), *some]) for some in ([whole], parts)]
        assert same(together[0].encode(), together[1].encode())
    # Byte for byte, and in the order that it was.
    if len(parts) > 1:
        joined: dict[int, bytes] = {}
        for part in parts:
            for client, found in sections(part)[0].items():
                joined[client] = joined.get(client, b"") + structs(part, client, found)
        for client, found in sections(whole)[0].items():
            assert joined[client] == structs(whole, client, found)
    return len(parts)


def structs(update: bytes, client: int, section: bytes) -> bytes:
    """The structs of a section, without its head."""
    parsed = cut(update)
    return section[parsed.cuts[client][1] - parsed.bounds[client][0] :]


def test_what_is_small_is_whole() -> None:
    update = typed(5, 0, "abc", None)
    assert pieces(update, 64) == [update]


def test_who_answers_stands_behind_what_is_answered() -> None:
    whole = hexed(
        "02 02 06 00 84 05 00 01 62 84 05 01 01 64"
        "   02 05 00 04 01 01 74 01 61 84 06 00 01 63 01 05 01 00 01"
    )
    assert pieces(whole, 1) == [
        typed(5, 0, "a", None),
        typed(6, 0, "b", (5, 0)),
        typed(5, 1, "c", (6, 0)),
        typed(6, 1, "d", (5, 1)),
        deleted(5, 0, 1),
    ]


def test_a_struct_is_never_cut() -> None:
    update = item("04 01 01 74 05 6162636465")
    assert pieces(update, 1) == [update]


def test_what_has_a_gap_is_left_whole() -> None:
    assert pieces(GAP, 1) == [GAP]


def test_a_skip_at_an_end_is_left_out() -> None:
    trailing = hexed("01 03 05 00 04 01 01 74 01 61 84 05 00 01 62 0a 03 00")
    assert pieces(trailing, 1) == [typed(5, 0, "a", None), typed(5, 1, "b", (5, 0))]


def test_deletions_are_split_too() -> None:
    update = deleted(5, *[number for at in range(0, 200, 2) for number in (at, 1)])
    assert pieces(update, 64) == [deleted(5, at, 1) for at in range(0, 200, 2)]
    # Several are in a piece, if they are short.
    assert pieces(update, 199)[0] == deleted(5, 0, 1, 2, 1, 4, 1)


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("size", [1, 20])
def test_recorded_histories(name: str, size: int) -> None:
    check(Joined(accepted(name)).encode(), size)


def accepted(name: str) -> list[bytes]:
    document = Document()
    return [seen for update in history(name) for seen in document.apply(update)[1]]


@pytest.mark.parametrize("seed", range(8))
def test_what_several_people_typed(seed: int) -> None:
    print(f"seed {seed}")
    chance = Random(seed)
    log, _ = generate(seed, 400)
    updates = [update for _, update in log]
    have = chance.choice((0, chance.randrange(400)))
    for whole in (
        fold(updates).state(),
        Joined(updates).encode(),
        merge_updates(*updates[have:]),
    ):
        known = updates[:have]
        count = check(whole, chance.choice((1, 50, 500)), known)
        assert count > 1


@pytest.mark.parametrize("seed", range(12))
def test_what_clients_of_yjs_made(node: Node, seed: int) -> None:
    updates = lived(node, seed).accepted
    check(Joined(updates).encode(), Random(seed).choice((1, 30, 300)))


def test_parsing_with_pauses_says_where_to_cut() -> None:
    update = Joined(accepted("answers")).encode()
    parsed: Parsed = finish(parse_steps(update, cuts={}))
    assert list(split(update, parsed, 1)) == pieces(update, 1)
