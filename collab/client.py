"""A client for programs: bots, agents, scripts and tests are users too.

::

    async with connect("ws://localhost:8000/ws", token=token) as client:
        async with client.open("my-document") as document:
            text = document.doc.get("content", type=Text)
            text += "hello"
            await document.saved()

It speaks ``collab.v1`` (``docs/protocol.md``), comes back by itself when the connection
is lost, and sends then what had not been saved. It does not import the server.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import isawaitable
from types import TracebackType
from typing import Any, Self, TypeAlias

from pycrdt import Doc
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from . import __version__, wire
from .backoff import BackOff
from .dialects import native
from .errors import CollabError, ProtocolError, SentAway, Unavailable
from .link import (
    DEAD,
    DONE,
    MALFORMED,
    Change,
    CollabDocument,
    Link,
    as_bytes,
    comes_back,
    error_of,
    hang_up,
)
from .messages import Hail, Hello, Reconnect

__all__ = ["BackOff", "Change", "CollabClient", "CollabDocument", "connect"]

logger = logging.getLogger("collab.client")

TokenSource: TypeAlias = str | Callable[[str], str | Awaitable[str]]
"""A token, or what returns one for a document's name: it is asked each time."""

MAX_FRAME = 256 * 1024 * 1024
"""Bytes of a frame that a server may send."""


class CollabClient:
    """A connection to a server, made anew whenever it is lost; see :func:`connect`."""

    def __init__(
        self,
        url: str,
        token: TokenSource,
        name: str,
        back_off: BackOff,
        patience: float,
        options: dict[str, Any],
    ) -> None:
        self.url = url
        self.connected = False
        """Whether there is a connection now."""
        self._token = token
        self._name = name
        self._back_off = back_off
        self._patience = patience
        self._options = options
        self._documents: set[CollabDocument] = set()
        self._links: set[Link] = set()
        self._link: Link | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        for document in list(self._documents):
            document._leave()
        self._task.cancel()
        await asyncio.wait([self._task])
        for link in list(self._links):
            await link.close()
        if kind is None and not self._task.cancelled():
            # What the server said has been raised where it mattered.
            with suppress(CollabError):
                self._task.result()

    def open(self, name: str, doc: Doc[Any] | None = None) -> CollabDocument:
        """Open a document: ``async with`` waits until it is here, however long.

        ``doc`` is one that has something already, such as what was kept in a file.

        Raises:
            AccessDenied: On entering, if one may not open it.
            DocumentGone: If it was deleted.
            SentAway: If the server closed it for another reason, and for good.
        """
        if doc is None:
            # As Yjs does: not every client can read ids of more than 32 bits.
            doc = Doc(client_id=random.getrandbits(32))
        back_off = self._back_off.another()
        forget = self._documents.discard
        return CollabDocument(name, doc, back_off, self._join, forget)

    def _join(self, document: CollabDocument) -> None:
        if self._error is not None:
            raise self._error
        if self._task is None or self._task.done():
            raise Unavailable("the client is not connected: use it in `async with`")
        self._documents.add(document)
        if self._link is not None:
            self._link.spawn(self._link.enter(document))

    # Connections.

    async def _run(self) -> None:
        link: Link | None = None
        try:
            while True:
                link = await self._serve(await self._dial() if link is None else link)
                if link is None:
                    await asyncio.sleep(self._back_off.next())
        except BaseException as exc:
            self._error = exc
            if not isinstance(exc, asyncio.CancelledError):
                for document in list(self._documents):
                    document._fail(exc)
            raise

    async def _dial(self) -> Link:
        """Connect, sooner or later."""
        while True:
            try:
                return await self._connect()
            except InvalidStatus as exc:
                status = exc.response.status_code
                if status < 500 and status not in (408, 425, 429):
                    raise SentAway(4000 + status, f"HTTP status {status}") from exc
                reason = f"HTTP status {status}"
            except ConnectionClosed as exc:
                _check(exc.rcvd.code if exc.rcvd else 1006, str(exc))
                reason = str(exc)
            except (OSError, TimeoutError, InvalidHandshake, EOFError) as exc:
                reason = str(exc) or type(exc).__name__
            delay = self._back_off.next()
            level = logging.WARNING if self._back_off.attempt == 1 else logging.INFO
            text = "%s: %s; trying again in %.1f s"
            logger.log(level, text, self.url, reason, delay)
            await asyncio.sleep(delay)

    async def _connect(self) -> Link:
        """Connect, and be welcomed."""
        socket = await connect_socket(
            self.url,
            subprotocols=[Subprotocol(native.SUBPROTOCOL)],
            ping_interval=None,  # The server is heard all the same.
            max_size=MAX_FRAME,
            close_timeout=self._patience,
            **self._options,
        )
        try:
            if socket.subprotocol != native.SUBPROTOCOL:
                raise ProtocolError(f"{self.url} does not speak {native.SUBPROTOCOL}")
            async with asyncio.timeout(2 * self._patience):
                hello = wire.uint(0) + native.spell(Hello(self._name))
                await socket.send(hello)
                ((channel, hail),) = native.read(as_bytes(await socket.recv()))
            if channel or not isinstance(hail, Hail) or hail.version != native.VERSION:
                raise ProtocolError(f"{self.url} gives another welcome")
        except BaseException as exc:
            code = DEAD if isinstance(exc, TimeoutError) else DONE
            if isinstance(exc, ProtocolError):
                code = MALFORMED
            hang_up(socket, code, str(exc), self._patience)
            raise
        reset = self._back_off.reset
        link = Link(socket, hail, self._ask, self._move, reset, self._patience)
        self._links.add(link)
        return link

    async def _serve(self, link: Link) -> Link | None:
        """Use a connection to its end; return another that takes its place."""
        before, self._link, self.connected = self._link, link, True
        try:
            link.spawn(link.read())
            link.spawn(link.write())
            link.spawn(link.watch())
            link.spawn(link.renew())
            for document in list(self._documents):
                document._detach()
                link.spawn(link.enter(document))
            if before is not None:
                link.spawn(self._close(before))
            successor = await link.over
        except BaseException:
            self._lose(link)
            raise
        if successor is None:
            self._lose(link)
            await self._close(link)
            _check(link.socket.close_code or 1006, link.socket.close_reason or "")
        return successor

    def _lose(self, link: Link) -> None:
        self.connected = False
        self._link = None
        for document in list(link.documents.values()):
            document._detach()

    async def _close(self, link: Link) -> None:
        await link.close()
        self._links.discard(link)

    async def _move(self, link: Link, advice: Reconnect) -> None:
        """Have another connection before this one ends."""
        after = random.uniform(advice.after, advice.after + advice.window)
        await asyncio.sleep(after / 1000)
        try:
            successor = await self._dial()
        except CollabError as exc:
            logger.warning("%s: no other connection (%s); staying", self.url, exc)
            return
        if link.over.done():  # It was lost meanwhile, and there is another.
            await self._close(successor)
        link.end(successor)

    async def _ask(self, name: str) -> str | None:
        """Ask for a token; ``None`` if there is none now."""
        if isinstance(self._token, str):
            return self._token
        try:
            token = self._token(name)
            return await token if isawaitable(token) else token
        except Exception:
            logger.exception("%r: no token", name)
            return None


def connect(
    url: str,
    *,
    token: TokenSource = "",
    name: str = f"collab-python/{__version__}",
    back_off: BackOff | None = None,
    patience: float = 5.0,
    **options: Any,
) -> CollabClient:
    """A client of the server at a URL such as ``ws://localhost:8000/ws``.

    ``async with connect(...) as client`` does not wait for the connection:
    ``client.open`` does.

    Args:
        token: Who one is, or a function, async or not, which is asked each time that
            a document is opened, and whenever the server asks.
        name: What the server's log says of this program.
        back_off: How long to wait between attempts: 0.5 to 20 s.
        patience: Seconds that the server has to answer.
        options: Of ``websockets.asyncio.client.connect``, such as ``ssl``.
    """
    return CollabClient(url, token, name, back_off or BackOff(), patience, options)


def _check(code: int, reason: str) -> None:
    """Raise what ends a client, after a close code of its connection."""
    if not comes_back(code):
        raise error_of(code, reason, "")
