"""An echo server around the server's own WebSockets, as the Autobahn test suite wants.

The protocol class, HTTP in front of it, negotiation and compression are those of
``collab serve``. What stands behind a connection is replaced: rooms don't echo.
``python -m tests.autobahn.echo PORT`` serves until it is told to stop.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from websockets.server import ServerProtocol

from collab.app import Collab
from collab.auth import Visitor
from collab.connection import Connection
from collab.errors import CollabError, NotText
from collab.frames import Frames, frame
from collab.handshake import encodings, http_class
from collab.messages import Message, Update
from collab.websocket import WebSocket


def spell(message: Message) -> bytes:
    """An echo has no dialect."""
    assert isinstance(message, Update)
    return message.update


class Echo:
    """A connection that says what it hears."""

    peer = "Autobahn"

    def __init__(self, transport: asyncio.Transport, frames: Frames) -> None:
        self.transport = transport
        self.frames = frames

    def open(self) -> None:
        """Nobody has to be let in."""

    def receive(self, payload: bytes) -> None:
        """Say it again."""
        self.transport.write(self.frames.encode_state(Update(payload)))

    def receive_text(self, payload: bytes) -> None:
        """Say it again, if it is text."""
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise NotText("text message is not UTF-8") from None
        self.transport.write(frame(payload, 0x81))

    def beat(self) -> bytes | None:
        """Pings will do."""
        return None

    def advise(self, after: float, window: float) -> bool:
        """There is no word for it."""
        return False

    def filled(self) -> None:
        """The suite reads what it is sent."""

    def drained(self) -> None:
        """The suite reads what it is sent."""

    def mute(self) -> None:
        """Nobody says anything by itself."""

    def close(self, goodbye: bool) -> None:
        """There is nothing to leave."""

    def blame(self, error: CollabError) -> None:
        """The suite keeps its own log."""


class EchoSocket(WebSocket):
    """The server's WebSocket with an echo behind it."""

    __slots__ = ()

    def _connect(
        self, protocol: ServerProtocol, name: str, visitor: Visitor
    ) -> Connection:
        return Echo(self._transport, Frames(encodings(protocol).yjs.deflate, spell))


@asynccontextmanager
async def serving(folder: Path, port: int = 0) -> AsyncIterator[int]:
    """An echo server on our event loop, and its port."""
    async with Collab(f"sqlite:///{folder / 'collab.db'}") as collab:
        kind = type("HubEchoSocket", (EchoSocket,), {"hub": collab.hub})
        config = uvicorn.Config(
            collab,
            port=port,
            http=http_class(collab.hub.limits),
            ws=kind,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        try:
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            await server.shutdown()


async def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), port) as port:
            print(port, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
