"""What Collab's own clients say, in the vectors that TypeScript reads too."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab import wire
from collab.dialects import native
from collab.dialects.native import Numbered
from collab.errors import ProtocolError
from collab.messages import (
    Admitted,
    Closed,
    Ended,
    Hail,
    Hello,
    Identity,
    Left,
    Message,
    Note,
    Open,
    Opened,
    Piece,
    Ping,
    Pong,
    Presence,
    QueryPresence,
    Reconnect,
    Refused,
    Resume,
    Saved,
    Stateless,
    Synced,
    SyncStep1,
    SyncStep2,
    Token,
    TokenWanted,
    Update,
)

VECTORS = json.loads(
    (Path(__file__).parent / "vectors" / "native.json").read_text(encoding="utf-8")
)


def read(fields: dict[str, Any], sender: str) -> Message:
    """The message that a vector describes."""
    given = dict(fields)
    kind = given.pop("type")
    del given["channel"]
    for name in ("vector", "update", "states", "payload", "key", "known"):
        if name in given:
            given[name] = bytes.fromhex(given[name])
    match kind, sender:
        case "Hello", _:
            return Hello(given["client"])
        case "Ping", _:
            return Ping(given["number"])
        case "Identity", _:
            return Identity(given["key"])
        case "Open" | "Resume", _:
            opening = (
                given["name"],
                given["token"],
                given["vector"],
                given["epoch"],
                given["position"],
            )
            return (
                Open(*opening) if kind == "Open" else Resume(*opening, given["known"])
            )
        case "Close", _:
            return Left()
        case "Update", "client":
            return Update(given["update"], sequence=given["sequence"])
        case "Update", _:
            return Update(given["update"], given["position"])
        case "Presence", _:
            return Presence(given["states"])
        case "Message", _:
            return Note(given["user"], given["payload"])
        case "Token", _:
            return Token(given["token"])
        case "Welcome", _:
            return Hail(
                given["version"],
                given["connection"],
                given["heartbeat"],
                given["size"],
            )
        case "Pong", _:
            return Pong(given["number"])
        case "Reconnect", _:
            return Reconnect(given["after"], given["window"])
        case "Ended", _:
            return Ended(given["code"], given["reason"])
        case "Opened", _:
            return Opened(
                not given["writable"],
                given["epoch"],
                given["position"],
                given["size"],
                given["vector"],
            )
        case "Closed", _:
            return Closed(given["code"], given["reason"])
        case "TokenWanted", _:
            return TokenWanted(given["seconds"])
        case "Piece", _:
            return Piece(given["update"])
        case "Synced", _:
            return Synced(given["position"])
        case "Saved", _:
            return Saved(b"", given["sequence"], given["position"])
        case "Refused", _:
            return Refused(given["reason"], given["sequence"])
        case "Access", _:
            return Admitted(not given["writable"])
        case "Question", _:
            return SyncStep1(given["vector"])
    raise AssertionError(kind)


def messages(vector: dict[str, Any]) -> list[tuple[int, Message]]:
    """The messages of a frame, with their channels."""
    fields = vector["messages"] if "messages" in vector else [vector["message"]]
    return [(field["channel"], read(field, vector["from"])) for field in fields]


FRAMES = VECTORS["frames"]
SAID = [vector for vector in FRAMES if vector["from"] == "client"]
TOLD = [vector for vector in FRAMES if vector["from"] == "server"]
MALFORMED = VECTORS["malformed"]


def name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("vector", SAID, ids=name)
def test_what_clients_say_is_understood(vector: dict[str, Any]) -> None:
    assert list(native.decode(bytes.fromhex(vector["hex"]))) == messages(vector)


@pytest.mark.parametrize(
    "vector", [v for v in SAID if not v["name"].startswith("an unknown")], ids=name
)
def test_what_clients_say_is_spelled_as_it_is_understood(
    vector: dict[str, Any],
) -> None:
    spelled = [
        wire.uint(channel) + native.spell(message)
        for channel, message in messages(vector)
    ]
    assert b"".join(spelled).hex() == vector["hex"]


@pytest.mark.parametrize("vector", TOLD, ids=name)
def test_what_they_are_told_is_read_as_it_is_spelled(vector: dict[str, Any]) -> None:
    assert list(native.read(bytes.fromhex(vector["hex"]))) == messages(vector)


@pytest.mark.parametrize(
    "vector", [v for v in TOLD if not v["name"].startswith("an unknown")], ids=name
)
def test_what_they_are_told_is_spelled_as_they_read_it(vector: dict[str, Any]) -> None:
    spelled = [
        Numbered.of(channel).encode(message) for channel, message in messages(vector)
    ]
    assert b"".join(spelled).hex() == vector["hex"]


@pytest.mark.parametrize("vector", MALFORMED, ids=name)
def test_anything_else_is_no_message(vector: dict[str, Any]) -> None:
    understand = native.decode if vector["from"] == "client" else native.read
    with pytest.raises(ProtocolError) as raised:
        list(understand(bytes.fromhex(vector["hex"])))
    assert raised.value.close_code == 4400


def test_what_rooms_say_has_a_form_here() -> None:
    spell = Numbered.of(300).encode
    assert spell(Stateless("hé")) == spell(Note("", "hé".encode()))
    diff = spell(SyncStep2(b"\x00\x00", 9))
    assert diff == spell(Piece(b"\x00\x00")) + spell(Synced(9))
    with pytest.raises(ValueError, match="QueryPresence"):
        spell(QueryPresence())
    with pytest.raises(ValueError, match="Stateless"):
        native.spell(Stateless("hé"))


@given(st.binary(max_size=60))
def test_decoding_raises_nothing_but_protocol_errors(frame: bytes) -> None:
    for understand in (native.decode, native.read):
        with suppress(ProtocolError):
            assert all(channel >= 0 for channel, _ in understand(frame))
