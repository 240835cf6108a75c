"""Cases of the Autobahn test suite, by their numbers, against an echo.

The suite itself needs Python 2 (``tests/autobahn/README.md``); these are those of its
247 cases that have something to say about our own code, which is in front of, behind
and beside websockets' parser.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.peers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Raw, frame

Frames = Sequence[tuple[int, bytes]]

SIZES = (0, 125, 126, 127, 128, 65535, 65536)
HELLO = "Hello-µ@ßöäüàá-UTF-8!!".encode()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    command = [sys.executable, "-m", "tests.autobahn.echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.terminate()


@pytest.fixture
def raw(port: int) -> Iterator[Raw]:
    with Raw(port) as raw:
        raw.open("/ws/echo")
        yield raw


def goodbye(raw: Raw) -> None:
    """End it as the suite does, and see that the server closes TCP first."""
    raw.send_frame(CLOSE, b"\x03\xe8")
    assert raw.read_close() == (1000, "")
    assert raw.read_all() == b""


def answers(raw: Raw, *expected: tuple[int, bytes]) -> None:
    """Read these frames, in this order, and nothing but them."""
    for opcode, payload in expected:
        received = raw.read_frame()
        assert received == (True, 0, opcode, False, payload)
    goodbye(raw)


def chop(content: bytes, size: int) -> list[bytes]:
    """Content in pieces."""
    return [content[at : at + size] for at in range(0, len(content), size)]


def send(raw: Raw, content: bytes, pieces: int) -> None:
    """Send bytes in so many segments, more or less."""
    for piece in chop(content, max(1, len(content) // pieces)):
        raw.send(piece)


@pytest.mark.parametrize("size", SIZES)
def test_1_1_text_is_echoed(raw: Raw, size: int) -> None:
    raw.send_frame(TEXT, b"*" * size)
    answers(raw, (TEXT, b"*" * size))


@pytest.mark.parametrize("size", SIZES)
def test_1_2_bytes_are_echoed(raw: Raw, size: int) -> None:
    raw.send_frame(BINARY, b"\xfe" * size)
    answers(raw, (BINARY, b"\xfe" * size))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_1_1_8_a_message_may_come_in_segments_of_997_bytes(
    raw: Raw, opcode: int
) -> None:
    for piece in chop(frame(opcode, b"*" * 65536), 997):
        raw.send(piece)
    answers(raw, (opcode, b"*" * 65536))


@pytest.mark.parametrize("payload", [b"", b"Hello", b"\x00\xff\xfe\xfd", b"\xfe" * 125])
def test_2_1_to_2_4_a_ping_is_answered_with_what_it_says(
    raw: Raw, payload: bytes
) -> None:
    raw.send_frame(PING, payload)
    answers(raw, (PONG, payload))


def test_2_5_a_ping_of_126_bytes_is_an_error(raw: Raw) -> None:
    raw.send_frame(PING, b"\xfe" * 126)
    assert raw.read_close()[0] == 1002


def test_2_6_a_ping_may_come_byte_by_byte(raw: Raw) -> None:
    send(raw, frame(PING, b"\xfe" * 125), 131)
    answers(raw, (PONG, b"\xfe" * 125))


@pytest.mark.parametrize("payload", [b"", b"unsolicited"])
def test_2_7_to_2_9_pongs_that_nobody_asked_for_mean_nothing(
    raw: Raw, payload: bytes
) -> None:
    raw.send(frame(PONG, payload) + frame(PING, b"x"))
    answers(raw, (PONG, b"x"))


@pytest.mark.parametrize("segments", [1, 200])
def test_2_10_ten_pings_are_answered_in_order(raw: Raw, segments: int) -> None:
    payloads = [b"payload-%d" % n for n in range(10)]
    send(raw, b"".join(frame(PING, payload) for payload in payloads), segments)
    answers(raw, *((PONG, payload) for payload in payloads))


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("segments", [1, 30])
def test_3_reserved_bits_are_errors_and_what_came_before_is_answered(
    raw: Raw, rsv: int, segments: int
) -> None:
    good = frame(TEXT, b"Hello, world!")
    send(raw, good + frame(TEXT, b"Hello", rsv=rsv) + frame(PING), segments)
    assert raw.read_frame().payload == b"Hello, world!"
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"reserved"])
def test_4_reserved_opcodes_are_errors_and_what_came_before_is_answered(
    raw: Raw, opcode: int, payload: bytes
) -> None:
    raw.send(frame(TEXT, b"Hello") + frame(opcode, payload) + frame(PING))
    assert raw.read_frame().payload == b"Hello"
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_5_1_and_5_2_control_frames_are_never_in_pieces(raw: Raw, opcode: int) -> None:
    raw.send(frame(opcode, b"fragment1", fin=False) + frame(CONTINUATION, b"2"))
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("segments", [1, 3, 1000])
def test_5_3_to_5_5_a_message_may_be_in_two_pieces(
    raw: Raw, opcode: int, segments: int
) -> None:
    pieces = frame(opcode, b"fragment1", fin=False) + frame(CONTINUATION, b"fragment2")
    send(raw, pieces, segments)
    answers(raw, (opcode, b"fragment1fragment2"))


@pytest.mark.parametrize("segments", [1, 3, 1000])
def test_5_6_to_5_8_a_ping_between_pieces_is_answered_before_the_message(
    raw: Raw, segments: int
) -> None:
    pieces = frame(TEXT, b"fragment1", fin=False) + frame(PING, b"ping payload")
    send(raw, pieces + frame(CONTINUATION, b"fragment2"), segments)
    answers(raw, (PONG, b"ping payload"), (TEXT, b"fragment1fragment2"))


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("segments", [1, 3, 1000])
def test_5_9_to_5_14_a_continuation_of_nothing_is_an_error(
    raw: Raw, fin: bool, segments: int
) -> None:
    pieces = frame(CONTINUATION, b"non-continuation", fin=fin)
    send(raw, pieces + frame(TEXT, b"Hello, world!"), segments)
    assert raw.read_close()[0] == 1002


def test_5_15_what_was_complete_before_an_error_is_answered(raw: Raw) -> None:
    complete = frame(TEXT, b"fragment1", fin=False) + frame(CONTINUATION, b"fragment2")
    raw.send(complete + frame(CONTINUATION, b"fragment3", fin=False))
    assert raw.read_frame().payload == b"fragment1fragment2"
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_18_a_message_within_a_message_is_an_error(raw: Raw, opcode: int) -> None:
    raw.send(frame(TEXT, b"fragment1", fin=False) + frame(opcode, b"fragment2"))
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("segments", [1, 6])
def test_5_19_and_5_20_five_pieces_with_pings_between_them(
    raw: Raw, segments: int
) -> None:
    def piece(opcode: int, number: int, fin: bool) -> bytes:
        return frame(opcode, b"fragment%d" % number, fin=fin)

    pieces = piece(TEXT, 1, False) + piece(CONTINUATION, 2, False)
    pieces += frame(PING, b"pongme 1!") + piece(CONTINUATION, 3, False)
    pieces += piece(CONTINUATION, 4, False) + frame(PING, b"pongme 2!")
    send(raw, pieces + piece(CONTINUATION, 5, True), segments)
    whole = b"".join(b"fragment%d" % number for number in range(1, 6))
    answers(raw, (PONG, b"pongme 1!"), (PONG, b"pongme 2!"), (TEXT, whole))


def test_6_1_empty_pieces_are_pieces(raw: Raw) -> None:
    pieces = frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"middle", fin=False)
    raw.send(pieces + frame(CONTINUATION, b""))
    answers(raw, (TEXT, b"middle"))


@pytest.mark.parametrize("size", [1, 2, len(HELLO)])
def test_6_2_text_may_be_cut_within_a_character(raw: Raw, size: int) -> None:
    first, *others = chop(HELLO, size)
    raw.send_frame(TEXT, first, fin=False)
    for other in others:
        raw.send_frame(CONTINUATION, other, fin=False)
    raw.send_frame(CONTINUATION)
    answers(raw, (TEXT, HELLO))


@pytest.mark.parametrize(
    "text",
    [
        "cebae1bdb9cf83cebcceb5eda080656469746564",  # 6.3.1: half a surrogate pair
        "80",  # 6.14
        "c0af",  # 6.18: an overlong slash
        "f4908080",  # 6.7: beyond Unicode
        "cebae1bdb9cf83cebcceb5f4",  # 6.4.4, as one frame: cut
        "eda080edb080",  # 6.20
        "fe",
        "fff0",
    ],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_6_what_is_not_utf_8_is_an_error(raw: Raw, text: str, pieces: int) -> None:
    content = bytes.fromhex(text)
    if pieces == 1:
        raw.send_frame(TEXT, content)
    else:
        raw.send_frame(TEXT, content[:1], fin=False)
        raw.send_frame(CONTINUATION, content[1:])
    assert raw.read_close()[0] == 1007


@pytest.mark.parametrize(
    "text", ["00", "7f", "c280", "efbfbf", "f48fbfbf", "efbfbe", "f0908080", "ee8080"]
)
def test_6_what_is_utf_8_is_text(raw: Raw, text: str) -> None:
    raw.send_frame(TEXT, bytes.fromhex(text))
    answers(raw, (TEXT, bytes.fromhex(text)))


def test_7_1_1_a_goodbye_behind_a_message_is_answered_behind_it(raw: Raw) -> None:
    raw.send(frame(TEXT, b"Hello World!") + frame(CLOSE, b"\x03\xe8"))
    assert raw.read_frame().payload == b"Hello World!"
    assert raw.read_close() == (1000, "")


@pytest.mark.parametrize(
    "behind",
    [frame(CLOSE, b"\x03\xe8"), frame(PING), frame(TEXT, b"Hello World!")],
    ids=["a goodbye", "a ping", "a text"],
)
def test_7_1_2_to_7_1_4_nothing_behind_a_goodbye_is_answered(
    raw: Raw, behind: bytes
) -> None:
    raw.send(frame(CLOSE, b"\x03\xe8") + behind)
    assert raw.read_frame().opcode == CLOSE
    assert raw.read_all() == b""


def test_7_1_5_a_goodbye_within_a_message_ends_the_connection(raw: Raw) -> None:
    # The suite wants 1000. We say that the message was not complete.
    raw.send(frame(TEXT, b"fragment1", fin=False) + frame(CLOSE, b"\x03\xe8"))
    assert raw.read_close()[0] == 1002
    assert raw.read_all() == b""


def test_7_3_1_and_7_3_2_a_goodbye_has_no_code_or_a_whole_one(raw: Raw) -> None:
    raw.send_frame(CLOSE, b"a")
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("reason", [b"", b"Hello World!", b"*" * 123])
def test_7_3_3_to_7_3_5_a_goodbye_may_have_a_reason(raw: Raw, reason: bytes) -> None:
    raw.send_frame(CLOSE, b"\x03\xe8" + reason)
    assert raw.read_close()[0] == 1000


def test_7_3_6_a_reason_has_123_bytes_at_most(raw: Raw) -> None:
    raw.send_frame(CLOSE, b"\x03\xe8" + b"*" * 124)
    assert raw.read_close()[0] == 1002


def test_7_5_1_a_reason_is_utf_8(raw: Raw) -> None:
    reason = bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564")
    raw.send_frame(CLOSE, b"\x03\xe8" + reason)
    assert raw.read_close()[0] in (1002, 1007)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4999]
)
def test_7_7_codes_that_may_be_sent_are_answered(raw: Raw, code: int) -> None:
    raw.send_frame(CLOSE, code.to_bytes(2, "big"))
    assert raw.read_close()[0] == code


@pytest.mark.parametrize(
    "code", [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_7_9_codes_that_may_not_be_sent_are_errors(raw: Raw, code: int) -> None:
    raw.send_frame(CLOSE, code.to_bytes(2, "big"))
    assert raw.read_close()[0] == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_9_a_message_of_4_mib_is_echoed(raw: Raw, opcode: int) -> None:
    content = b"\x2a" * (4 * 2**20)
    raw.send_frame(opcode, content)
    answers(raw, (opcode, content))


@pytest.mark.parametrize("size", [4096, 65536])
def test_9_a_message_of_4_mib_may_be_in_pieces(raw: Raw, size: int) -> None:
    content = b"\xfe" * (4 * 2**20)
    first, *others = chop(content, size)
    raw.send(frame(BINARY, first, fin=False))
    for other in others:
        raw.send(frame(CONTINUATION, other, fin=False))
    raw.send(frame(CONTINUATION))
    answers(raw, (BINARY, content))


def test_10_1_1_the_server_decides_in_how_many_pieces_it_answers(raw: Raw) -> None:
    raw.send_frame(TEXT, b"*" * 65536)
    answers(raw, (TEXT, b"*" * 65536))
