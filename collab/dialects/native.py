"""What Collab's own clients say: the subprotocol ``collab.v1``.

A frame holds messages, each with a channel, which is a document, or 0 for the
connection itself; then a kind, and what belongs to it. ``docs/protocol.md`` is the
specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from .. import wire
from ..errors import ProtocolError
from ..messages import (
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

SUBPROTOCOL = "collab.v1"

VERSION = 1

Reader: TypeAlias = Callable[[bytes, int], tuple[Message, int]]


def decode(frame: bytes) -> Iterator[tuple[int, Message]]:
    """Read the messages of a frame one after the other, each with its channel.

    What follows one of an unknown kind is ignored.

    Raises:
        ProtocolError: If anything of it is malformed.
    """
    return _decode(frame, _ON_CONNECTION, _ON_CHANNEL)


def read(frame: bytes) -> Iterator[tuple[int, Message]]:
    """Read what a server says, as :func:`decode` does what a client says.

    Raises:
        ProtocolError: If anything of it is malformed.
    """
    return _decode(frame, _TOLD_ON_CONNECTION, _TOLD_ON_CHANNEL)


def _decode(
    frame: bytes, on_connection: tuple[Reader, ...], on_channel: tuple[Reader, ...]
) -> Iterator[tuple[int, Message]]:
    at = 0
    while at < len(frame) or not frame:
        channel, at = wire.read_uint(frame, at)
        kind, at = wire.read_uint(frame, at)
        readers = on_channel if channel else on_connection
        if kind >= len(readers):
            break
        message, at = readers[kind](frame, at)
        yield channel, message


def _reading(make: Callable[..., Message], *fields: Callable[..., Any]) -> Reader:
    def read(frame: bytes, at: int) -> tuple[Message, int]:
        values = []
        for field in fields:
            value, at = field(frame, at)
            values.append(value)
        return make(*values), at

    return read


def _read_update(frame: bytes, at: int) -> tuple[Message, int]:
    sequence, at = wire.read_uint(frame, at)
    update, at = wire.read_data(frame, at)
    return Update(update, sequence=sequence), at


def _read_reader(frame: bytes, at: int) -> tuple[bool, int]:
    """Read whether somebody may only read: the flag says whether they may write."""
    if frame[at : at + 1] not in (b"\x00", b"\x01"):
        raise ProtocolError("a flag is 0 or 1")
    return frame[at] == 0, at + 1


_UINT, _DATA, _TEXT = wire.read_uint, wire.read_data, wire.read_text
_PRESENCE, _NOTE = _reading(Presence, _DATA), _reading(Note, _TEXT, _DATA)
_ON_CONNECTION: tuple[Reader, ...] = (
    _reading(Hello, _TEXT),
    _reading(Ping, _UINT),
    _reading(Identity, _DATA),
)
_ON_CHANNEL: tuple[Reader, ...] = (
    _reading(Open, _TEXT, _TEXT, _DATA, _TEXT, _UINT),
    _reading(Left),
    _read_update,
    _PRESENCE,
    _NOTE,
    _reading(Token, _TEXT),
    _reading(Resume, _TEXT, _TEXT, _DATA, _TEXT, _UINT, _DATA),
)
_TOLD_ON_CONNECTION: tuple[Reader, ...] = (
    _reading(Hail, _UINT, _TEXT, _UINT, _UINT),
    _reading(Pong, _UINT),
    _reading(Reconnect, _UINT, _UINT),
    _reading(Ended, _UINT, _TEXT),
)
_TOLD_ON_CHANNEL: tuple[Reader, ...] = (
    _reading(Opened, _read_reader, _TEXT, _UINT, _UINT, _DATA),
    _reading(Closed, _UINT, _TEXT),
    _reading(lambda position, update: Update(update, position), _UINT, _DATA),
    _PRESENCE,
    _NOTE,
    _reading(TokenWanted, _UINT),
    _reading(Piece, _DATA),
    _reading(Synced, _UINT),
    _reading(partial(Saved, b""), _UINT, _UINT),
    _reading(lambda sequence, reason: Refused(reason, sequence), _UINT, _TEXT),
    _reading(Admitted, _read_reader),
    _reading(SyncStep1, _DATA),
)


def spell(message: Message) -> bytes:
    """Spell what a client says, without its channel."""
    uint, data, text = wire.uint, wire.data, wire.text
    match message:
        case Update(update, _, sequence):
            return b"\x02" + uint(sequence) + data(update)
        case Presence() | Note():
            return encode(message)
        case Resume(known=known):
            return b"\x06" + _spell_open(message) + data(known)
        case Open():
            return b"\x00" + _spell_open(message)
        case Left():
            return b"\x01"
        case Token(token):
            return b"\x05" + text(token)
        case Hello(client):
            return b"\x00" + text(client)
        case Ping(number):
            return b"\x01" + uint(number)
        case Identity(key):
            return b"\x02" + data(key)
        case _:
            raise ValueError(f"clients say no {type(message).__name__}")


def _spell_open(message: Open) -> bytes:
    text = wire.text
    start = text(message.name) + text(message.token) + wire.data(message.state_vector)
    return start + text(message.epoch) + wire.uint(message.position)


def encode(message: Message) -> bytes:
    """Spell a message, without its channel."""
    uint, data, text = wire.uint, wire.data, wire.text
    match message:
        case Update(update, position):
            return b"\x02" + uint(position) + data(update)
        case Saved(_, sequence, position):
            return b"\x08" + uint(sequence) + uint(position)
        case Presence(states):
            return b"\x03" + data(states)
        case Piece(update):
            return b"\x06" + data(update)
        case Synced(position):
            return b"\x07" + uint(position)
        case SyncStep1(state_vector):
            return b"\x0b" + data(state_vector)
        case Refused(reason, sequence):
            return b"\x09" + uint(sequence) + text(reason)
        case Opened(reader, epoch, position, size, state_vector):
            start = b"\x00" + _flag(not reader) + text(epoch) + uint(position)
            return start + uint(size) + data(state_vector)
        case Closed(code, reason):
            return b"\x01" + uint(code) + text(reason)
        case Note(user, payload):
            return b"\x04" + text(user) + data(payload)
        case Stateless(said):
            return b"\x04\x00" + text(said)
        case TokenWanted(seconds):
            return b"\x05" + uint(seconds)
        case Admitted(reader):
            return b"\x0a" + _flag(not reader)
        case Hail(version, connection, heartbeat, size):
            return (
                b"\x00"
                + uint(version)
                + text(connection)
                + uint(heartbeat)
                + uint(size)
            )
        case Pong(number):
            return b"\x01" + uint(number)
        case Reconnect(after, window):
            return b"\x02" + uint(after) + uint(window)
        case Ended(code, reason):
            return b"\x03" + uint(code) + text(reason)
        case _:
            raise ValueError(f"this dialect has no {type(message).__name__}")


def _flag(value: bool) -> bytes:
    return b"\x01" if value else b"\x00"


@dataclass(frozen=True, slots=True)
class Numbered:
    """The dialect on a channel."""

    prefix: bytes

    @classmethod
    def of(cls, channel: int) -> Numbered:
        """The dialect on the channel of a number."""
        return cls(wire.uint(channel))

    def encode(self, message: Message) -> bytes:
        """Spell a message."""
        if isinstance(message, SyncStep2):
            piece = self.prefix + encode(Piece(message.update))
            return piece + self.prefix + encode(Synced(message.position))
        return self.prefix + encode(message)
