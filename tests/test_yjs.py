"""The messages of y-websocket, byte for byte.

The frames are those of y-websocket 3.1.0 and y-protocols 1.0.7, client 1, text ``t``.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.dialects import yjs
from collab.errors import ProtocolError
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
from tests.vectors import YJS

CONVERSATION: list[tuple[str, Message]] = [
    ("00 00 01 00", SyncStep1(b"\x00")),
    ("01 06 01 01 00 02 7b 7d", Presence(b"\x01\x01\x00\x02{}")),
    ("00 01 02 00 00", SyncStep2(b"\x00\x00")),
    (
        "00 02 0b 01 01 01 00 04 01 01 74 01 41 00",
        Update(b"\x01\x01\x01\x00\x04\x01\x01t\x01A\x00"),
    ),
    (
        "00 02 0f 01 01 01 01 84 01 00 06 c3 a9 f0 9f 98 80 00",
        Update(b"\x01\x01\x01\x01\x84\x01\x00\x06\xc3\xa9\xf0\x9f\x98\x80\x00"),
    ),
    ("00 02 06 00 01 01 01 00 01", Update(b"\x00\x01\x01\x01\x00\x01")),
    (
        "01 21 01 01 01 1d 7b 22 75 73 65 72 22 3a 7b 22 6e 61 6d 65 22 3a 22"
        " 5a 6f c3 ab 20 f0 9f 98 80 22 7d 7d",
        Presence(b"\x01\x01\x01\x1d" + '{"user":{"name":"Zoë 😀"}}'.encode()),
    ),
    ("01 08 01 01 02 04 6e 75 6c 6c", Presence(b"\x01\x01\x02\x04null")),
    ("01 01 00", Presence(b"\x00")),
]
"""What a client sends: it opens, answers our step 1, writes, shows itself, goes."""


def test_the_conversation_is_the_recorded_one() -> None:
    assert [bytes.fromhex(frame).hex() for frame, _ in CONVERSATION] == YJS["client"]


@pytest.mark.parametrize(("frame", "message"), CONVERSATION)
def test_what_a_client_sends_is_understood(frame: str, message: Message) -> None:
    payload = bytes.fromhex(frame)
    assert yjs.decode(payload) == (message, len(payload))
    assert yjs.encode(message) == payload


def test_what_we_send_is_what_y_protocols_would_send() -> None:
    update = bytes.fromhex(YJS["update"])
    state_vector = bytes.fromhex(YJS["state_vector"])
    server = YJS["server"]
    assert yjs.encode(SyncStep1(state_vector)).hex() == server["step1"]
    assert yjs.encode(SyncStep2(update)).hex() == server["step2"]
    assert yjs.encode(Update(update)).hex() == server["update"]
    assert yjs.encode(SyncStep1(b"\x00")).hex() == server["empty_step1"]
    assert yjs.encode(SyncStep2(b"\x00\x00")).hex() == server["empty_step2"]


def test_a_query_is_one_byte() -> None:
    assert yjs.decode(b"\x03") == (QueryPresence(), 1)
    assert yjs.encode(QueryPresence()) == b"\x03"


def test_what_other_clients_of_one_document_say() -> None:
    assert yjs.decode(b"\x02\x00\x03tok") == (Token("tok"), 6)  # Hocuspocus 1
    assert yjs.decode(b"\x05\x02hi") == (Stateless("hi"), 4)
    assert yjs.decode(b"\x66\x01\x07") == (Checkpoint(b"\x07"), 3)  # y-sweet
    # Its answer to a query is spelled as a query with presence.
    assert yjs.decode(b"\x03\x01\x00") == (Presence(b"\x00"), 3)


def test_what_they_are_told() -> None:
    assert yjs.encode(Saved(b"\x00\x00")) == yjs.encode(Update(b"\x00\x00"))
    assert yjs.encode(Refused("no")) == b"\x02\x00\x02no"
    assert yjs.encode(Denied("no")) == b"\x02\x01\x02no"
    assert yjs.encode(Admitted(reader=True)) == b"\x02\x02"
    assert yjs.encode(Checkpoint(b"\x07")) == b"\x66\x01\x07"
    assert yjs.encode(Stateless("hi")) == b"\x05\x02hi"


@pytest.mark.parametrize("message", [Token("t"), TokenWanted(), Left(), Unknown(9)])
def test_there_is_no_way_to_say_what_the_dialect_lacks(message: Message) -> None:
    with pytest.raises(ValueError, match=type(message).__name__):
        yjs.encode(message)


def test_the_keepalive_is_presence_of_nobody() -> None:
    assert yjs.decode(yjs.KEEPALIVE) == (Presence(b"\x00"), 3)


def test_messages_may_stand_behind_each_other() -> None:
    payload = bytes.fromhex("".join(frame for frame, _ in CONVERSATION) + "03")
    at = 0
    messages = []
    while at < len(payload):
        message, at = yjs.decode(payload, at)
        messages.append(message)
    assert messages == [*(message for _, message in CONVERSATION), QueryPresence()]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "00",
        "01",
        "0000",
        "0001",
        "0002",
        "0002 05 0000",
        "0002 ffffffffffffff0f 00",
        "0002 8080808080808010 00",
        "0003 00",  # No such step of the synchronization.
        "00ff 00",
        "01 02 00",
        "02",
        "02 00",
        "02 00 02ff",
        "02 02 00",  # That somebody is let in: for a server to say.
        "04",
        "05 02ff",
        "66",
        "66 02 00",
        "66 11 0000000000000000000000000000000000",
        "2a",
        "63",
        "64 0000",
        "80 00",  # Nobody spells small numbers in more bytes than needed.
        "7b 7d",
    ],
)
def test_anything_else_is_no_message(frame: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        yjs.decode(bytes.fromhex(frame))
    assert raised.value.close_code == 4400


def test_garbage_behind_a_message_is_no_message() -> None:
    _, at = yjs.decode(b"\x03\x2a")
    with pytest.raises(ProtocolError):
        yjs.decode(b"\x03\x2a", at)


@given(st.binary(max_size=40), st.integers(0, 50))
def test_decoding_raises_nothing_but_protocol_errors(payload: bytes, at: int) -> None:
    try:
        message, end = yjs.decode(payload, at)
    except ProtocolError:
        return
    assert at < end <= len(payload)
    if isinstance(message, Token):
        return  # For clients to say.
    spelled = yjs.encode(message)
    assert yjs.decode(spelled) == (message, len(spelled))
