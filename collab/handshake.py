"""HTTP up to where a WebSocket begins: requests for one, and what is negotiated."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from .auth import Visitor, select_subprotocol
from .frames import DEFLATE, PLAIN, FrameEncodings

MAX_HEAD = 64 * 1024
"""Bytes of the headers of a request."""

EXTENSIONS = (
    ServerPerMessageDeflateFactory(
        server_no_context_takeover=True, client_no_context_takeover=True
    ),
)


def select(
    protocol: ServerProtocol, offered: Sequence[Subprotocol]
) -> Subprotocol | None:
    """Choose a subprotocol."""
    chosen = select_subprotocol(offered)
    return None if chosen is None else Subprotocol(chosen)


def encodings(protocol: ServerProtocol) -> FrameEncodings:
    """How messages look, as it was negotiated."""
    for extension in protocol.extensions:
        if isinstance(extension, PerMessageDeflate):
            return DEFLATE if extension.local_max_window_bits == 15 else PLAIN
    return PLAIN


def read_visitor(request: Request, peer: str) -> Visitor:
    """What a request says of who comes."""
    _, _, query = request.path.partition("?")
    lines = request.headers.get_all("Sec-WebSocket-Protocol")
    offered = [name.strip() for line in lines for name in line.split(",")]
    return Visitor.of(peer, request.headers.raw_items(), query, offered)


EXTENSION = "collab.http"
"""Under which a request knows the connection that it came on."""


class Http(HttpToolsProtocol):
    """uvicorn's HTTP, which forgets what arrives together with an upgrade request.

    A client should wait for the response (RFC 6455, section 4.1); for one that doesn't,
    frames would be missing. And which collects headers without a limit.
    """

    _unfinished = 0
    """Bytes of a request that is not complete, since its body went on."""

    stopping: Callable[[], object] | None = None
    """Called when the server stops, by whom a response is under way that takes long."""

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._arrived = data
        self._unfinished += len(data)
        super().data_received(data)
        self._arrived = b""
        if self._unfinished > MAX_HEAD and self.transport.get_protocol() is self:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # Weak: they would refer to each other.
        self.scope["extensions"] = {EXTENSION: ref(self)}  # type: ignore[dict-item]

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        super().on_message_complete()

    def shutdown(self) -> None:
        """Let go of the connection, once its response has ended."""
        super().shutdown()
        if self.stopping is not None:
            self.stopping()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, and what has arrived of it."""
        super().handle_websocket_upgrade()
        del self.parser  # They refer to each other: let both go at once.
        upgrade = sys.exception()
        assert isinstance(upgrade, HttpParserUpgrade)
        rest = self._arrived[upgrade.args[0] :]
        if rest:
            protocol = self.transport.get_protocol()
            assert isinstance(protocol, asyncio.Protocol)
            protocol.data_received(rest)


def http_of(scope: Mapping[str, Any]) -> Http | None:
    """The connection that a request came on, if it is ours."""
    found = (scope.get("extensions") or {}).get(EXTENSION)
    return found() if isinstance(found, ref) else None
