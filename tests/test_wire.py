"""lib0's integers, byte arrays, strings and state vectors, and what is none of them."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab import wire
from collab.errors import ProtocolError
from tests.vectors import YJS

LONG = b"\xff" * 2**20
"""An integer that does not end for a megabyte."""


@pytest.mark.parametrize(("number", "encoded"), YJS["uints"].items())
def test_integers_are_those_of_lib0(number: str, encoded: str) -> None:
    spelled = bytes.fromhex(encoded)
    assert wire.uint(int(number)) == spelled
    assert wire.read_uint(b"?" + spelled + b"?", 1) == (int(number), len(spelled) + 1)


@pytest.mark.parametrize(("content", "encoded"), YJS["strings"].items())
def test_strings_are_those_of_lib0(content: str, encoded: str) -> None:
    spelled = bytes.fromhex(encoded)
    assert wire.text(content) == spelled
    assert wire.read_text(b"?" + spelled + b"?", 1) == (content, len(spelled) + 1)


@given(st.integers(0, wire.MAX_UINT))
def test_an_integer_comes_back(number: int) -> None:
    spelled = wire.uint(number)
    assert wire.read_uint(spelled, 0) == (number, len(spelled))
    assert len(spelled) <= 8


@given(st.binary(max_size=300), st.integers(0, 3))
def test_bytes_come_back(content: bytes, at: int) -> None:
    spelled = bytes(at) + wire.data(content)
    assert wire.read_data(spelled, at) == (content, len(spelled))


@pytest.mark.parametrize(
    "encoded",
    [
        "80808080808080 10",  # 2^53
        "ffffffffffffff 1f",
        "ffffffffffffff 8f00",  # Fits, but for the ninth byte.
        "808080808080808000",
        "ff" * 20 + "00",
    ],
)
def test_integers_of_more_than_53_bits_are_refused(encoded: str) -> None:
    with pytest.raises(ProtocolError, match="53 bits"):
        wire.read_uint(bytes.fromhex(encoded), 0)


def test_an_endless_integer_costs_nothing() -> None:
    started = process_time()
    for _ in range(1000):
        with pytest.raises(ProtocolError):
            wire.read_uint(LONG, 0)
    # pycrdt's decoder needs 20 s for the first.
    assert process_time() - started < 1


@pytest.mark.parametrize("encoded", ["", "80", "ff", "ffff", "ffffffffffffff"])
def test_an_integer_ends_within_the_message(encoded: str) -> None:
    with pytest.raises(ProtocolError, match="ends within"):
        wire.read_uint(bytes.fromhex(encoded), 0)
    with pytest.raises(ProtocolError, match="ends within"):
        wire.read_uint(b"?" + bytes.fromhex(encoded), 1)


def test_an_offset_behind_the_message_is_its_end() -> None:
    with pytest.raises(ProtocolError):
        wire.read_uint(b"\x01", 1)
    with pytest.raises(ProtocolError):
        wire.read_uint(b"\x01", 5)


@pytest.mark.parametrize(
    "encoded", ["01", "0261", "8001" + "61" * 127, "ffffffffffffff0f61", "80"]
)
def test_a_length_is_of_bytes_that_are_there(encoded: str) -> None:
    with pytest.raises(ProtocolError):
        wire.read_data(bytes.fromhex(encoded), 0)
    with pytest.raises(ProtocolError):
        wire.read_text(bytes.fromhex(encoded), 0)


@pytest.mark.parametrize(
    "content",
    [
        "ff",
        "c3",
        "c080",  # NUL, the long way
        "eda080",  # half a surrogate pair
        "f4908080",  # beyond Unicode
        "61c3",
    ],
)
def test_a_string_is_utf_8(content: str) -> None:
    with pytest.raises(ProtocolError, match="UTF-8"):
        wire.read_text(wire.data(bytes.fromhex(content)), 0)


@given(st.binary(max_size=40))
def test_readers_raise_nothing_but_protocol_errors(encoded: bytes) -> None:
    for read in (wire.read_uint, wire.read_data, wire.read_text):
        try:
            _, at = read(encoded, 0)
        except ProtocolError:
            continue
        assert 0 < at <= len(encoded)
    try:
        clocks = wire.read_state_vector(encoded)
    except ProtocolError:
        return
    assert len(clocks) * 2 < len(encoded)


def test_a_state_vector_names_clocks_by_client() -> None:
    assert wire.read_state_vector(b"\x00") == {}
    assert wire.read_state_vector(bytes.fromhex(YJS["state_vector"])) == {7: 200}
    assert wire.read_state_vector(bytes.fromhex("02 ac0205 0100")) == {300: 5, 1: 0}


@pytest.mark.parametrize(
    ("encoded", "complaint"),
    [
        ("", "ends within"),
        ("01", "more clients than bytes"),
        ("0101", "more clients than bytes"),
        ("80808020", "more clients than bytes"),  # 2^26: 128 MiB in pycrdt
        ("ffffffff0f", "more clients than bytes"),
        ("ffffffffffffff0f0101", "more clients than bytes"),
        ("02010101", "more clients than bytes"),
        ("0200808001 01", "ends within"),
        ("0201010102", "client named twice"),
        ("010101ff", "bytes after"),
        ("0000", "bytes after"),
        ("0180808080808080100101", "53 bits"),
        ("01018080808080808010", "53 bits"),
    ],
)
def test_a_state_vector_is_read_strictly(encoded: str, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        wire.read_state_vector(bytes.fromhex(encoded))


def test_a_large_state_vector_is_read_whole() -> None:
    clocks = {client: client * 3 for client in range(1, 20_001)}
    encoded = wire.uint(len(clocks)) + b"".join(
        wire.uint(client) + wire.uint(clock) for client, clock in clocks.items()
    )
    assert wire.read_state_vector(encoded) == clocks
