"""What Hocuspocus' providers 2 to 4 say, as it was recorded from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.dialects import hocuspocus
from collab.dialects.hocuspocus import MAX_SESSION, Address
from collab.errors import BadName, ProtocolError
from collab.messages import (
    Admitted,
    Checkpoint,
    Denied,
    Left,
    Message,
    Presence,
    QueryPresence,
    Refused,
    Saved,
    Stateless,
    SyncStep1,
    SyncStep2,
    Token,
    TokenWanted,
    Unknown,
    Update,
)

EDIT = bytes.fromhex("01010100040101740141 00".replace(" ", ""))

SAID = [
    ("01 64 02 00 00 05 34 2e 38 2e 30", Token("", "4.8.0")),
    ("01 64 02 00 00", Token("")),
    ("01 64 02 00 03 74 6f 6b", Token("tok")),
    ("01 64 00 00 01 00", SyncStep1(b"\x00")),
    ("01 64 00 01 02 00 00", SyncStep2(b"\x00\x00")),
    ("01 64 00 02 0b 01 01 01 00 04 01 01 74 01 41 00", Update(EDIT)),
    ("01 64 01 06 01 01 00 02 7b 7d", Presence(b"\x01\x01\x00\x02{}")),
    ("01 64 01 08 01 01 02 04 6e 75 6c 6c", Presence(b"\x01\x01\x02\x04null")),
    ("01 64 03", QueryPresence()),
    ("01 64 05 02 68 69", Stateless("hi")),
    ("01 64 07", Left()),
]
"""What providers of versions 2 to 4 were heard saying, about a document ``d``."""

HEARD: list[tuple[str, Message]] = [
    ("01 64 02 02 0a 72 65 61 64 2d 77 72 69 74 65", Admitted(reader=False)),
    ("01 64 02 02 08 72 65 61 64 6f 6e 6c 79", Admitted(reader=True)),
    ("01 64 02 01 02 6e 6f", Denied("no")),
    ("01 64 02 00", TokenWanted()),
    ("01 64 00 00 01 00", SyncStep1(b"\x00")),
    ("01 64 00 01 02 00 00", SyncStep2(b"\x00\x00")),
    ("01 64 00 02 0b 01 01 01 00 04 01 01 74 01 41 00", Update(EDIT)),
    ("01 64 08 01", Saved(EDIT)),
    ("01 64 08 00", Refused()),
    ("01 64 05 02 68 69", Stateless("hi")),
    ("01 64 03", QueryPresence()),
    ("01 64 07 03 62 79 65", Left("bye")),
]
"""What their server was heard answering."""


@pytest.mark.parametrize(("frame", "message"), SAID)
def test_what_providers_say_is_understood(frame: str, message: Message) -> None:
    payload = bytes.fromhex(frame)
    address, at = hocuspocus.read_address(payload)
    assert address == b"d"
    assert hocuspocus.decode(payload, at) == (message, len(payload))


@pytest.mark.parametrize(("frame", "message"), HEARD)
def test_what_they_are_told_is_spelled_as_their_server_does(
    frame: str, message: Message
) -> None:
    assert Address.of(b"d").encode(message) == bytes.fromhex(frame)


def test_an_address_names_a_document_and_perhaps_a_session() -> None:
    assert hocuspocus.read_name("grüße/1".encode()) == "grüße/1"
    assert hocuspocus.read_name(b"d\x00abc123") == "d"
    assert hocuspocus.read_name(b"d\x00" + b"s" * MAX_SESSION) == "d"
    assert hocuspocus.read_name(b"") == ""
    assert Address.of(b"d").shared
    assert not Address.of(b"d\x00abc").shared


@pytest.mark.parametrize(
    "address",
    [
        b"d\x00",
        b"d\x00a\x00b",
        b"d\x00\x00",
        b"d\x00" + b"s" * (MAX_SESSION + 1),
        b"\xff",
    ],
)
def test_a_bad_address_names_nothing(address: bytes) -> None:
    with pytest.raises(BadName):
        hocuspocus.read_name(address)


def test_what_others_may_say_some_day_is_unknown() -> None:
    for payload, kind in (
        (b"\x04\x00\x02\x00\x00", 4),  # From server to server.
        (b"\x06\x02hi", 6),
        (b"\x0b", 11),
        (b"\xac\x02anything", 300),
    ):
        assert hocuspocus.decode(payload, 0) == (Unknown(kind), len(payload))


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "00",
        "00 00",
        "00 02 05 00 00",
        "00 03 00",
        "00 01 02 00 00 00",  # Something follows.
        "01 02 00",
        "02",
        "02 01 00",  # That one is denied: for a server to say.
        "02 00 02 ff ff",
        "02 00 00 02 ff",
        "02 00 00 00 00",
        "03 00",
        "05 02 68",
        "ff ff ff ff ff ff ff ff ff ff",
    ],
)
def test_anything_else_is_no_message(frame: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        hocuspocus.decode(bytes.fromhex(frame), 0)
    assert raised.value.close_code == 4400


@pytest.mark.parametrize("frame", ["", "02 64", "ff ff", "ff" * 12])
def test_an_address_that_is_not_there_is_no_message(frame: str) -> None:
    with pytest.raises(ProtocolError):
        hocuspocus.read_address(bytes.fromhex(frame))


@pytest.mark.parametrize("message", [Checkpoint(b""), Token("t"), Unknown(9)])
def test_there_is_no_way_to_say_what_the_dialect_lacks(message: Message) -> None:
    with pytest.raises(ValueError, match=type(message).__name__):
        hocuspocus.encode(message)


@given(st.binary(max_size=60))
def test_decoding_raises_nothing_but_protocol_errors(payload: bytes) -> None:
    try:
        address, at = hocuspocus.read_address(payload)
        _, end = hocuspocus.decode(payload, at)
        hocuspocus.read_name(address)
    except ProtocolError:
        return
    assert at < end == len(payload)
