"""``collab.v1`` over HTTP, for networks without WebSockets.

A client says what it has to say in pushes, and hears what happens in the response to
another request: a stream, or one poll after the other.
Reference: ``docs/protocol.md``, "Over HTTP".
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import wire
from .asgi import CLOSE_TIME, ENCODINGS, SLOWEST, Outlet, visitor_of
from .auth import Visitor
from .dialects import native
from .errors import (
    BadRequest,
    CollabError,
    FrameTooBig,
    ProtocolError,
    QuotaExceeded,
    RequestTooSlow,
    TooMany,
    Unavailable,
)
from .handshake import http_of
from .hub import Hub
from .limits import Limits
from .messages import Ended, Hello, Identity, Open, Resume
from .opening import take_turns
from .quotas import Guest
from .requested import Listener, Speaker
from .wheel import MOVING

logger = logging.getLogger("collab.polling")

KEY = range(16, 65)
"""Bytes that a key may have."""

SAVING = 20.0
"""Seconds after which a push is answered, whatever is saved by then."""

LONGEST = 25
"""Seconds that a poll waits for something new, unless it wants less."""

WAITS = frozenset(map(str, range(1, LONGEST + 1)))
"""As they are spelled."""

LIFETIME = 300.0
"""Seconds after which a stream is complete. A client that died without a word has left
by then, and its access was decided anew."""

COLLECT = 0.02
"""Seconds that a poll goes on when there is something new: a burst is one answer."""

COLLECT_PRESENCE = 0.1
"""The same, if all that is new is who is here: it is new nearly always."""

TYPE = "application/octet-stream"
"""Of bodies. Pages of other origins can send it only after they asked: see CORS."""

HEADERS = {
    "Access-Control-Expose-Headers": "Retry-After",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_PONG, _OPENED, _SYNCED, _PRESENCE = 1, 0, 7, 3  # Kinds, as docs/protocol.md has them.


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    visitor: Visitor
    guest: Guest
    headers: Mapping[str, str]
    """What the response says to their browser."""


class _Push:
    """What somebody says, and what they are answered, all at once."""

    def __init__(self, hub: Hub, caller: Caller) -> None:
        self.hub = hub
        self.guest = caller.guest
        self.connection = Speaker(hub, ENCODINGS, self, caller.visitor)
        self._said: list[bytes] = []
        self._size = 0
        self._refused: asyncio.Future[CollabError]
        self._refused = asyncio.get_running_loop().create_future()

    async def answer(self, body: bytes) -> bytes:
        """Take what was said; return what is answered.

        Raises:
            CollabError: If something was said that ends it all.
        """
        work = self.hub.spawn(self._work(body))
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({work, self._refused}, timeout=SAVING, return_when=first)
            if self._refused.done():
                raise self._refused.result()
            if work.done():
                work.result()
            return b"".join(map(wire.data, self._said + self.connection.take_answers()))
        finally:
            work.cancel()
            self.connection.close(goodbye=False)

    async def _work(self, body: bytes) -> None:
        waiting = self.connection.receive(body)
        if waiting is not None:
            await waiting
        # Who is too fast hears late that it may go on.
        await asyncio.sleep(self.guest.pace.spend(1, len(body), perf_counter()))
        await self.connection.settle()

    # What a session and the hub call.

    def write(self, encoded: Sequence[bytes]) -> None:
        """Keep messages for the answer."""
        self._said += encoded
        self._size += sum(map(len, encoded))
        if self._size > self.hub.limits.owed_size:
            self.refuse(QuotaExceeded("bytes to answer", self.hub.limits.owed_size))

    def refuse(self, error: CollabError) -> None:
        """Answer nothing but an error."""
        if not self._refused.done():
            self._refused.set_result(error)

    def probe(self) -> None:
        """Nothing to be done: it is about to end."""


Spell: TypeAlias = Callable[[bytes], bytes]
"""Makes of a frame what stands in a body."""


def _spell_event(frame: bytes) -> bytes:
    return b"data: " + b64encode(frame) + b"\n\n"


class _Stream(Outlet):
    """A response in which a client hears what happens, for as long as it lasts."""

    def __init__(
        self,
        hub: Hub,
        caller: Caller,
        body: bytes,
        lifetime: float,
        spell: Spell = wire.data,
        media_type: str = TYPE,
    ) -> None:
        super().__init__(hub)
        self.guest = caller.guest
        self._headers = caller.headers
        self.connection = self.listener = Listener(hub, ENCODINGS, self, caller.visitor)
        self._body = body
        self._spell = spell
        self._media_type = media_type
        self._lifetime = lifetime
        self._over = asyncio.Event()
        self._gone = False
        """Whether the client has hung up."""
        self._farewell: Ended | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond. What was read of the request is the whole body."""
        self._respond = send
        self._http = http_of(scope)
        if self._http is not None:
            self._http.stopping = self._drain
        spoke = self.hub.wheel.add(self)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._lifetime, self._over.set)
        watching = self.hub.spawn(self._watch(receive))
        beginning = self.hub.spawn(self._begin())
        sender = self.hub.spawn(self._send())
        whole = False
        try:
            await self._over.wait()
            if not self.ended:
                await self._complete(beginning)
                self.listener.conclude()
            # Else it said too much, or reads too little: then it is cut off.
            whole = not (self._gone or (self.ended and self.failure is None))
        finally:
            timer.cancel()
            beginning.cancel()
            self._leave(spoke, goodbye=False)
            try:
                if whole:
                    whole = await self._finish(sender)
                if not whole and self._http is not None:
                    # Nothing more can be written. The server has to notice, too.
                    self._http.transport.abort()
                    await asyncio.wait({watching}, timeout=CLOSE_TIME)
            finally:
                self.guest.leave()
                sender.cancel()
                watching.cancel()
                if self._http is not None:
                    self._http.stopping = None

    async def _watch(self, receive: Receive) -> None:
        """Wait until the client hangs up."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._over.set()

    async def _begin(self) -> None:
        """Take what was said in the request, and begin to answer."""
        start = {"Content-Type": self._media_type, **self._headers}
        headers = [(name.lower().encode(), start[name].encode()) for name in start]
        body, self._body = self._body, b""
        try:
            await self._respond(
                {"type": "http.response.start", "status": 200, "headers": headers}
            )
            waiting = self.connection.receive(body)
            if waiting is not None:
                await waiting
        except CollabError as exc:
            self.refuse(exc)
        except OSError:
            pass  # Gone, which will be heard.
        except Exception:
            logger.exception("%s: unexpected error", self.connection.peer)
            self.refuse(CollabError())

    async def _pass(self, payload: bytes) -> None:
        content = self._spell(payload)
        await self._respond(
            {"type": "http.response.body", "body": content, "more_body": True}
        )

    async def _complete(self, beginning: asyncio.Task[Any]) -> None:
        """Bring to its end what must not be cut off."""

    async def _finish(self, sender: asyncio.Task[Any]) -> bool:
        """Send what is still to be sent, and that this was all, if there is time."""
        self.finished = True
        self.wake.set()
        if self.failure is not None:
            self.connection.blame(self.failure)
            self._farewell = Ended(self.failure.close_code, self.failure.reason)
        try:
            async with asyncio.timeout(CLOSE_TIME + self.queued / SLOWEST):
                await asyncio.wait({sender})
                if self._farewell is not None:
                    await self._pass(wire.uint(0) + native.encode(self._farewell))
                await self._respond({"type": "http.response.body", "body": b""})
        except TimeoutError:
            return False
        except (RuntimeError, OSError):
            pass  # Gone.
        return True

    def _drain(self) -> None:
        """Hear that the server stops."""
        self.hub.draining = True
        self.hub.spawn(self.hub.drain())

    def _end(self) -> None:
        self.ended = True
        self._over.set()

    def advise(self, after: float, window: float) -> None:
        """Tell the client to move elsewhere; end when it has had the time for it."""
        super().advise(after, window)
        self._farewell = Ended(1012, "service restart")
        loop = asyncio.get_running_loop()
        loop.call_later(self.hub.wheel.window + MOVING, self._over.set)


class _Poll(_Stream):
    """A response that ends when there is something new."""

    def __init__(
        self,
        hub: Hub,
        caller: Caller,
        body: bytes,
        opened: frozenset[int],
        wait: float,
    ) -> None:
        super().__init__(hub, caller, body, wait)
        self._opened = opened
        """Channels on which any answer is new."""
        loop = asyncio.get_running_loop()
        self._until = loop.time() + wait
        self._due: asyncio.TimerHandle | None = None

    def write(self, encoded: Sequence[bytes]) -> None:
        """Send messages, in order."""
        super().write(encoded)
        delays = [delay for frame in encoded if (delay := self._delay(frame))]
        if not delays:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + min(delays)
        if self._due is None or due < self._due.when():
            if self._due is not None:
                self._due.cancel()
            self._due = loop.call_at(due, self._over.set)

    def _delay(self, frame: bytes) -> float | None:
        """After how many seconds a message ends this; ``None`` if it is nothing new."""
        channel, at = wire.read_uint(frame, 0)
        kind = frame[at]
        if not channel:
            return None if kind <= _PONG else COLLECT
        if kind == _OPENED or (kind == _SYNCED and channel not in self._opened):
            return None
        return COLLECT_PRESENCE if kind == _PRESENCE else COLLECT

    async def _complete(self, beginning: asyncio.Task[Any]) -> None:
        # Who is told of one document at once, again and again, would never have opened
        # the next; and of what takes long to open would never have the end.
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._until):
                await asyncio.wait({beginning})
                await self.listener.idle.wait()
        if self.listener.sending:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(loop.time() + LIFETIME):
                    await self.listener.idle.wait()

    def advise(self, after: float, window: float) -> None:
        """Tell the client to come back elsewhere, which is something new."""
        self.connection.advise(after, window)


# Requests.


class Polling:
    """What is at ``/api/sync``."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def route(self) -> Route:
        """Where it is."""
        return Route("/api/sync/{way:path}", self._respond, methods=METHODS)

    async def _respond(self, request: Request) -> Response | _Stream:
        ways: dict[str, Answer] = {
            "push": self._push,
            "stream": self._stream,
            "events": self._events,
            "poll": self._poll,
        }
        reception = self.hub.reception
        peer = reception.locate_scope(request.scope)
        headers = HEADERS
        try:
            visit = reception.check_scope(request.scope, peer)
            headers = {**HEADERS, **visit.headers()}
            way = request.path_params["way"]
            if way not in ways:
                text = f"There are {', '.join(ways)} here, and no {way[:100]!r}.\n"
                return PlainTextResponse(text, 404, headers)
            if request.method == "OPTIONS":
                names = ["content-type", "authorization"]
                preflight = visit.preflight(["POST"], names)
                return Response(status_code=204, headers=preflight)
            if request.method != "POST":
                text = "Requests are POSTed here.\n"
                allowed = {"Allow": "POST, OPTIONS", **headers}
                return PlainTextResponse(text, 405, allowed)
            visitor = visitor_of(request, peer)
            self.hub.check()
            guest = reception.admit(peer)
        except CollabError as exc:
            logger.info("refusing %s: %s", peer, exc)
            return _refusal(exc, headers)
        response: Response | _Stream | None = None
        try:
            body = await _read(request, self.hub.limits)
            if self.hub.door.open:
                visitor = Visitor(visitor.peer)  # Nobody asks for more.
            caller = Caller(visitor, guest, headers)
            response = await ways[way](request, caller, body)
        except ClientDisconnect:
            response = Response(status_code=400)  # Nobody hears it.
        except CollabError as exc:
            logger.info("refusing %s: %s", peer, exc)
            response = _refusal(exc, headers)
        finally:
            if not isinstance(response, _Stream):  # It stays for longer.
                guest.leave()
        return response

    async def _push(self, request: Request, caller: Caller, body: bytes) -> Response:
        _check_head(body)
        answer = await _Push(self.hub, caller).answer(body)
        return Response(answer, headers=caller.headers, media_type=TYPE)

    async def _stream(
        self, request: Request, caller: Caller, body: bytes
    ) -> Response | _Stream:
        await self._check(body)
        return _Stream(self.hub, caller, body, LIFETIME)

    async def _events(
        self, request: Request, caller: Caller, body: bytes
    ) -> Response | _Stream:
        await self._check(body)
        spell, media_type = _spell_event, "text/event-stream"
        return _Stream(self.hub, caller, body, LIFETIME, spell, media_type)

    async def _poll(
        self, request: Request, caller: Caller, body: bytes
    ) -> Response | _Stream:
        wait = request.query_params.get("wait", str(LONGEST))
        if wait not in WAITS:
            raise BadRequest(f"`wait` is a number of seconds from 1 to {LONGEST}.")
        opened = await self._check(body)
        return _Poll(self.hub, caller, body, opened, int(wait))

    async def _check(self, body: bytes) -> frozenset[int]:
        """Complain before the response begins, if at all; return what is opened."""
        opened = await take_turns(_check_steps(body, self.hub.limits.documents))
        self.hub.check()  # Reading may have taken a while.
        return opened


Answer: TypeAlias = Callable[[Request, Caller, bytes], Awaitable[Response | _Stream]]


def _refusal(error: CollabError, usual: Mapping[str, str]) -> Response:
    headers = dict(usual)
    if isinstance(error, Unavailable | TooMany):
        headers["Retry-After"] = "5"
    if isinstance(error, RequestTooSlow):
        headers["Connection"] = "close"
    return PlainTextResponse(f"{error.reason}\n", error.http_status, headers)


async def _read(request: Request, limits: Limits) -> bytes:
    """Read the body of a request.

    Raises:
        CollabError: If it is none, too large or too slow.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != TYPE:
        raise BadRequest(f"The body is of type {TYPE}.")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.frame_size:
        raise FrameTooBig(int(declared[:20]), limits.frame_size)
    begun = asyncio.get_running_loop().time()
    chunks = []
    size = 0
    try:
        async with asyncio.timeout_at(begun + limits.slow_time) as clock:
            async for chunk in request.stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > limits.frame_size:
                    raise FrameTooBig(size, limits.frame_size)
                clock.reschedule(begun + limits.slow_time + size / SLOWEST)
    except TimeoutError:
        raise RequestTooSlow from None
    return b"".join(chunks)


def _check_head(body: bytes) -> None:
    """Complain of a body that doesn't begin as it must."""
    match list(islice(native.decode(body), 2)):
        case [(0, Hello()), (0, Identity(key))] if len(key) in KEY:
            return
    raise ProtocolError("no Hello and Identity of 16 to 64 octets at first")


def _check_steps(body: bytes, limit: int) -> Generator[None, None, frozenset[int]]:
    """Complain of a request to listen that asks for something else."""
    _check_head(body)
    channels: set[int] = set()
    opened: set[int] = set()
    for number, (channel, message) in enumerate(islice(native.decode(body), 2, None)):
        if not isinstance(message, Open):
            raise ProtocolError(f"a {type(message).__name__} where only Opens are")
        if channel in channels:
            raise ProtocolError("a channel is opened twice")
        if number >= limit:
            raise QuotaExceeded("documents", limit)
        channels.add(channel)
        if not isinstance(message, Resume):
            opened.add(channel)
        yield
    return frozenset(opened)
