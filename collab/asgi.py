"""A connection over the ``websocket`` scope of any ASGI server.

This is how an application that embeds us serves rooms: nothing is needed from its
server, and it is slower, as ASGI hides the transport. The server below is in charge of
frames and pings; :mod:`collab.websocket` is what to compare with.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType

from starlette.responses import PlainTextResponse
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from .connection import Connection, text_refused
from .dialects import yjs
from .errors import CollabError, FrameTooBig, Unavailable
from .hub import Hub
from .messages import Message
from .room import check_name

logger = logging.getLogger("collab.asgi")


class Payloads:
    """Messages as the contents of WebSocket messages, one each."""

    def __init__(self, dialect: ModuleType) -> None:
        self.dialect = dialect

    def encode(self, message: Message) -> bytes:
        """Encode one message."""
        encoded: bytes = self.dialect.encode(message)
        return encoded

    encode_state = encode
    """Whether and what to compress is the server's decision."""

    def join(self, encoded: Sequence[bytes]) -> Sequence[bytes]:
        """A write is a list of messages."""
        return encoded


PLAIN = Payloads(yjs)


async def serve_websocket(hub: Hub, websocket: WebSocket) -> None:
    """Serve one client, from its handshake to its end."""
    client = websocket.client
    peer = f"{client.host}:{client.port}" if client else "unknown"
    try:
        name = _document_name(websocket.scope)
        if name is None:
            await _refuse(websocket, 404, "No WebSocket here: try /ws/NAME.")
            return
        hub.check()
    except CollabError as exc:
        logger.info("refusing %s: %s", peer, exc)
        headers = {"Retry-After": "5"} if isinstance(exc, Unavailable) else None
        await _refuse(websocket, exc.http_status, exc.reason, headers)
        return
    offered = websocket.scope.get("subprotocols") or [None]
    await websocket.accept(subprotocol=offered[0])
    await _Socket(hub, websocket, name, peer).run()


def _document_name(scope: Scope) -> str | None:
    """The document that a path names; ``None`` if it is not below ``/ws/``.

    Raises:
        BadName: If what it names cannot be a document.
    """
    path = scope["path"].removeprefix(scope.get("root_path", ""))
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
        response = PlainTextResponse(f"{reason}\n", status, headers)
        await websocket.send_denial_response(response)
    else:
        await websocket.close()


CLOSE_TIME = 5.0
"""Seconds to wait for a close frame to leave: a peer that doesn't read takes none."""

SLOWEST = 32 * 1024
"""Bytes per second that a peer must read: ASGI says when a message has left, and not
how much of it, so a large one is given the time it takes."""


class _Socket:
    """One connection. ASGI sends with an await, so each has a task that sends."""

    def __init__(self, hub: Hub, websocket: WebSocket, name: str, peer: str) -> None:
        self.hub = hub
        self.websocket = websocket
        self.queue: deque[bytes] = deque()
        self.queued = 0
        self.full = False
        self.deadline = 0.0
        """When what is being sent must have left, if it is full."""
        self.failure: CollabError | None = None
        self.ended = False
        self.wake = asyncio.Event()
        self.connection = Connection(hub, name, yjs, PLAIN, self, peer)

    async def run(self) -> None:
        spoke = self.hub.add(self)
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

    def _leave(self, spoke: int, goodbye: bool) -> None:
        self.hub.remove(self, spoke)
        self.connection.close(goodbye)

    async def _receive(self) -> None:
        limit = self.hub.limits.frame_size
        while True:
            event = await self.websocket.receive()
            if event["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(event.get("code", 1006))
            payload = event.get("bytes")
            if payload is None:
                raise text_refused()
            if len(payload) > limit:
                raise FrameTooBig(len(payload), limit)
            waiting = self.connection.receive(payload)
            if waiting is not None:
                await waiting

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
                    await self.websocket.send_bytes(payload)
                    before = len(payload)
                    self.queued -= before
                    if self.full and not self.queue:
                        self.full = False
                        self.hub.full.discard(self)
                        self.connection.drained()
        except (WebSocketDisconnect, RuntimeError):
            # Gone. What it said before is still to be heard, and then that it is gone.
            self.connection.mute()
        except CollabError as exc:
            self.failure = exc
            self._end()

    async def _close(self, error: CollabError) -> None:
        # The other end may have been faster.
        with suppress(RuntimeError, TimeoutError, WebSocketDisconnect):
            async with asyncio.timeout(CLOSE_TIME):
                await self.websocket.close(error.close_code, error.reason)

    def _end(self) -> None:
        if self.receiver is not None and not self.ended:
            self.ended = True
            self.receiver.cancel()

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
            self.hub.full.add(self)
            self.connection.filled()

    def refuse(self, error: CollabError) -> None:
        """Close, and say why."""
        self.failure = error
        self._end()

    def probe(self) -> None:
        """Nothing to be done: pings are the server's."""

    def beat(self) -> None:
        """Say something that y-websocket counts as a message."""
        if not self.full:
            self.write([yjs.KEEPALIVE])

    def check_progress(self, now: float) -> None:
        """Cut off a peer that stopped reading."""
        if now > self.deadline and not self.ended:
            logger.warning("%s: stopped reading; cutting it off", self.connection.peer)
            self._end()
