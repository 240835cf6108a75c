"""An HTTP proxy in front of a server on this machine, as companies have them.

::

    with Gateway(server.port) as gateway:
        gateway.sockets = "refused"   # WebSockets are answered with 403
        connect(gateway.port)

It runs in a thread of its own. What is set counts for requests that come then; those
that are under way go on, unless they are cut.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

CHUNK = 1 << 16
"""Bytes that are read at once, at most."""

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

DELAY = 1.0
"""Seconds that a request may be held when requests overtake each other."""


@dataclass
class Request:
    """A request, read whole."""

    line: bytes
    headers: list[bytes]
    body: bytes

    @property
    def path(self) -> str:
        return self.line.split()[1].decode().split("?")[0]

    @property
    def upgrades(self) -> bool:
        return any(one.lower().startswith(b"upgrade:") for one in self.headers)

    def encode(self) -> bytes:
        """The same, as the last one of its connection."""
        headers = self.headers
        if not self.upgrades:
            headers = [
                one for one in headers if not one.lower().startswith(b"connection:")
            ] + [b"Connection: close"]
        return b"\r\n".join([self.line, *headers, b"", b""]) + self.body


class Gateway:
    """Passes on to a port of this machine the requests that come to ``port``."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target = target
        self.port = 0
        self.sockets: Literal["open", "refused", "mute"] = "open"
        """Whether WebSockets pass, are refused, or begin and bring nothing."""
        self.keeping: frozenset[str] = frozenset()
        """Ends of paths, the responses of which are kept back until they are whole."""
        self.loss = 0.0
        """The share of POSTs that are lost, or whose answers are, or come twice."""
        self.paths: list[str] = []
        """What was asked for, in order."""
        self.random = random.Random(seed)
        self.tasks: set[asyncio.Task[None]] = set()
        self.tunnels: set[asyncio.Task[None]] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="gateway")

    def __enter__(self) -> Self:
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def asked(self, end: str) -> int:
        """How often a path was asked for."""
        return sum(path.endswith(end) for path in self.paths)

    def cut_sockets(self) -> None:
        """Cut all WebSockets that are open."""

        async def cut() -> None:
            for task in self.tunnels:
                task.cancel()

        asyncio.run_coroutine_threadsafe(cut(), self.loop).result()

    # --- in the loop

    async def _start(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # A side is gone, or the test is over.
        finally:
            self.tasks.discard(task)
            self.tunnels.discard(task)
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the one request of a connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *headers = head[:-4].split(b"\r\n")
        lengths = [one for one in headers if one.lower().startswith(b"content-length:")]
        size = int(lengths[0].split(b":")[1]) if lengths else 0
        request = Request(line, headers, await reader.readexactly(size))
        self.paths.append(request.path)
        if request.upgrades:
            await self._tunnel(request, reader, writer)
        elif line.startswith(b"POST") and self.loss:
            await self._fail(request, reader, writer)
        else:
            await self._forward(request, reader, writer)

    async def _tunnel(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if self.sockets == "refused":
            writer.write(REFUSAL)
            await writer.drain()
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self.tunnels.add(task)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        to_server.write(request.encode())
        try:
            writer.write(await from_server.readuntil(b"\r\n\r\n"))
            if self.sockets == "mute":
                await asyncio.Event().wait()
            async with asyncio.TaskGroup() as group:
                group.create_task(pass_on(reader, to_server))
                group.create_task(pass_on(from_server, writer))
        finally:
            to_server.transport.abort()

    async def _fail(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Let a request be late, and perhaps lost, or unanswered, or come twice."""
        await asyncio.sleep(self.random.random() * DELAY / 10)
        chance = self.random.random()
        if chance < self.loss / 3:
            return
        if chance < self.loss * 2 / 3:
            await self._forward(request, reader, None)
            return
        if chance < self.loss:
            late = asyncio.create_task(self._repeat(request))
            self.tasks.add(late)
            late.add_done_callback(self.tasks.discard)
        await self._forward(request, reader, writer)

    async def _repeat(self, request: Request) -> None:
        await asyncio.sleep(self.random.random() * DELAY)
        with suppress(OSError, EOFError):
            await self._forward(request, None, None)

    async def _forward(
        self,
        request: Request,
        reader: asyncio.StreamReader | None,
        writer: asyncio.StreamWriter | None,
    ) -> None:
        """Ask the server, and pass on what it answers, if anybody is to hear it."""
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        ways: list[asyncio.Task[object]] = []
        try:
            to_server.write(request.encode())
            if writer is None:
                # Of a response that lasts, only what it begins with is waited for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(DELAY):
                        await from_server.read(-1)
                return
            assert reader is not None
            # Nothing more comes from a client but its end.
            ways.append(asyncio.create_task(reader.read(1)))
            answering = self._answer(request, from_server, writer)
            ways.append(asyncio.create_task(answering))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _answer(
        self,
        request: Request,
        from_server: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        writer.write(await from_server.readuntil(b"\r\n\r\n"))
        await writer.drain()
        if request.path.endswith(tuple(self.keeping)):
            writer.write(await from_server.read(-1))
        else:
            while data := await from_server.read(CHUNK):
                writer.write(data)
                await writer.drain()
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends."""
    while data := await source.read(CHUNK):
        target.write(data)
        await target.drain()
    target.write_eof()
