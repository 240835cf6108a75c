"""What y-websocket 1 to 4 say: y-protocols' messages, one document per connection.

::

    00 00 data(state vector)    SyncStep1
    00 01 data(update)          SyncStep2
    00 02 data(update)          Update; back at its author: Saved
    01 data(states)             Presence ("awareness")
    02 00 text(reason)          Refused ("permission denied")
    03                          QueryPresence ("query awareness")

y-sweet has one more, and providers of Hocuspocus 1 these::

    66 data(mark)               Checkpoint ("sync status")

    02 00 text(token)           Token
    02 01 text(reason)          Denied
    02 02                       Admitted
    05 text(payload)            Stateless

Reference: y-protocols PROTOCOL.md, y-websocket src/y-websocket.js; @y-sweet/client
provider.ts; @hocuspocus/provider 1.1.3. Clients up to y-websocket 3.1 read only the
first message of a WebSocket message, so we encode one per frame.
"""

from __future__ import annotations

from .. import wire
from ..errors import ProtocolError
from ..messages import (
    Admitted,
    Checkpoint,
    Denied,
    Message,
    Presence,
    QueryPresence,
    Refused,
    Saved,
    Stateless,
    SyncStep1,
    SyncStep2,
    Token,
    Update,
)

KEEPALIVE = b"\x01\x01\x00"
"""Presence of nobody: changes nothing, and tells a client that we are alive.

y-websocket reconnects when it received no message for 30 s; a ping isn't one.
"""

MAX_MARK = 16
"""Bytes of a checkpoint, which is a number."""


def decode(payload: bytes, at: int = 0) -> tuple[Message, int]:
    """Read the message at an offset; return it and the offset behind it.

    Raises:
        ProtocolError: If it is not a message, or is longer than what is there.
    """
    kind = payload[at : at + 2]
    if kind == b"\x00\x02":
        update, end = wire.read_data(payload, at + 2)
        return Update(update), end
    if kind[:1] == b"\x01":
        states, end = wire.read_data(payload, at + 1)
        return Presence(states), end
    if kind == b"\x00\x00":
        state_vector, end = wire.read_data(payload, at + 2)
        return SyncStep1(state_vector), end
    if kind == b"\x00\x01":
        update, end = wire.read_data(payload, at + 2)
        return SyncStep2(update), end
    if kind[:1] == b"\x03":
        if at == 0 and len(payload) > 2 and payload[1] & 127 == len(payload) - 2 & 127:
            # y-sweet's answer to a query has the kind of the query.
            states, end = wire.read_data(payload, 1)
            if end == len(payload):
                return Presence(states), end
        return QueryPresence(), at + 1
    if kind[:1] == b"\x66":
        mark, end = wire.read_data(payload, at + 1)
        if len(mark) > MAX_MARK:
            raise ProtocolError(f"checkpoint of {len(mark)} bytes")
        return Checkpoint(mark), end
    if kind == b"\x02\x00":
        token, end = wire.read_text(payload, at + 2)
        return Token(token), end
    if kind[:1] == b"\x05":
        said, end = wire.read_text(payload, at + 1)
        return Stateless(said), end
    raise ProtocolError(f"not a y-protocols message: {payload[at : at + 8].hex(' ')}")


def encode(message: Message) -> bytes:
    """Spell a message."""
    match message:
        case Update(update) | Saved(update):
            return b"\x00\x02" + wire.data(update)
        case Presence(states):
            return b"\x01" + wire.data(states)
        case SyncStep2(update):
            return b"\x00\x01" + wire.data(update)
        case SyncStep1(state_vector):
            return b"\x00\x00" + wire.data(state_vector)
        case QueryPresence():
            return b"\x03"
        case Checkpoint(mark):
            return b"\x66" + wire.data(mark)
        case Stateless(payload):
            return b"\x05" + wire.text(payload)
        case Refused(reason):
            return b"\x02\x00" + wire.text(reason)
        case Denied(reason):
            return b"\x02\x01" + wire.text(reason)
        case Admitted():
            return b"\x02\x02"
        case _:
            raise ValueError(f"this dialect has no {type(message).__name__}")
