"""A connection over websockets' sans-I/O server, under uvicorn: the fast path.

uvicorn reads the HTTP request, sees an upgrade, and gives its socket to the class that
:func:`protocol_class` returns. From then on there is nothing between asyncio's
transport and the room but RFC 6455: no task, no queue, no await per message or per
connection. Frames of a tick are encoded once for all who share an encoding, and leave
as one write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from time import perf_counter
from typing import Any, ClassVar

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from .auth import Visitor
from .connecting import connect
from .connection import Connection, document_name
from .errors import CollabError, FrameTooBig, ProtocolError, TooMany, Unavailable
from .frames import BEAT, follow, frame
from .handshake import EXTENSIONS, Handshake, encodings, read_visitor, select
from .hub import Hub
from .opening import SLICE
from .proxies import Peer
from .quotas import Guest
from .sockets import peer_name, unsent
from .wheel import MOVING

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

logger = logging.getLogger("collab.websocket")
quiet = logging.getLogger("collab.websocket.frames")
quiet.addHandler(logging.NullHandler())
quiet.propagate = False
quiet.setLevel(logging.CRITICAL)

CLOSE_TIME = 5.0
"""Seconds that the other end has to answer a close frame, or a probe."""

MAX_FRAGMENTS = 4096
"""Frames of one message."""

SIP = 16 * 1024
"""Bytes that are inflated at once, if messages may be compressed: they may become a
thousand times as many."""


def protocol_class(hub: Hub) -> type[asyncio.Protocol]:
    """The class for ``uvicorn.Config(ws=...)`` that connects clients to a hub."""
    return type("HubWebSocket", (WebSocket,), {"hub": hub, "__slots__": ()})


class WebSocket(asyncio.Protocol):
    """One WebSocket connection."""

    __slots__ = (
        "_closing",
        "_connection",
        "_connections",
        "_departed",
        "_fragments",
        "_fragments_size",
        "_guest",
        "_head",
        "_heard",
        "_inbox",
        "_left",
        "_progress",
        "_protocol",
        "_refused",
        "_spoke",
        "_stale",
        "_texting",
        "_transport",
        "_turn",
        "_unread",
    )

    hub: ClassVar[Hub]

    def __init__(self, config: Any, server_state: Any, app_state: Any) -> None:
        self._connections: set[Any] = server_state.connections
        self._protocol: ServerProtocol | None = Handshake(
            extensions=EXTENSIONS,
            select_subprotocol=select,
            max_size=self.hub.limits.frame_size,
            logger=quiet,
        )
        """``None`` while it has nothing to remember: it would take 2 KiB, in a
        connection that is idle."""
        self._connection: Connection | None = None
        self._fragments: list[bytes] | None = None
        self._fragments_size = 0
        self._stale = False
        self._texting = False
        """Whether the message that comes in pieces is a text."""
        self._inbox: deque[tuple[Opcode, bool, bytes]] | None = None
        """Frames that wait, while a message takes a while."""
        self._departed = False
        """Whether the client is gone, while what it sent last is still in the inbox."""
        self._refused = False
        """Whether we are closing: nothing more is taken."""
        self._left: int | None = None
        """Bytes that are left of the frame that is being received; ``None`` before the
        handshake and after the end."""
        self._head = b""
        """The beginning of a frame whose header isn't complete."""
        self._heard = True
        self._turn = 0.0
        """Seconds from when the server stops until this is closed."""
        self._closing: asyncio.TimerHandle | None = None
        self._progress: tuple[int, float] | None = None
        self._spoke = -1
        self._guest: Guest | None = None
        """It, as the limits see it, once it was let in."""
        self._unread = b""
        """What arrived and waits to be inflated."""

    # What asyncio and uvicorn call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(self.hub.limits.slow_size)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._unread:
            self._unread += data
            return
        if self._left == 0 and not self._head and self._fragments is None:
            data = self._receive_plain(data)
        if data:
            self._receive_any(data)

    def _receive_plain(self, data: bytes) -> bytes:
        """Take the frames that data begins with, if they are plain; return the rest.

        What clients send is nearly always one short, binary, uncompressed frame that
        is a whole message. Taking it apart here costs a fifth of what the protocol's
        parser takes; it is given whatever is anything else.
        """
        at = count = 0
        size = len(data)
        until = perf_counter() + SLICE
        while size - at > 5:
            count += 1
            if not count & 3 and self._inbox is None and perf_counter() > until:
                # pycrdt copies a long text at each insertion: others have their turn.
                self._await(asyncio.sleep(0))
            first = data[at]
            if first == 0x8A and 128 <= data[at + 1] < 254:  # A pong: it was heard.
                end = at + 6 + data[at + 1] - 128
                if end > size:
                    break
                at = end
                continue
            if first != 0x82:
                break
            length = data[at + 1] - 128
            start = at + 6
            if length == 126 and size - at > 8:
                length = data[at + 2] << 8 | data[at + 3]
                start = at + 8
                if length < 126:
                    break
            elif not 0 <= length < 126:
                break
            end = start + length
            if end > size or length > self.hub.limits.frame_size or self._left != 0:
                break
            payload = apply_mask(data[start:end], data[start - 4 : start])
            at = end
            self._receive(Opcode.BINARY, True, payload)
        self._spend(count, at, until - SLICE)
        return data[at:] if at else data

    def _spend(self, count: int, size: int, now: float) -> None:
        """Count what was sent; read on when there may be more."""
        if self._guest is None:
            return
        try:
            delay = self._guest.pace.spend(count, size, now)
        except TooMany as exc:
            self.refuse(exc)
            return
        if delay and self._inbox is None:
            self._await(asyncio.sleep(delay))

    def _receive_any(self, data: bytes) -> None:
        protocol = self._wake()
        if protocol.extensions:
            self._unread = data[SIP:]
            data = data[:SIP]
        protocol.receive_data(data)
        if protocol.state is State.OPEN:
            self._pump()  # Pongs, which are not to wait for what takes longer.
        count = size = 0
        for event in protocol.events_received():
            if isinstance(event, Frame):
                count += 1
                size += len(event.data)
                self._receive(event.opcode, event.fin, bytes(event.data))
            else:
                assert isinstance(event, Request)
                self._shake_hands(event)
                data = b""
        if self._left is not None:
            self._left, self._head = follow(self._left, self._head, data)
        self._pump()
        self._spend(count, size, perf_counter())
        if self._unread and self._inbox is None:
            self._await(asyncio.sleep(0))
        if (
            self._left == 0
            and not self._head
            and self._fragments is None
            and self._inbox is None
            and not protocol.extensions
        ):
            self._protocol = None

    def _wake(self) -> ServerProtocol:
        """The protocol, as it is between two messages unless it was kept."""
        if self._protocol is None:
            self._protocol = ServerProtocol(
                state=State.OPEN, max_size=self.hub.limits.frame_size, logger=quiet
            )
        return self._protocol

    def eof_received(self) -> None:
        self._wake().receive_eof()
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._closing is not None:
            self._closing.cancel()
        self._depart()
        if self._guest is not None:
            self._guest.leave()

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._progress = (self._pending(), asyncio.get_running_loop().time())
            self.hub.wheel.full.add(self)
            self._connection.filled()

    def resume_writing(self) -> None:
        self._heard = True
        self._progress = None
        self.hub.wheel.full.discard(self)
        if self._connection is not None:
            self._connection.drained()

    def shutdown(self) -> None:
        """Close with 1012, when it is its turn and its edits are saved."""
        self.hub.draining = True
        self.hub.spawn(self._shutdown())

    async def _shutdown(self) -> None:
        await self.hub.drain()
        await asyncio.sleep(self._turn)
        await self.hub.settle()
        self._close(1012, "service restart")

    def advise(self, after: float, window: float) -> None:
        """Tell the client to move elsewhere, or have it closed when it is its turn."""
        assert self._connection is not None
        moves = self._connection.advise(after, window)
        # Who moves by itself is given the time for it.
        self._turn = self.hub.wheel.window + MOVING if moves else after + window

    # The handshake.

    def _shake_hands(self, request: Request) -> None:
        protocol = self._wake()
        peer, headers = self._locate(request)
        try:
            name = document_name(request.path)
            if name is None:
                response = protocol.reject(404, "No WebSocket here: try /ws.\n")
            elif request.headers.get_all("Sec-WebSocket-Version") not in ([], ["13"]):
                response = protocol.reject(426, "Speak version 13 of WebSocket.\n")
                response.headers["Upgrade"] = "websocket"
                response.headers["Sec-WebSocket-Version"] = "13"
            else:
                reception = self.hub.reception
                tls = self._transport.get_extra_info("sslcontext") is not None
                reception.check(headers, tls or peer.secure)
                self.hub.check()
                self._guest = reception.admit(peer)
                response = protocol.accept(request)
        except CollabError as exc:
            logger.info("refusing %s: %s", peer, exc)
            response = protocol.reject(exc.http_status, f"{exc.reason}\n")
            if isinstance(exc, Unavailable | TooMany):
                response.headers["Retry-After"] = "5"
        protocol.send_response(response)
        if protocol.state is not State.OPEN:
            return
        assert name is not None
        self._write(protocol.data_to_send())
        visitor = read_visitor(request, str(peer))
        self._connection = connection = self._connect(protocol, name, visitor)
        self._left = 0
        self._spoke = self.hub.wheel.add(self)
        try:
            self._await(connection.open())
        except CollabError as exc:
            self.refuse(exc)

    def _connect(
        self, protocol: ServerProtocol, name: str, visitor: Visitor
    ) -> Connection:
        """The connection that gets the messages of this client."""
        return connect(
            self.hub,
            name,
            protocol.subprotocol,
            encodings(protocol),
            _Carrier(self),
            visitor,
        )

    def _locate(self, request: Request) -> tuple[Peer, list[tuple[str, str]]]:
        """Where a client is, and the headers of its request, names in lower case."""
        headers = [(key.lower(), value) for key, value in request.headers.raw_items()]
        host, port = peer_name(self._transport)
        return self.hub.reception.locate(host, port, headers), headers

    # Frames.

    def _receive(self, opcode: Opcode, fin: bool, payload: bytes) -> None:
        """Take a frame of data; control frames are the protocol's business."""
        if self._inbox is not None:
            self._inbox.append((opcode, fin, payload))
            return
        connection = self._connection
        if connection is None or self._refused:
            return
        try:
            if opcode is Opcode.BINARY and fin:
                waiting = connection.receive(payload)
                if waiting is not None:
                    self._await(waiting)
            elif opcode is Opcode.TEXT and fin:
                connection.receive_text(payload)
            elif opcode is Opcode.CONT or not fin:  # Control frames are never split.
                self._assemble(connection, opcode, fin, payload)
        except CollabError as exc:
            self.refuse(exc)

    def _assemble(
        self, connection: Connection, opcode: Opcode, fin: bool, payload: bytes
    ) -> None:
        if self._fragments is None:
            self._fragments = []
            self._fragments_size = 0
            self._texting = opcode is Opcode.TEXT
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if len(self._fragments) > MAX_FRAGMENTS:
            raise FrameTooBig(self._fragments_size, self.hub.limits.frame_size)
        if fin:
            payload = b"".join(self._fragments)
            self._fragments = None
            self._stale = False
            if self._texting:
                connection.receive_text(payload)
            else:
                self._await(connection.receive(payload))

    def _await(self, waiting: Awaitable[None] | None) -> None:
        """Read nothing more until something is done."""
        if waiting is None:
            return
        if self._inbox is None:
            self._inbox = deque()
        self._transport.pause_reading()
        self.hub.spawn(self._wait(waiting))

    async def _wait(self, waiting: Awaitable[None]) -> None:
        try:
            await waiting
        except CollabError as exc:
            self.refuse(exc)
        except Exception:
            logger.exception("%s: unexpected error", self._peer())
            self._close(1011, CollabError.reason)
        inbox, self._inbox = self._inbox, None
        assert inbox is not None
        until = perf_counter() + SLICE
        while inbox:
            self._receive(*inbox.popleft())
            if self._inbox is None and perf_counter() > until:
                self._await(asyncio.sleep(0))
            if self._inbox is not None:  # It must wait again.
                self._inbox.extend(inbox)
                return
        unread, self._unread = self._unread, b""
        if unread:
            self.data_received(unread)
        self._spend(0, 0, perf_counter())  # It may owe more than was waited for.
        if self._inbox is not None:
            return
        if self._departed:
            self._leave()
        elif not self._transport.is_closing():
            self._heard = True  # At the next beat we have listened again.
            self._transport.resume_reading()

    # Sending and closing.

    def _write(self, pieces: list[bytes]) -> None:
        """Write what the protocol has to say: handshake, pongs, close frames."""
        if pieces:
            data = b"".join(pieces)
            if data and not self._transport.is_closing():
                self._transport.write(data)

    def _pump(self) -> None:
        protocol = self._wake()
        pieces = protocol.data_to_send()
        if self._refused:
            pieces = []  # All was said: it needs no pongs, however many pings it sends.
        elif pieces and self._progress is not None and protocol.state is State.OPEN:
            # It sends pings but doesn't read. "An endpoint MAY elect to send a pong
            # for only the most recently processed Ping": it gets the next one.
            # (RFC 6455, section 5.5.3)
            pieces = []
        self._write(pieces)
        if protocol.state is not State.OPEN:
            self._finish()

    def _finish(self) -> None:
        """Leave the room and end the connection, if the protocol is done with it."""
        protocol = self._wake()
        if protocol.state is State.CONNECTING and not protocol.eof_sent:
            return
        if protocol.handshake_exc is not None and self._closing is None:
            logger.info("refusing %s: %s", self._peer(), protocol.handshake_exc)
        self._left = None
        broken = protocol.parser_exc
        if broken is not None and self._closing is None:
            self._blame(broken)
        self._depart()
        if broken is not None and protocol.close_sent is not None:
            # Closing while it still sends would reset the connection, and our close
            # frame be lost. So we say that we are done, and read until it is.
            if self._transport.can_write_eof() and not self._transport.is_closing():
                self._transport.write_eof()
        # The server closes TCP first, so that the client holds no TIME_WAIT.
        # (RFC 6455, section 7.1.1)
        elif (
            broken is not None
            or protocol.close_rcvd is not None
            or protocol.state is State.CONNECTING
        ):
            self._transport.close()
        if self._closing is None:
            loop = asyncio.get_running_loop()
            self._closing = loop.call_later(CLOSE_TIME, self._transport.abort)

    def refuse(self, error: CollabError) -> None:
        """Close, and say why."""
        if self._connection is not None and not self._refused:
            self._connection.blame(error)
            self._close(error.close_code, error.reason)
            self._refused = True  # Also if there was nobody left to be told.

    def _blame(self, broken: Exception) -> None:
        """Log, in one line, which rule of WebSocket the client broke."""
        closed = self._wake().close_sent
        if self._connection is not None and closed is not None:
            error = ProtocolError(str(broken))
            error.close_code = closed.code
            error.reason = closed.reason or error.reason
            self._connection.blame(error)

    def _close(self, code: int, reason: str) -> None:
        """Start the closing handshake."""
        protocol = self._wake()
        if protocol.state is State.OPEN:
            self._refused = True
            self._left = None
            self._leave()
            protocol.send_close(code, reason)
            self._write(protocol.data_to_send())
            loop = asyncio.get_running_loop()
            self._closing = loop.call_later(CLOSE_TIME, self._transport.abort)
        elif protocol.state is State.CONNECTING:
            self._transport.close()

    def _depart(self) -> None:
        """Leave the room, once what the client sent before it went is taken."""
        if self._inbox is None or self._connection is None:
            self._leave()
        elif not self._departed:
            self._departed = True
            self._connection.mute()
            self.hub.wheel.remove(self, self._spoke)

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self.hub.wheel.remove(self, self._spoke)
            closed = None if self._protocol is None else self._protocol.close_rcvd
            goodbye = closed is not None and closed.code in (1000, 1001, 1005)
            connection.close(goodbye)

    # The hub's timer.

    def beat(self) -> None:
        """Ping, say something that the client counts as a message, and listen."""
        if self._hears():
            if not self._heard or self._stale:
                self._give_up()
                return
            self._heard = False
            # A message that is not complete a heartbeat later is not coming.
            self._stale = self._fragments is not None
        if self._progress is None and self._connection is not None:
            said = self._connection.beat()
            self._transport.write(BEAT if said is None else BEAT + frame(said))

    def _hears(self) -> bool:
        # Not while we read nothing. And who reads slowly gets to our ping late, but
        # check_progress follows that it reads at all.
        return self._inbox is None and self._progress is None

    def _give_up(self) -> None:
        logger.info("%s: no sign of life; closing", self._peer())
        self._transport.abort()

    def probe(self) -> None:
        """Ping now, and give up unless something is heard soon."""
        self._heard = False
        self._transport.write(BEAT)
        asyncio.get_running_loop().call_later(CLOSE_TIME, self._check_probe)

    def _check_probe(self) -> None:
        if not self._heard and self._connection is not None and self._hears():
            self._give_up()

    def check_progress(self, now: float) -> None:
        """Cut off a peer that stopped reading: pings don't notice it."""
        assert self._progress is not None
        pending, since = self._progress
        left = self._pending()
        if left < pending:
            self._progress = (left, now)
        elif now - since > self.hub.limits.slow_time:
            logger.warning("%s: stopped reading; cutting it off", self._peer())
            self._transport.abort()

    def _pending(self) -> int:
        """Bytes that are on their way: in our buffer, and in the kernel's."""
        return self._transport.get_write_buffer_size() + unsent(self._transport)

    def _peer(self) -> str:
        if self._connection is not None:
            return self._connection.peer
        return str(Peer(*peer_name(self._transport)))


class _Carrier:
    """What a session may do with a WebSocket. ``write`` is the transport's own."""

    __slots__ = ("guest", "probe", "refuse", "write")

    def __init__(self, socket: WebSocket) -> None:
        assert socket._guest is not None
        self.guest = socket._guest
        self.write: Any = socket._transport.write
        self.probe: Any = socket.probe
        self.refuse: Any = socket.refuse
