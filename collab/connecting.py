"""Which connection a client gets: by its URL, and the subprotocol that it offered."""

from __future__ import annotations

from .addressed import AddressedConnection
from .auth import Visitor
from .connection import Connection, Encodings, NamedConnection, Transport
from .dialects.native import SUBPROTOCOL
from .hub import Hub
from .native import NativeConnection


def connect(
    hub: Hub,
    name: str,
    subprotocol: str | None,
    encodings: Encodings,
    transport: Transport,
    visitor: Visitor,
) -> Connection:
    """The connection for what ``document_name`` returned, and was negotiated."""
    custom = "_pk" in visitor.query  # Every URL of y-partyserver has it.
    if hub.door.open:
        visitor = Visitor(visitor.peer)  # Nobody asks for more, so it isn't kept.
    if name:
        encoding = encodings.text if custom else encodings.yjs
        connection = NamedConnection(hub, name, encoding, transport, visitor)
        connection.channel.session.talks = custom
        return connection
    if subprotocol == SUBPROTOCOL:
        return NativeConnection(hub, encodings, transport, visitor)
    return AddressedConnection(hub, encodings, transport, visitor)
