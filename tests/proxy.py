"""A TCP proxy in front of a server on this machine, with the faults of a network.

::

    with Proxy(server.port) as proxy:
        connect(proxy.port)
        proxy.hang()        # nothing gets through
        proxy.mend()        # what was held does

It runs in a thread of its own. A fault is there when the call returns, for open
connections and new ones, until ``mend``; faults can be combined. Those that begin with
``cut_`` happen once. A connection that is cut is reset (RST) on both sides.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self

from tests.databases import free_port

CHUNK = 1 << 20
"""Bytes that are read at once, at most."""

PATTERN_SIZE = 100
"""Bytes of the longest pattern that is found when it comes in pieces."""

DELIVERY_TIME = 1.0
"""Seconds for bytes to arrive, before a reset: nobody may be reading."""

P = ParamSpec("P")


def in_loop(
    method: Callable[Concatenate[Proxy, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[Proxy, P], None]:
    """Make a coroutine of the proxy's loop a method for other threads."""

    @wraps(method)
    def call(self: Proxy, /, *args: P.args, **kwargs: P.kwargs) -> None:
        done = method(self, *args, **kwargs)
        asyncio.run_coroutine_threadsafe(done, self.loop).result()

    return call


class Cut(Exception):
    """Raised in a connection that is to be reset."""


@dataclass
class Budget:
    """Bytes that may pass until a connection is cut, if there is a limit."""

    left: int | None = None

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What of it may pass, and whether the connection is cut behind that."""
        if self.left is None:
            return data, False
        data = data[: self.left]
        self.left -= len(data)
        if self.left:
            return data, False
        self.left = None
        return data, True


@dataclass
class Way:
    """One of the two directions."""

    passed: int = 0
    """Bytes that were passed on."""
    delay: float = 0.0
    budget: Budget = field(default_factory=Budget)
    """For whichever connection brings them."""
    budgets: deque[int] = field(default_factory=deque)
    """For each of the next connections, one."""


@dataclass
class Pipe:
    """One direction of a connection."""

    source: socket.socket
    target: socket.socket
    way: Way
    budget: Budget
    tail: bytes = b""

    def brings(self, pattern: bytes, data: bytes) -> bool:
        """Whether a pattern comes to its end in this data; not if it is empty."""
        seen = self.tail[len(self.tail) - len(pattern) + 1 :] if pattern else b""
        return bool(pattern) and pattern in seen + data


@dataclass(eq=False)
class Link:
    """One connection."""

    asked: bool = False
    """Whether the next answer is the one that cuts it."""
    lossy: bool = False
    """Whether an answer was dropped: what follows makes no sense without it."""
    idle: asyncio.TimerHandle | None = None
    """Cuts it unless something comes before."""


class Proxy:
    """Passes on to a port of this machine what comes to ``port``."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.connections = 0
        """Connections that were accepted."""
        self.cuts = 0
        """Connections that were cut."""
        self.to_server = Way()
        self.to_client = Way()
        self.rate = 0
        self.gathered = 0
        self.gathering_time = 0.0
        self.idle_time = 0.0
        self.dropping = False
        self.answer = b""
        self.request = b""
        self.links: dict[asyncio.Task[None], Link] = {}
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.listener: socket.socket | None = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="proxy")

    def __enter__(self) -> Self:
        self.thread.start()
        self.mend()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.refuse()
        self.cut()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self.links)

    # --- faults

    @in_loop
    async def mend(self) -> None:
        """Let everything pass again; connections that lost answers are cut."""
        await self._cut([task for task, link in self.links.items() if link.lossy])
        for way in (self.to_server, self.to_client):
            way.delay = 0.0
            way.budget = Budget()
            way.budgets.clear()
        self.rate = self.gathered = 0
        self.idle_time = 0.0
        for task, link in self.links.items():
            link.asked = False
            self._stir(task, link)
        self.dropping = False
        self.answer = self.request = b""
        self.flowing.set()
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port))
            self.listener.setblocking(False)
            self.loop.add_reader(self.listener, self._accept)

    @in_loop
    async def refuse(self) -> None:
        """Stop listening: who connects is refused. Open connections stay."""
        if self.listener is not None:
            self.loop.remove_reader(self.listener)
            self.listener.close()
            self.listener = None

    @in_loop
    async def cut(self) -> None:
        """Cut all connections now; what is held is lost."""
        await self._cut(list(self.links))

    @in_loop
    async def hang(self) -> None:
        """Accept connections and pass nothing on, not even that one ends.

        What comes meanwhile is held, and passed on after ``mend``.
        """
        self.flowing.clear()

    @in_loop
    async def delay(self, *, to_server: float = 0.0, to_client: float = 0.0) -> None:
        """Hold what comes for so many seconds."""
        self.to_server.delay = to_server
        self.to_client.delay = to_client

    @in_loop
    async def limit(self, rate: int) -> None:
        """Pass on so many bytes per second, per connection and direction."""
        self.rate = rate

    @in_loop
    async def buffer(self, size: int, seconds: float) -> None:
        """Hold what comes until it is so much, or has been held for so long."""
        self.gathered = size
        self.gathering_time = seconds

    @in_loop
    async def cut_idle(self, seconds: float) -> None:
        """Cut each connection on which nothing comes, either way, for so long."""
        self.idle_time = seconds
        for task, link in self.links.items():
            self._stir(task, link)

    @in_loop
    async def drop_replies(self) -> None:
        """Let everything reach the server, and nothing of what it says the client."""
        self.dropping = True

    @in_loop
    async def cut_at(
        self, *, to_server: int | None = None, to_client: int | None = None
    ) -> None:
        """Cut the connection that brings the n-th byte from now on, behind that.

        After 0 bytes: at the first one, which does not pass.
        """
        self.to_server.budget = Budget(to_server)
        self.to_client.budget = Budget(to_client)

    @in_loop
    async def cut_each_at(
        self, *, to_server: Iterable[int] = (), to_client: Iterable[int] = ()
    ) -> None:
        """Cut each of the next connections behind so many bytes of its own.

        The first of them behind the first number, and so on.
        """
        self.to_server.budgets.extend(to_server)
        self.to_client.budgets.extend(to_client)

    @in_loop
    async def cut_after(self, answer: bytes) -> None:
        """Cut when the server has said this; the client does not hear it.

        PostgreSQL says ``b"COMMIT\\0"``. Of an answer that comes in pieces, only the
        last one is held back.
        """
        self.answer = answer

    @in_loop
    async def cut_answer_to(self, request: bytes) -> None:
        """Cut when the server answers this, whatever it says; the client hears nothing.

        Requests must wait for each other's answers.
        """
        self.request = request

    # --- in the loop

    async def _cut(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.cuts += len(tasks)

    def _accept(self) -> None:
        assert self.listener is not None
        with suppress(OSError):
            client, _ = self.listener.accept()
            prepare(client)
            self.connections += 1
            link = Link()
            task = self.loop.create_task(self._serve(client, link))
            self.links[task] = link
            task.add_done_callback(self._ended)
            self._stir(task, link)

    def _ended(self, task: asyncio.Task[None]) -> None:
        link = self.links.pop(task)
        if link.idle is not None:
            link.idle.cancel()

    def _stir(self, task: asyncio.Task[None], link: Link) -> None:
        """Note that something came."""
        if link.idle is not None:
            link.idle.cancel()
            link.idle = None
        if self.idle_time:
            link.idle = self.loop.call_later(self.idle_time, self._expire, task)

    def _expire(self, task: asyncio.Task[None]) -> None:
        self.cuts += 1
        task.cancel()

    async def _serve(self, client: socket.socket, link: Link) -> None:
        """Pass on what comes until both sides have ended, or there is a fault."""
        server = socket.socket()
        prepare(server)
        serving = asyncio.current_task()
        assert serving is not None
        try:
            await self.loop.sock_connect(server, ("127.0.0.1", self.target))
            async with asyncio.TaskGroup() as group:
                for source, target, way in (
                    (client, server, self.to_server),
                    (server, client, self.to_client),
                ):
                    budget = Budget(way.budgets.popleft() if way.budgets else None)
                    pipe = Pipe(source, target, way, budget)
                    group.create_task(self._pass_on(pipe, link, serving))
            reset_at_close(client, False)
            reset_at_close(server, False)
        except* Cut:
            self.cuts += 1
        except* OSError:
            pass  # A side is gone, and the other one will be.
        finally:
            client.close()
            server.close()

    async def _pass_on(
        self, pipe: Pipe, link: Link, serving: asyncio.Task[None]
    ) -> None:
        way = pipe.way
        replies = way is self.to_client
        size = CHUNK
        while data := await self.loop.sock_recv(pipe.source, size):
            self._stir(serving, link)
            if self.gathered:
                data += await self._gather(pipe.source, len(data))
            await asyncio.sleep(way.delay + (len(data) / self.rate if self.rate else 0))
            await self.flowing.wait()
            if replies:
                self._judge(pipe, link, data)
            elif pipe.brings(self.request, data):
                self.request = b""
                link.asked = True
            pipe.tail = (pipe.tail + data)[-PATTERN_SIZE:]
            if replies and self.dropping:
                link.lossy = True
                continue
            data, last = pipe.budget.take(data)
            if not last:
                data, last = way.budget.take(data)
            # Counted first: whoever has heard it may look at the count.
            way.passed += len(data)
            await self.loop.sock_sendall(pipe.target, data)
            if last:
                await delivery(pipe.target)
                raise Cut
            # Twenty times per second, when the rate is limited.
            size = max(1, self.rate // 20) if self.rate else CHUNK
        await self.flowing.wait()
        pipe.target.shutdown(socket.SHUT_WR)

    async def _gather(self, source: socket.socket, size: int) -> bytes:
        """What comes until it is enough, or late, or the end."""
        more = b""
        until = self.loop.time() + self.gathering_time
        while size + len(more) < self.gathered:
            if not await self._readable(source, until - self.loop.time()):
                break
            data = source.recv(CHUNK)
            if not data:
                break
            more += data
        return more

    async def _readable(self, source: socket.socket, seconds: float) -> bool:
        """Whether there is something to read before so many seconds have passed."""
        ready = asyncio.Event()
        self.loop.add_reader(source, ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        except TimeoutError:
            return False
        finally:
            self.loop.remove_reader(source)
        return True

    def _judge(self, pipe: Pipe, link: Link, data: bytes) -> None:
        """Look at what the server says.

        Raises:
            Cut: If it is what the client must not hear.
        """
        if link.asked:
            raise Cut
        if pipe.brings(self.answer, data):
            self.answer = b""
            raise Cut


def prepare(one: socket.socket) -> None:
    """Let it pass on what is small at once, and be reset unless all ends well."""
    one.setblocking(False)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reset_at_close(one, True)


def reset_at_close(one: socket.socket, yes: bool) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", yes, 0))


async def delivery(target: socket.socket) -> None:
    """Wait until the other side's kernel has what we sent, which a reset would lose."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DELIVERY_TIME):
            while any(fcntl.ioctl(target, termios.TIOCOUTQ, bytes(4))):
                await asyncio.sleep(0.001)
