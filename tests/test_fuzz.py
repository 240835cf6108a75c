"""A few of the cases that ``make fuzz`` makes by the million, and all that it found.

``FUZZ_SEED=... make quick ARGS="-k fuzz"`` repeats a run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.document import Document
from collab.errors import UpdateRejected
from collab.gate import Gate
from collab.updates import parse
from tests.crafted import hexed, typed
from tests.fuzz import (
    FINDINGS,
    Divergence,
    Drawn,
    Finding,
    Slow,
    Target,
    read_case,
    write_case,
)
from tests.fuzz.documents import Documents, Judge
from tests.fuzz.grammar import Grammar
from tests.fuzz.imports import bounded, check_sentence
from tests.fuzz.requests import check_answer, read_answer
from tests.fuzz.rooms import Honest, read_frames
from tests.fuzz.worker import TARGETS, open_target
from tests.peers import insert

SEED = os.environ.get("FUZZ_SEED", str(random.SystemRandom().randrange(2**32)))

CASES = {
    "updates": 300,
    "messages": 300,
    "documents": 150,
    "sockets": 60,
    "rooms": 60,
    "requests": 60,
    "server": 40,
    "leveldb": 100,
    "databases": 100,
}

Open = Callable[[str], Target]


@pytest.fixture(scope="module")
def open_once() -> Iterator[Open]:
    """A target, of which there is one for all tests."""
    targets: dict[str, Target] = {}

    def open_(name: str) -> Target:
        if name not in targets:
            targets[name] = open_target(name)
        return targets[name]

    yield open_
    for target in targets.values():
        target.close()


@pytest.mark.parametrize("name", TARGETS)
def test_what_strangers_say_is_read_or_refused_and_harms_nobody(
    open_once: Open, name: str
) -> None:
    target = open_once(name)
    accepted = 0
    for number in range(CASES[name]):
        seed = f"{SEED}/{name}/{number}"
        print(f"FUZZ_SEED={SEED}, case {number}")
        with suppress(Divergence, Slow):  # A busy machine is slow, not wrong.
            accepted += target.run(target.make(random.Random(seed)))
    assert accepted > CASES[name] // 4


@pytest.mark.parametrize("path", sorted(FINDINGS.glob("*.txt")), ids=lambda p: p.stem)
def test_what_was_found_once_is_found_no_more(open_once: Open, path: Path) -> None:
    open_once(path.stem.partition("-")[0]).run(read_case(path.read_text()))


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_bytes_decide_a_case_and_always_the_same(entropy: bytes) -> None:
    target = open_target("updates")
    case = target.make(Drawn(entropy))
    assert target.make(Drawn(entropy)) == case
    assert read_case(write_case(case)) == list(case)
    target.run(case)


def test_without_breaking_its_rules_the_grammar_writes_what_is_accepted() -> None:
    count = accepted = 0
    for seed in range(30):
        gate = Gate()
        grammar = Grammar(random.Random(seed), gate, wrong=0.0)
        document = Document()
        for _ in range(20):
            count += 1
            update = grammar.update()
            try:
                document.apply(update)
            except UpdateRejected:
                continue
            parsed = parse(update)
            gate.judge(parsed)
            gate.accept(parsed)
            grammar.take()
            accepted += 1
    assert accepted > 0.8 * count


# That what looks for findings would find them.


def test_an_update_that_throws_in_yjs_is_a_finding() -> None:
    judge = Judge()
    collected = hexed("01 01 05 00 00 03 00")
    with pytest.raises(Finding, match="relayed update: TypeError"):
        judge.ask([collected, typed(5, 0, "abcd", None)], [], [collected])
    bytes_in_front = hexed("01 01 05 00 08 01 01 61 01")
    value = b"\x76\x01\x09__proto__\x74\x01a\x00"
    with pytest.raises(Finding, match="TypeError"):
        judge.ask([bytes_in_front + value], [], [b"\x00\x00"])
    judge.close()


def test_a_newcomer_that_sees_something_else_is_a_finding() -> None:
    target = Documents()
    document = Document()
    document.apply(insert(5, "abcd"))
    with pytest.raises(Divergence, match="instead of"):
        target.check(document, [insert(5, "abc")])
    target.close()


def test_presence_that_no_client_can_read_is_a_finding() -> None:
    judge = Judge()
    states = hexed("01 07 01 03 4e614e")
    with pytest.raises(Finding, match="presence: SyntaxError"):
        judge.ask([], [states], [b"\x00\x00"])
    judge.close()


def test_a_frame_against_the_rules_is_a_finding() -> None:
    assert read_frames(b"\x82\x01a\x89\x00") == [(2, b"a"), (9, b"")]
    for written in (b"\x82\x81aaaaa", b"\x82\x02a", b"\x83\x00"):
        with pytest.raises(Finding):
            read_frames(written)


def test_an_honest_client_that_is_sent_two_messages_at_once_is_a_finding() -> None:
    client = Honest.__new__(Honest)
    client.relayed, client.presence = [], []
    client.take = lambda: [b"\x01\x01\x00\x01\x01\x00"]  # type: ignore[method-assign]
    with pytest.raises(Finding, match="two messages"):
        client.hear()


SAFE = b"x-content-type-options: nosniff\r\n"


@pytest.mark.parametrize(
    "written",
    [
        b"HTTP/1.1 500 Internal Server Error\r\n" + SAFE + b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"\x82\x00HTTP/1.1 200 OK\r\n" + SAFE + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + SAFE + b"content-length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n"
        + SAFE
        + b"transfer-encoding: chunked\r\n\r\n9\r\nab\r\n0\r\n\r\n",
    ],
)
def test_a_response_that_blames_us_or_is_none_is_a_finding(written: bytes) -> None:
    with pytest.raises(Finding):  # noqa: PT012
        answer, _ = read_answer(written)
        assert answer is not None
        check_answer(answer)


def test_files_that_take_more_than_they_have_are_a_finding() -> None:
    with pytest.raises(Finding, match="4 bytes take more"), bounded(1, 4):
        bytearray(2**40)
    with pytest.raises(Slow, match="1 files of 4 bytes took"), bounded(1, 4):
        sum(range(20_000_000))


def test_a_sentence_that_does_something_to_a_terminal_is_a_finding() -> None:
    with pytest.raises(Finding):
        check_sentence("a\x1b[2J")
