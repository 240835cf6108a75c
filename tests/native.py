"""``collab.v1`` to test with: spelled and read by the specification alone."""

from __future__ import annotations

from typing import Any

from tests.peers import data, uint

HELLO = b"\x00\x00" + data(b"test/1")


def read_uint(frame: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = frame[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, at


def read_data(frame: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_uint(frame, at)
    return frame[at : at + size], at + size


FIELDS = {
    0: ("Opened", "uduud"),
    1: ("Closed", "ud"),
    2: ("Update", "ud"),
    3: ("Presence", "d"),
    4: ("Message", "dd"),
    5: ("TokenWanted", "u"),
    6: ("Piece", "d"),
    7: ("Synced", "u"),
    8: ("Saved", "uu"),
    9: ("Refused", "ud"),
    10: ("Access", "u"),
    11: ("Question", "d"),
}
CONNECTION_FIELDS = {
    0: ("Welcome", "uduu"),
    1: ("Pong", "u"),
    2: ("Reconnect", "uu"),
    3: ("Ended", "ud"),
}


def read_frame(frame: bytes) -> list[tuple[int, tuple[Any, ...]]]:
    """What a server says in a frame: channels, and messages as their fields."""
    messages = []
    at = 0
    while at < len(frame):
        channel, at = read_uint(frame, at)
        kind, at = read_uint(frame, at)
        name, fields = (FIELDS if channel else CONNECTION_FIELDS)[kind]
        values: list[Any] = [name]
        for field in fields:
            value, at = (read_uint if field == "u" else read_data)(frame, at)
            values.append(value)
        messages.append((channel, tuple(values)))
    return messages


def opening(
    name: str = "d",
    vector: bytes = b"\x00",
    epoch: bytes = b"",
    position: int = 0,
    token: bytes = b"",
) -> bytes:
    spelled = b"\x00" + data(name.encode()) + data(token)
    return spelled + data(vector) + data(epoch) + uint(position)


def edit(sequence: int, update: bytes) -> bytes:
    return b"\x02" + uint(sequence) + data(update)
