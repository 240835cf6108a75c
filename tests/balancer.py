"""A balancer in front of several servers on this machine, as they stand in production.

::

    with Balancer(one.port, two.port) as balancer:
        connect(balancer.port)

It asks each server at ``/readyz`` all the time, and passes each new connection on to
the next one that is ready, and to another one if it is refused there: as HAProxy does
with ``option httpchk`` and ``option redispatch``. It runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.databases import free_port

PAUSE = 0.1
"""Seconds between two questions to a server."""

CHECK_TIME = 2.0
"""Seconds that it has to answer."""

CHUNK = 1 << 16


class Balancer:
    """Passes on to servers that are ready what comes to ``port``."""

    def __init__(self, *targets: int) -> None:
        self.port = free_port()
        self.ready: list[int] = []
        """The ports of those that are, the next one first."""
        self.open: Counter[int] = Counter()
        """Connections that are open now, by the port of the server."""
        self.refused = 0
        """Connections for which there was no server."""
        self._targets = targets
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="balancer")

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(
            self._pass_on, "127.0.0.1", self.port, backlog=1000
        )
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(self._check(port)) for port in self._targets]
            self._started.set()
            await self._stop.wait()
            server.close()
            for check in checks:
                check.cancel()

    async def _check(self, port: int) -> None:
        """Ask a server all the time whether it is ready."""
        while True:
            if not await is_ready(port):
                self._is_down(port)
            elif port not in self.ready:
                self.ready.append(port)
            await asyncio.sleep(PAUSE)

    def _is_down(self, port: int) -> None:
        if port in self.ready:
            self.ready.remove(port)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while self.ready:
                port = self.ready.pop(0)
                self.ready.append(port)
                try:
                    server = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    self._is_down(port)
                    continue
                self.open[port] += 1
                try:
                    await join((reader, writer), server)
                finally:
                    self.open[port] -= 1
                return
            self.refused += 1
        except asyncio.CancelledError:
            pass  # The end; asyncio would complain of it.
        finally:
            writer.transport.abort()


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def join(one: Stream, other: Stream) -> None:
    """Pass on what comes in both directions, until one of them ends."""
    ways = [copy(one[0], other[1]), copy(other[0], one[1])]
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # The other side may still have something to say to that.
        await asyncio.wait(tasks, timeout=CHECK_TIME)
    finally:
        for task in tasks:
            task.cancel()
        other[1].transport.abort()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def is_ready(port: int) -> bool:
    """Whether a server says that it takes new clients."""
    try:
        async with asyncio.timeout(CHECK_TIME):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False
