"""HTTP up to where a WebSocket begins: requests for one, and what is negotiated."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from weakref import ref

from httptools import HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)
from websockets.exceptions import InvalidHeader
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from .auth import Visitor, select_subprotocol
from .frames import DEFLATE, PLAIN, FrameEncodings
from .headers import SAFE, bare_response
from .limits import Limits

SLOWEST = 1024
"""Bytes per second of a request's body, at least."""

NO_REQUEST = bare_response("400 Bad Request", "This is no request of HTTP.")

TOO_LARGE = bare_response("413 Content Too Large", "body is too big")

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


class Handshake(ServerProtocol):
    """websockets' handshake, which tells clients the text of its exceptions."""

    def send_response(self, response: Response) -> None:
        """Send a response; a refusal has safe headers, and names what is wrong."""
        if response.status_code != 101:
            error = self.handshake_exc
            if error is not None:
                wrong = response.reason_phrase
                if isinstance(error, InvalidHeader):
                    wrong = f"see {error.name}"
                response.body = f"not a WebSocket handshake: {wrong}\n".encode()
                del response.headers["Content-Length"]
                response.headers["Content-Length"] = str(len(response.body))
            response.headers.update(SAFE)
        super().send_response(response)


EXTENSION = "collab.http"
"""Under which a request knows the connection that it came on."""


class Strangers:
    """HTTP connections whose request isn't here yet, longest first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[Http, None] = {}

    def add(self, connection: Http) -> None:
        """Note that a request is awaited; the oldest makes room if there is none.

        So a newcomer is always heard, whoever else opens connections and is silent.
        """
        if len(self._waiting) >= self.limit:
            oldest = next(iter(self._waiting))
            self.discard(oldest)
            oldest.transport.abort()
        self._waiting[connection] = None

    def discard(self, connection: Http) -> None:
        """Note that a request is here, or will not come."""
        self._waiting.pop(connection, None)


def http_class(limits: Limits) -> type[Http]:
    """The class for ``uvicorn.Config(http=...)``."""
    strangers = Strangers(limits.handshakes)
    return type("LimitedHttp", (Http,), {"limits": limits, "strangers": strangers})


class Http(HttpToolsProtocol):
    """uvicorn's HTTP, which forgets what arrives together with an upgrade request.

    A client should wait for the response (RFC 6455, section 4.1); for one that doesn't,
    frames would be missing. And which waits for requests, and collects what belongs to
    them, without a limit.
    """

    limits: ClassVar[Limits]
    strangers: ClassVar[Strangers]

    _unfinished = 0
    """Bytes of a request that is not complete, since its body went on."""
    _body_size = 0
    _progress = 0
    """Bytes of its body since we looked last."""
    _awaiting: asyncio.TimerHandle | None = None
    """Until when it must be here, or at least more of its body."""

    _before: Sequence[RequestResponseCycle] = ()
    """Requests before the last one that are not answered yet."""

    stopping: Callable[[], object] | None = None
    """Called when the server stops, by whom a response is under way that takes long."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_here()
        super().connection_lost(exc)
        # uvicorn tells it only to the last one. A stream before it would go on.
        for cycle in self._before:
            cycle.disconnected = True
            cycle.message_event.set()
        self._before = ()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._arrived = data
        self._unfinished += len(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_request()
        super().data_received(data)
        self._arrived = b""
        if self._unfinished > self.limits.head_size and self._here():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self._refuse(NO_REQUEST)

    def _refuse(self, response: bytes) -> None:
        """Say why, unless that would stand within another response; and be gone."""
        cycle = self.cycle
        if cycle is None:
            free = True
        elif cycle.response_complete:
            free = not cycle.more_body  # Else what is refused was answered already.
        else:
            free = not (cycle.response_started or self.pipeline)
        if free:
            self.transport.write(response)
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # Weak: they would refer to each other.
        self.scope["extensions"] = {EXTENSION: ref(self)}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        before = [cycle for cycle in self._before if not cycle.response_complete]
        if self.cycle is not None and not self.cycle.response_complete:
            before.append(self.cycle)
        self._before = before
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        self._progress += len(body)
        self._body_size += len(body)
        if self._body_size <= self.limits.body_size:
            super().on_body(body)
        elif not self.transport.is_closing():
            self._refuse(TOO_LARGE)

    def on_message_complete(self) -> None:
        self._unfinished = self._body_size = 0
        self._request_is_here()
        super().on_message_complete()

    def shutdown(self) -> None:
        """Let go of the connection, once its response has ended."""
        super().shutdown()
        if self.stopping is not None:
            self.stopping()

    def _await_request(self) -> None:
        if self._awaiting is None:
            self.strangers.add(self)
            time = self.limits.handshake_time
            self._awaiting = self.loop.call_later(time, self._check_progress)

    def _request_is_here(self) -> None:
        if self._awaiting is not None:
            self._awaiting.cancel()
            self._awaiting = None
            self.strangers.discard(self)

    def _check_progress(self) -> None:
        progress, self._progress = self._progress, 0
        self._request_is_here()
        if progress < SLOWEST * self.limits.handshake_time:
            self.transport.close()
        else:
            self._await_request()

    def _here(self) -> bool:
        return self.transport.get_protocol() is self

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, and what has arrived of it."""
        self._request_is_here()
        if self.cycle is not None and not self.cycle.response_complete:
            # What is still to be answered would stand between the frames.
            self.transport.close()
            return
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
