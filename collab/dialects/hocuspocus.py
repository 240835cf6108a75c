"""What Hocuspocus' providers 2 to 4 say: many documents on one connection.

Each payload begins with an address, to which it is answered. It is the name of a
document; a client that has the same document open twice adds a session::

    text(name) message
    text(name 00 session) message

The messages::

    00 00 data(state vector)    SyncStep1
    00 01 data(update)          SyncStep2
    00 02 data(update)          Update
    01 data(states)             Presence ("awareness")
    02 00 text(token)           Token; text(version) follows from version 4 on
    02 00                       TokenWanted (3.3 and newer hear it)
    02 01 text(reason)          Denied ("permission denied")
    02 02 text(scope)           Admitted: "read-write" or "readonly"
    03                          QueryPresence
    05 text(payload)            Stateless
    07                          Left; text(reason) follows when we say it
    08 01, 08 00                Saved, Refused ("sync status")

Two payloads have neither an address nor more than one byte: 09 asks a client for a sign
of life, which answers 0a. Only version 4 knows them.

Reference: @hocuspocus/provider 2.15.3, 3.4.4 and 4.8.0.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import wire
from ..errors import BadName, ProtocolError
from ..messages import (
    Admitted,
    Checkpoint,
    Denied,
    Left,
    Message,
    QueryPresence,
    Refused,
    Saved,
    Stateless,
    Token,
    TokenWanted,
    Unknown,
)
from . import yjs

PING = b"\x09"
PONG = b"\x0a"

MAX_SESSION = 64
"""Bytes of the session in an address; providers make some 11 of them."""

MAX_ADDRESS = 1024
"""Bytes of an address that is answered: whose isn't a name is remembered as denied."""


def read_address(payload: bytes) -> tuple[bytes, int]:
    """Read to which address a payload goes; return it and the offset behind it.

    Raises:
        ProtocolError: If it is longer than what is there, or much too long.
    """
    address, at = wire.read_data(payload, 0)
    if len(address) > MAX_ADDRESS:
        raise BadName(f"address of {len(address)} bytes")
    return address, at


def read_name(address: bytes) -> str:
    """The name of the document that an address names, unchecked.

    Raises:
        BadName: If it is not UTF-8, or its session is empty, too long or is several.
    """
    name, separator, session = address.partition(b"\x00")
    if separator and (not session or len(session) > MAX_SESSION or b"\x00" in session):
        raise BadName("session in an address")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise BadName("document name is not UTF-8") from None


def decode(payload: bytes, at: int) -> tuple[Message, int]:
    """Read the message behind the address; return it and the end of the payload.

    Raises:
        ProtocolError: If it is malformed, or something follows it.
    """
    message, end = _decode(payload, at)
    if end != len(payload):
        raise ProtocolError("bytes after the message")
    return message, end


def _decode(payload: bytes, at: int) -> tuple[Message, int]:
    kind = payload[at : at + 1]
    if kind in (b"\x00", b"\x01"):
        return yjs.decode(payload, at)
    if kind == b"\x02":
        return _decode_token(payload, at + 1)
    if kind == b"\x03":
        return QueryPresence(), at + 1
    if kind == b"\x05":
        said, end = wire.read_text(payload, at + 1)
        return Stateless(said), end
    if kind == b"\x07":
        return Left(), len(payload)
    # A newer provider may have kinds that we can do without; servers have more of them
    # among each other, which are nobody else's business.
    number, _ = wire.read_uint(payload, at)
    return Unknown(number), len(payload)


def _decode_token(payload: bytes, at: int) -> tuple[Message, int]:
    if payload[at : at + 1] != b"\x00":
        raise ProtocolError("not a token")
    token, end = wire.read_text(payload, at + 1)
    version = ""
    if end < len(payload):
        version, end = wire.read_text(payload, end)
    return Token(token, version), end


def encode(message: Message) -> bytes:
    """Spell a message, without its address."""
    match message:
        case Saved():
            return b"\x08\x01"
        case Refused():
            return b"\x08\x00"
        case Admitted(reader):
            return b"\x02\x02" + wire.text("readonly" if reader else "read-write")
        case Denied(reason):
            return b"\x02\x01" + wire.text(reason)
        case TokenWanted():
            return b"\x02\x00"
        case Left(reason):
            return b"\x07" + wire.text(reason)
        case Checkpoint() | Token() | Unknown():
            raise ValueError(f"this dialect has no {type(message).__name__}")
        case _:
            return yjs.encode(message)


@dataclass(frozen=True, slots=True)
class Address:
    """The dialect with an address in front of each message."""

    address: bytes
    """What :func:`read_address` returned."""
    prefix: bytes
    """How it is written: its length and its bytes."""

    @classmethod
    def of(cls, address: bytes) -> Address:
        """The dialect for an address."""
        return cls(address, wire.data(address))

    @property
    def shared(self) -> bool:
        """Whether others have the same one: it has no session."""
        return b"\x00" not in self.address

    def encode(self, message: Message) -> bytes:
        """Spell a message."""
        return self.prefix + encode(message)
