"""What is joined is what Yjs makes of its parts, to the byte."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from time import process_time
from typing import Any

import pytest
from pycrdt import Doc, Text

from collab import wire
from collab.document import Document
from collab.joining import Joined, same
from collab.updates import parse
from tests.crafted import GAP, deleted, hexed, item, typed
from tests.honest import Node, base64
from tests.traces import read_final, read_log


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node() as node:
        yield node


def join(*updates: bytes) -> bytes:
    return Joined(updates).encode()


def load(node: Node, *parts: bytes | list[bytes]) -> dict[str, Any]:
    """What Yjs makes of updates; those in a list it applies as one transaction.

    After a transaction Yjs deletes formatting that became redundant. What others write
    there at the same time comes out with or without it, depending on when that was: two
    clients may differ for ever. So it matters what is a transaction.
    """
    updates = [
        base64(part) if isinstance(part, bytes) else list(map(base64, part))
        for part in parts
    ]
    _, loaded = node.ask("load", updates=updates)
    assert "error" not in loaded, loaded["error"]
    assert not loaded["pending"]
    answer: dict[str, Any] = loaded
    return answer


def content(node: Node, *parts: bytes | list[bytes]) -> str:
    """What Yjs shows; BigInts, and all digits of numbers, are told apart."""
    shown: str = load(node, *parts)["content"]
    return shown


def squashed(node: Node, *parts: bytes | list[bytes]) -> bytes:
    """The state of a Yjs client that applied updates."""
    return b64decode(load(node, *parts)["state"])


# Written out.


def test_nothing_joins_to_nothing() -> None:
    assert join() == b"\x00\x00"
    assert join(b"\x00\x00", b"\x00\x00") == b"\x00\x00"
    assert Joined().encode({5: 3}) == b"\x00\x00"


def test_structs_are_put_behind_each_other() -> None:
    assert join(
        hexed("01 01 05 00 04 01 01 74 01 61 00"),
        hexed("01 01 06 00 84 05 00 01 62 00"),
        hexed("01 02 05 01 84 05 00 01 63 81 05 01 02 01 05 01 02 02"),
    ) == hexed(
        "02 01 06 00 84 05 00 01 62"
        "   03 05 00 04 01 01 74 01 61 84 05 00 01 63 81 05 01 02 01 05 01 02 02"
    )


def test_deletes_are_united_and_in_order() -> None:
    text = typed(5, 0, "abcdefgh", None)
    parts = [deleted(5, 6, 1), deleted(5, 0, 2, 4, 1), deleted(5, 2, 2)]
    assert join(text, *parts, parts[0]) == text[:-1] + hexed("01 05 02 00 05 06 01")


def test_what_is_known_is_dropped() -> None:
    first, second = typed(5, 0, "abc", None), typed(5, 3, "def", (5, 2))
    assert join(first, first) == join(first)
    assert join(first, second, first, second) == join(first, second)
    assert join(first, join(first, second)) == join(first, second)


def test_a_known_gap_is_not_joined() -> None:
    a, b, c = (typed(5, n, "abc"[n], (5, n - 1) if n else None) for n in range(3))
    assert join(a, b, GAP) == join(a, b, c)
    trailing = hexed("01 02 05 00 04 01 01 74 01 61 0a 03 00")
    assert join(trailing, b, c) == join(a, b, c)


def test_what_does_not_build_upon_the_rest_is_an_error() -> None:
    with pytest.raises(ValueError, match="gap"):
        join(typed(5, 0, "a", None), typed(5, 2, "c", (5, 1)))


LONG = {
    "a string": ("04 01 01 74 03 616263", "84 05 00 02 6263"),
    "a string behind something": ("84 06 00 03 616263", "84 05 00 02 6263"),
    "a string before something": ("44 06 00 03 616263", "c4 05 00 06 00 02 6263"),
    "a string between": ("c4 06 00 07 00 03 616263", "c4 05 00 07 00 02 6263"),
    "a string in a type": ("04 00 06 00 03 616263", "84 05 00 02 6263"),
    "values": ("08 01 01 61 03 7e 7703616263 7d01", "88 05 00 02 7703616263 7d01"),
    "values of an entry": (
        "28 00 06 00 01 6b 03 7e 7a00000000000000ff 7f",
        "a8 05 00 02 7a00000000000000ff 7f",
    ),
    "what is deleted": ("01 01 01 74 03", "81 05 00 02"),
    "what is collected": ("00 03", "00 02"),
    "wide letters": ("04 01 01 74 06 c3a9 e6bca2 61", "84 05 00 04 e6bca2 61"),
}


@pytest.mark.parametrize(("whole", "rest"), LONG.values(), ids=LONG)
def test_what_is_partly_known_continues_what_is(whole: str, rest: str) -> None:
    first = item("04 01 01 74 01 61")
    joined = Joined([first, item(whole)])
    assert joined.encode() == hexed(f"01 02 05 00 04 01 01 74 01 61 {rest} 00")
    # So does what is sent to somebody who has a part of it.
    assert Joined([item(whole), b"\x00\x00"]).encode({5: 1}) == item(rest, clock=1)


def test_an_emoji_is_cut_as_yjs_cuts_it(node: Node) -> None:
    half, whole = typed(5, 0, "a\ufffd", None), typed(5, 0, "a😀b", None)
    assert join(half, whole) == hexed(
        "01 02 05 00 04 01 01 74 04 61efbfbd 84 05 01 04 efbfbd62 00"
    )
    assert content(node, join(half, whole)) == content(node, half, whole)
    rest = Joined([whole, b"\x00\x00"]).encode({5: 2})
    assert rest == item("84 05 01 04 efbfbd62", clock=2)
    assert content(node, half, rest) == content(node, half, whole)


def test_a_diff_is_what_is_lacking() -> None:
    first, second = typed(5, 0, "a", None), typed(6, 0, "b", (5, 0))
    third, gone = typed(5, 1, "c", (6, 0)), deleted(5, 0, 1)
    joined = Joined([first, second, third, gone])
    assert joined.encode({5: 1}) == hexed(
        "02 01 06 00 84 05 00 01 62 01 05 01 84 06 00 01 63 01 05 01 00 01"
    )
    assert joined.encode({5: 2, 6: 1}) == gone
    assert joined.encode({5: 99, 6: 99, 7: 99}) == gone
    assert joined.encode({7: 1}) == joined.encode({5: 0}) == joined.encode()


def test_one_update_is_itself() -> None:
    odd = hexed("02 01 05 00 04 01 01 74 01 61 01 06 00 04 01 01 74 01 62 00")
    assert join(odd) is odd
    assert Joined([odd, odd]).encode() != odd


def test_two_encodings_say_the_same() -> None:
    def values(*objects: str) -> str:
        return f"08 01 01 61 {len(objects):02} {' '.join(objects)}"

    ab, ba = "76 02 01 61 7d01 01 62 7e", "76 02 01 62 7e 01 61 7d01"
    assert same(item(values(ab, "7e")), item(values(ba, "7e")))
    for other in (
        item(values(ab, "7f")),
        item(values(ab)),
        item(values(ab, "7e"), client=6),
        item(values(ab, "7e"))[:-1] + hexed("01 05 01 00 01"),
        hexed(f"02 01 06 00 00 01 01 05 00 {values(ab, '7e')} 00"),
    ):
        assert not same(item(values(ab, "7e")), other)
    one, two = "01 06 00 00 01", "01 05 00 00 01"
    assert same(hexed(f"02 {one} {two} 00"), hexed(f"02 {two} {one} 00"))
    # Elsewhere the order matters, and so does where a struct ends.
    assert not same(typed(5, 0, "ab", None), typed(5, 0, "ba", None))
    apart = hexed("01 02 05 00 04 01 01 74 01 61 84 05 00 01 62 00")
    assert not same(typed(5, 0, "ab", None), apart)


# Random histories of Yjs clients, with all that pycrdt would alter.


@dataclass
class History:
    """Updates as a document takes them, repeats and all, and the document."""

    document: Document = field(default_factory=Document)
    accepted: list[bytes] = field(default_factory=list)
    clocks: list[dict[int, int]] = field(default_factory=list)
    """What was known before each, and in the end."""


def lived(node: Node, seed: int) -> History:
    print(f"seed {seed}")
    chance = Random(seed)
    browsers = 3
    node.ask(
        "open",
        ids=chance.sample(range(1, 2**32), browsers),
        gc=chance.random() < 0.7,
        undo=chance.random() < 0.3,
    )
    mix = {
        "odd": True,
        "split": chance.random() < 0.7,
        "formats": chance.random() < 0.7,
        "nested": chance.random() < 0.8,
        "offline": 0.05,
        "merges": 0.1,
    }
    sent: list[bytes] = []
    heard = [0] * browsers
    for _ in range(5):
        until = [chance.randint(at, len(sent)) for at in heard]
        made, _ = node.ask(
            "round",
            seed=chance.randrange(2**32),
            edits=12,
            mix=mix,
            deliver=[
                (number, list(range(heard[number], until[number])))
                for number in range(browsers)
            ],
            foreign=[],
        )
        heard = until
        sent += [b64decode(update) for _, _, update in made]
    made, _ = node.ask("online", seed=seed)
    sent += [b64decode(update) for _, _, update in made]
    # The network delivers some of it late.
    for at in range(0, len(sent), 4):
        window = sent[at : at + 4]
        chance.shuffle(window)
        sent[at : at + 4] = window

    history = History()
    for update in sent:
        before = dict(history.document.gate.clocks)
        _, visible = history.document.apply(update)
        for one in visible:
            history.accepted.append(one)
            history.clocks.append(before)
            before = dict(before)
            for client, ranges in parse(one).ranges.items():
                before[client] = max(before.get(client, 0), ranges[-1])
    history.clocks.append(dict(history.document.gate.clocks))
    assert not history.document.parked
    return history


SEEDS = pytest.mark.parametrize("seed", range(10))


@SEEDS
def test_yjs_reads_what_is_joined_as_the_parts(node: Node, seed: int) -> None:
    history = lived(node, seed)
    joined = join(*history.accepted)
    assert parse(joined).ranges == {
        client: [0, end] for client, end in history.clocks[-1].items()
    }
    chance = Random(seed)
    middle = chance.randrange(len(history.accepted))
    head, tail = history.accepted[:middle], history.accepted[middle:]
    assert join(join(*head), *tail) == joined
    assert join(join(*head), joined) == joined
    # Yjs joins structs as well, so its states overlap with what is joined here.
    some, state = squashed(node, head), squashed(node, history.accepted)
    for parts in (
        history.accepted,
        [*head, state],
        [some, *tail],
        [some, state],
        [some, *history.accepted, state],
    ):
        assert content(node, join(*parts)) == content(node, parts)


@SEEDS
def test_a_diff_is_exactly_what_a_client_lacks(node: Node, seed: int) -> None:
    history = lived(node, seed)
    end = history.clocks[-1]
    state = squashed(node, history.accepted)
    for parts in (history.accepted, [state, b"\x00\x00"]):
        joined = Joined(parts)
        for have, clocks in enumerate(history.clocks):
            diff = joined.encode(clocks)
            assert parse(diff).ranges == {
                client: [clocks.get(client, 0), end[client]]
                for client in end
                if clocks.get(client, 0) < end[client]
            }
            known = history.accepted[:have]
            assert content(node, known, diff) == content(node, known, parts)


@SEEDS
def test_a_document_serves_what_it_was_sent(node: Node, seed: int) -> None:
    history = lived(node, seed)
    everything = content(node, history.accepted)
    document = history.document
    restored = Document.restore(*document.snapshot())
    chance = Random(seed)
    have = chance.randrange(len(history.accepted))
    known, rest = history.accepted[:have], history.accepted[have:]
    clocks = history.clocks[have]
    vector = wire.uint(len(clocks)) + b"".join(
        wire.uint(client) + wire.uint(clock) for client, clock in clocks.items()
    )
    for each in (document, restored):
        assert content(node, each.state()) == everything
        assert content(node, known, each.diff(vector)) == content(node, known, rest)
        assert each.verify(*document.snapshot())


def test_joining_takes_time_in_proportion() -> None:
    log = read_log("automerge-paper")
    if log is None:
        return
    updates = [update for _, update in log]
    for count in (len(updates) // 4, len(updates) // 2, len(updates)):
        start = process_time()
        joined = join(*updates[:count])
        seconds = process_time() - start
        print(f"{count} updates: {len(joined)} bytes in {seconds:.2f} s")
    final = read_final("automerge-paper")
    assert final is not None
    docs: list[Doc[Any]] = [Doc(), Doc()]
    for doc, state in zip(docs, (joined, final), strict=True):
        doc.apply_update(state)
    texts = {str(doc.get("text", type=Text)) for doc in docs}
    assert len(texts) == 1
