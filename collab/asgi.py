"""A connection over the ``websocket`` scope of any ASGI server.

This is how an application that embeds us serves rooms: nothing is needed from its
server, and it is slower, as ASGI hides the transport. The server below is in charge of
frames and pings; :mod:`collab.websocket` is what to compare with.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from weakref import WeakValueDictionary

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from .auth import Visitor, select_subprotocol
from .connecting import connect
from .connection import Connection
from .dialects import native, yjs
from .dialects.hocuspocus import Address
from .dialects.native import Numbered
from .errors import CollabError, FrameTooBig, TooMany, Unavailable
from .frames import CUSTOM, Speaker
from .headers import SAFE
from .hub import Hub
from .limits import check_name
from .messages import Message, Stateless
from .proxies import Peer
from .quotas import Guest

logger = logging.getLogger("collab.asgi")


class Payloads:
    """Messages of a dialect as the contents of WebSocket messages, one each."""

    def __init__(self, spell: Callable[[Message], bytes] = yjs.encode) -> None:
        self.spell = spell
        self.base: Payloads = self
        self.shared = True

    def encode(self, message: Message) -> bytes:
        """Encode one message."""
        return self.spell(message)

    def encode_state(self, message: Message) -> bytes:
        """Encode one message. Whether to compress it is the server's decision."""
        return self.spell(message)

    def seal(self, state: bytes) -> bytes:
        """Nothing is to be added to what :meth:`encode_state` returned."""
        return state

    def join(self, encoded: Sequence[bytes]) -> Sequence[bytes]:
        """A write is a list of messages."""
        return encoded


class Said(bytes):
    """The UTF-8 of a text message, among binary ones."""


class TextPayloads(Payloads):
    """Those of y-partyserver, which has an application's own messages as texts."""

    def __init__(self, base: Payloads) -> None:
        super().__init__()
        self.base = base

    def encode(self, message: Message) -> bytes:
        """Encode one message."""
        if isinstance(message, Stateless):
            return Said(f"{CUSTOM}{message.payload}".encode())
        return super().encode(message)


class AddressedPayloads(Payloads):
    """Those with an address, or a channel."""

    def __init__(self, speaker: Speaker, base: Payloads, shared: bool) -> None:
        super().__init__(speaker.encode)
        self.speaker = speaker
        self.base = base
        self.shared = shared

    def seal(self, state: bytes) -> bytes:
        """Put the prefix in front."""
        return self.speaker.prefix + state


class PayloadEncodings:
    """How messages look, in each dialect."""

    def __init__(self) -> None:
        self.yjs = Payloads()
        self.text = TextPayloads(self.yjs)
        self.native = Payloads(native.encode)
        self._addressed: WeakValueDictionary[bytes, AddressedPayloads]
        self._addressed = WeakValueDictionary()
        self._numbered: WeakValueDictionary[int, AddressedPayloads]
        self._numbered = WeakValueDictionary()

    def addressed(self, address: bytes) -> AddressedPayloads:
        """As Hocuspocus has them: the same encoding for all with the same address."""
        encoding = self._addressed.get(address)
        if encoding is None:
            speaker = Address.of(address)
            encoding = AddressedPayloads(speaker, self.yjs, speaker.shared)
            self._addressed[address] = encoding
        return encoding

    def numbered(self, channel: int) -> AddressedPayloads:
        """As our own clients have them: the same encoding for all on a channel."""
        encoding = self._numbered.get(channel)
        if encoding is None:
            encoding = AddressedPayloads(Numbered.of(channel), self.native, shared=True)
            self._numbered[channel] = encoding
        return encoding


ENCODINGS = PayloadEncodings()


async def serve_websocket(hub: Hub, websocket: WebSocket) -> None:
    """Serve one client, from its handshake to its end."""
    reception = hub.reception
    peer = reception.locate_scope(websocket.scope)
    try:
        name = _document_name(websocket.scope)
        if name is None:
            await _refuse(websocket, 404, "No WebSocket here: try /ws.")
            return
        reception.check_scope(websocket.scope, peer)
        hub.check()
        guest = reception.admit(peer)
    except CollabError as exc:
        logger.info("refusing %s: %s", peer, exc)
        later = {"Retry-After": "5"} if isinstance(exc, Unavailable | TooMany) else None
        await _refuse(websocket, exc.http_status, exc.reason, later)
        return
    offered = websocket.scope.get("subprotocols") or ()
    visitor = visitor_of(websocket, peer, offered)
    chosen = select_subprotocol(offered)
    try:
        await websocket.accept(subprotocol=chosen)
        await _Socket(hub, websocket, name, chosen, visitor, guest).run()
    finally:
        guest.leave()


def visitor_of(
    connection: HTTPConnection, peer: Peer, offered: Sequence[str] = ()
) -> Visitor:
    """What a request says of who comes."""
    query = connection.scope.get("query_string", b"").decode("latin-1")
    return Visitor.of(str(peer), connection.headers.items(), query, offered)


def _document_name(scope: Scope) -> str | None:
    """The document that a path names, as ``connection.document_name`` says.

    Raises:
        BadName: If what it names cannot be a document.
    """
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path in ("/ws", "/ws/"):
        return ""
    if not path.startswith("/ws/"):
        return None
    return check_name(path.removeprefix("/ws/"))


async def _refuse(
    websocket: WebSocket,
    status: int,
    reason: str,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer a handshake, with a 403 where the server can say nothing else."""
    if "websocket.http.response" in (websocket.scope.get("extensions") or {}):
        response = PlainTextResponse(f"{reason}\n", status, {**SAFE, **(headers or {})})
        await websocket.send_denial_response(response)
    else:
        await websocket.close()


CLOSE_TIME = 5.0
"""Seconds to wait for a close frame to leave: a peer that doesn't read takes none."""

SLOWEST = 32 * 1024
"""Bytes per second that a peer must read: ASGI says when a message has left, and not
how much of it, so a large one is given the time it takes."""


class Outlet(ABC):
    """What one client is told. ASGI sends with an await, so each has a task for it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.queue: deque[bytes] = deque()
        self.queued = 0
        self.full = False
        self.deadline = 0.0
        """When what is being sent must have left, if it is full."""
        self.failure: CollabError | None = None
        self.ended = False
        self.finished = False
        """Whether nothing will be added to the queue."""
        self.wake = asyncio.Event()
        self.connection: Connection

    @abstractmethod
    async def _pass(self, payload: bytes) -> None:
        """Have the server send something.

        Raises:
            WebSocketDisconnect, RuntimeError, OSError: If the client is gone.
        """

    @abstractmethod
    def _end(self) -> None:
        """End it soon."""

    def _leave(self, spoke: int, goodbye: bool) -> None:
        self.ended = True  # Whoever still fails has nothing to add.
        self.hub.wheel.remove(self, spoke)
        self.connection.close(goodbye)

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        before = 0  # Bytes that the server may still have.
        try:
            while True:
                await self.wake.wait()
                self.wake.clear()
                while self.queue:
                    payload = self.queue.popleft()
                    patience = (before + len(payload)) / SLOWEST
                    self.deadline = loop.time() + self.hub.limits.slow_time + patience
                    await self._pass(payload)
                    before = len(payload)
                    self.queued -= before
                    if self.full and not self.queue:
                        self.full = False
                        self.hub.wheel.full.discard(self)
                        self.connection.drained()
                if self.finished:
                    return
        except (WebSocketDisconnect, RuntimeError, OSError):
            # Gone. What it said before is still to be heard, and then that it is gone.
            self.connection.mute()
        except CollabError as exc:
            self.failure = exc
            self._end()

    # What a session and the hub call.

    def write(self, encoded: Sequence[bytes]) -> None:
        """Send messages, in order."""
        self.queue.extend(encoded)
        self.queued += sum(map(len, encoded))
        self.wake.set()
        if self.queued > self.hub.limits.slow_size and not self.full:
            self.full = True
            patience = asyncio.get_running_loop().time() + self.hub.limits.slow_time
            self.deadline = max(self.deadline, patience)
            self.hub.wheel.full.add(self)
            self.connection.filled()

    def refuse(self, error: CollabError) -> None:
        """Close, and say why."""
        self.failure = error
        self._end()

    def probe(self) -> None:  # noqa: B027
        """Nothing to be done: pings are the server's."""

    def beat(self) -> None:
        """Say something that the client counts as a message."""
        said = None if self.full else self.connection.beat()
        if said is not None:
            self.write([said])

    def advise(self, after: float, window: float) -> None:
        """Tell the client to move elsewhere, if it can be told."""
        self.connection.advise(after, window)

    def check_progress(self, now: float) -> None:
        """Cut off a peer that stopped reading."""
        if now > self.deadline and not self.ended:
            logger.warning("%s: stopped reading; cutting it off", self.connection.peer)
            self._end()


class _Socket(Outlet):
    """One WebSocket."""

    def __init__(
        self,
        hub: Hub,
        websocket: WebSocket,
        name: str,
        subprotocol: str | None,
        visitor: Visitor,
        guest: Guest,
    ) -> None:
        super().__init__(hub)
        self.guest = guest
        self.websocket = websocket
        self.connection = connect(hub, name, subprotocol, ENCODINGS, self, visitor)

    async def run(self) -> None:
        spoke = self.hub.wheel.add(self)
        self.receiver = asyncio.current_task()
        sender = self.hub.spawn(self._send())
        goodbye = False
        try:
            waiting = self.connection.open()
            if waiting is not None:
                await waiting
            await self._receive()
        except WebSocketDisconnect as exc:
            # Not 1005: uvicorn says that too of a socket that died. Who leaves by an
            # empty close frame stays visible for a while, unless it said that it goes.
            goodbye = exc.code in (1000, 1001)
        except CollabError as exc:
            self.failure = exc
        except asyncio.CancelledError:
            if not self.ended:
                raise
            # By ourselves: the server closes what its application has left.
        finally:
            self._leave(spoke, goodbye)
            sender.cancel()
        if self.failure is not None:
            self.connection.blame(self.failure)
            await self._close(self.failure)

    async def _receive(self) -> None:
        limit = self.hub.limits.frame_size
        while True:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event.get("code", 1006))
            payload = event.get("bytes")
            size = len(event["text"] if payload is None else payload)
            delay = self.guest.pace.spend(1, size, perf_counter())
            if delay:
                await asyncio.sleep(delay)
            if payload is None:
                said = event["text"].encode(errors="replace")
                if len(said) > limit:
                    raise FrameTooBig(len(said), limit)
                self.connection.receive_text(said)
                continue
            if len(payload) > limit:
                raise FrameTooBig(len(payload), limit)
            waiting = self.connection.receive(payload)
            if waiting is not None:
                await waiting

    async def _pass(self, payload: bytes) -> None:
        if isinstance(payload, Said):
            await self.websocket.send_text(payload.decode())
        else:
            await self.websocket.send_bytes(payload)

    async def _close(self, error: CollabError) -> None:
        # The other end may have been faster.
        with suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(CLOSE_TIME):
                await self.websocket.close(error.close_code, error.reason)

    def _end(self) -> None:
        if self.receiver is not None and not self.ended:
            self.ended = True
            self.receiver.cancel()
