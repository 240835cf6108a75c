"""What was recorded from the providers and the server of Hocuspocus, byte for byte.

All of them have client 1 and the text ``t``; the document is ``d``.
"""

from __future__ import annotations

from typing import Any

import pytest

from collab import wire
from collab.connection import document_name
from collab.dialects import hocuspocus, yjs
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
    Update,
)
from tests.vectors import HOCUSPOCUS

INSERTED = bytes.fromhex("0101010004010174014100")
EDITS: list[Message] = [
    Update(INSERTED),
    Update(bytes.fromhex("0101010184010006c3a9f09f988000")),
    Update(bytes.fromhex("000101010001")),
]
ZOE = '{"user":{"name":"Zoë 😀"}}'.encode()


def presence(clock: int, state: bytes) -> Presence:
    return Presence(b"\x01\x01" + wire.uint(clock) + wire.data(state))


def conversation(version: int, token: str = "") -> dict[str, list[Message]]:
    """What a provider says, whose version adds its number to its token from 4 on."""
    here, back = presence(0, b"{}"), presence(3, b'{"back":true}')
    credentials = Token(token, "4.8.0" if version == 4 else "")
    opening: list[Message] = [SyncStep1(b"\x00"), here]
    # Versions 1 and 2 say nothing of a token that they don't have; 1 waits with the
    # rest for the answer to one that it has, and begins anew at each such answer.
    told = version > 2 or token != ""
    destroy: list[Message] = [presence(4, b"null"), Left()]
    if version == 1:
        destroy = [presence(4, b"null")] * 2
    elif version == 2:
        destroy.append(presence(5, b"null"))
    said: dict[str, list[Message]] = {
        "open": [credentials, *opening] if told else opening,
        "admitted": opening if version == 1 else [],
        "asked": [SyncStep2(b"\x00\x00")],
        "edits": EDITS,
        "presence": [presence(1, ZOE), presence(2, b"null"), back],
        "query": [back],
        "stateless": [Stateless("hi 😀")],
        "forced": [SyncStep1(b"\x01\x01\x04")],
        "token_wanted": [credentials],
        "destroy": destroy,
    }
    if version == 1 and told:
        said["open"] = [credentials]
    if version < 3:
        del said["token_wanted"]
    return said


def without_presence(said: dict[str, list[Message]]) -> dict[str, list[Message]]:
    return {
        event: [message for message in messages if not isinstance(message, Presence)]
        for event, messages in said.items()
    }


def heard(frame: str) -> tuple[bytes, Message]:
    """The address and the message of a frame."""
    payload = bytes.fromhex(frame)
    address, at = hocuspocus.read_address(payload)
    message, end = hocuspocus.decode(payload, at)
    assert end == len(payload)
    return address, message


def understood(recorded: dict[str, Any], address: bytes) -> dict[str, list[Message]]:
    """What a provider of version 2 to 4 said, all of it to one address."""
    said = {}
    for event, frames in recorded.items():
        if event == "ping":
            assert [bytes.fromhex(frame) for frame in frames] == [hocuspocus.PONG]
            continue
        pairs = [heard(frame) for frame in frames]
        assert {found for found, _ in pairs} <= {address}
        said[event] = [message for _, message in pairs]
    return said


@pytest.mark.parametrize("version", [2, 3, 4])
def test_providers_are_understood(version: int) -> None:
    recorded = HOCUSPOCUS["providers"][str(version)]
    assert understood(recorded, b"d") == conversation(version)
    recorded = HOCUSPOCUS["with_token"][str(version)]
    assert understood(recorded, b"d") == conversation(version, "tök")
    recorded = HOCUSPOCUS["without_awareness"][str(version)]
    assert understood(recorded, b"d") == without_presence(conversation(version))


def test_the_oldest_provider_is_understood() -> None:
    for recorded, token in (("providers", ""), ("with_token", "tök")):
        said = {
            event: [yjs.decode(bytes.fromhex(frame)) for frame in frames]
            for event, frames in HOCUSPOCUS[recorded]["1"].items()
        }
        assert {
            event: [message for message, _ in messages]
            for event, messages in said.items()
        } == conversation(1, token)


def test_sessions_are_understood() -> None:
    recorded = HOCUSPOCUS["session"]
    address = b"d\x00k3j9x2m4q7z"
    assert understood(recorded, address) == conversation(4)
    assert hocuspocus.read_name(address) == "d"


@pytest.mark.parametrize(
    ("event", "address", "messages"),
    [
        # The server of Hocuspocus answers in another order, and echoes edits, joined.
        ("open", b"d", [Admitted(False), SyncStep1(b"\0"), SyncStep2(b"\0\0")]),
        ("answer", b"d", [Saved(b"")]),
        ("edits", b"d", [Saved(b"")] * 3),
        ("presence", b"d", [presence(1, ZOE)]),
        ("stateless", b"d", [Stateless("all: hi 😀")]),
        ("token_wanted", b"d", [TokenWanted()]),
        ("leave", b"d", [Left("provider_initiated")]),
        ("denied", b"denied", [Denied("who are you? 😀")]),
        ("reader", b"reader", [Admitted(True)]),
        ("refused", b"reader", [Refused()]),
        (
            "session",
            b"d\x00k3j9x2m4q7z",
            [Admitted(False), SyncStep1(b"\0"), SyncStep2(b"\0\0")],
        ),
    ],
)
def test_we_spell_as_the_server_of_hocuspocus_does(
    event: str, address: bytes, messages: list[Message]
) -> None:
    dialect = hocuspocus.Address.of(address)
    spelled = [dialect.encode(message).hex() for message in messages]
    assert spelled == HOCUSPOCUS["server"][event][: len(messages)]


def test_y_sweet_is_understood() -> None:
    recorded = HOCUSPOCUS["y_sweet"]
    assert document_name(recorded["url"].removeprefix("ws://host")) == "d"
    said = {
        event: [yjs.decode(bytes.fromhex(frame))[0] for frame in recorded[event]]
        for event in ("open", "edit", "query")
    }
    here = presence(0, b"{}")
    assert said == {
        "open": [SyncStep1(b"\x00"), Checkpoint(b"\x00"), here],
        "edit": [Update(INSERTED), Checkpoint(b"\x01")],
        "query": [here],
    }
    answer = yjs.encode(Checkpoint(b"\x01"))
    assert answer.hex() == recorded["edit"][1]


def test_y_partyserver_is_understood() -> None:
    recorded = HOCUSPOCUS["y_partyserver"]
    path = recorded["url"].removeprefix("ws://127.0.0.1:1")
    assert path == "/ws/d?_pk=me&token=tok"
    assert document_name(path) == "d"
    said = [yjs.decode(bytes.fromhex(frame))[0] for frame in recorded["open"]]
    assert said == [SyncStep1(b"\x00"), presence(1, b"{}")]
    assert recorded["custom"] == ["__YPS:hi 😀"]


def test_a_query_is_one_byte_behind_the_address() -> None:
    assert hocuspocus.encode(QueryPresence()) == b"\x03"
