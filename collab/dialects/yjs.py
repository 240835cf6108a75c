"""What y-websocket 1 to 4 say: y-protocols' messages, one document per connection.

::

    00 00 data(state vector)    SyncStep1
    00 01 data(update)          SyncStep2
    00 02 data(update)          Update
    01 data(states)             Presence ("awareness")
    03                          QueryPresence ("query awareness")

Reference: y-protocols PROTOCOL.md, y-websocket src/y-websocket.js. Clients up to 3.1
read only the first message of a WebSocket message, so we encode one per frame.
"""

from __future__ import annotations

from .. import wire
from ..errors import ProtocolError
from ..messages import Message, Presence, QueryPresence, SyncStep1, SyncStep2, Update

KEEPALIVE = b"\x01\x01\x00"
"""Presence of nobody: changes nothing, and tells a client that we are alive.

y-websocket reconnects when it received no message for 30 s; a ping isn't one.
"""


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
        return QueryPresence(), at + 1
    raise ProtocolError(f"not a y-protocols message: {payload[at : at + 8].hex(' ')}")


def encode(message: Message) -> bytes:
    """Spell a message."""
    match message:
        case Update(update):
            return b"\x00\x02" + wire.data(update)
        case Presence(states):
            return b"\x01" + wire.data(states)
        case SyncStep2(update):
            return b"\x00\x01" + wire.data(update)
        case SyncStep1(state_vector):
            return b"\x00\x00" + wire.data(state_vector)
        case QueryPresence():
            return b"\x03"
