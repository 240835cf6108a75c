"""One connection of a client, and the documents on its channels.

A document outlives its connections: it is opened on each that comes, and what had not
been saved is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
)
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pycrdt import Doc
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidState

from . import wire
from .backoff import BackOff
from .dialects import native
from .errors import (
    AccessDenied,
    CollabError,
    DocumentGone,
    FrameTooBig,
    ProtocolError,
    QuotaExceeded,
    SentAway,
    Unavailable,
)
from .messages import (
    Closed,
    Hail,
    Left,
    Message,
    Note,
    Ping,
    Reconnect,
    Refused,
    Synced,
    Token,
    TokenWanted,
)
from .replica import Busy, Replica

logger = logging.getLogger("collab.client")

FRAME = 256 * 1024
"""Bytes of messages that are sent in one frame, if there is more than one."""

MAX_NOTE = 64 * 1024
"""Bytes of a message beside the document."""

MAX_NOTES = 1000
"""Messages that wait to be read, and that wait to be sent; older ones are dropped."""

RENEWAL = 15.0
"""Seconds after which one says again who one is: clients of y-websocket forget who
has said nothing for 30 s."""

DONE, MALFORMED, DEAD = 1000, 4400, 3408
"""The close codes that we give: it is done, not understood, not heard any more."""

MAX_REASON = 123
"""Bytes of the reason in a close frame (RFC 6455, section 5.5)."""

BUSY = 0.01
"""Seconds between two looks whether the application is still in a transaction."""


@dataclass(frozen=True, slots=True)
class Change:
    """What has changed since the last look."""

    local: bool
    """The document, by this program."""
    remote: bool
    """The document, by others."""
    presence: bool
    """Who is here, or what they say of themselves."""


class CollabDocument:
    """A document of a client: ``async with client.open(name) as document``.

    Leaving the block waits until everything is saved, unless it is left by an
    exception. The ``Doc`` is used on the client's event loop only.
    """

    def __init__(
        self,
        name: str,
        doc: Doc[Any],
        back_off: BackOff,
        join: Callable[[CollabDocument], None],
        left: Callable[[CollabDocument], None],
    ) -> None:
        self.name = name
        self.doc = doc
        self._join = join
        self._on_left = left
        self._replica = Replica(name, self.doc, self._wake)
        self._notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self._bell = asyncio.Event()
        self._error: BaseException | None = None
        self._left = False
        self._closed = False
        self._link: Link | None = None
        self._channel = 0
        self._back_off = back_off

    async def __aenter__(self) -> Self:
        try:
            self._join(self)
            await self._until(lambda: self.synced)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self.unsaved:
                await self._settled()
        finally:
            self._close()

    # What it is like.

    @property
    def synced(self) -> bool:
        """Whether it is connected, and has all that the server had when asked."""
        return self._replica.synced

    @property
    def writable(self) -> bool:
        """Whether the server takes edits, as far as it has said."""
        return self._replica.writable

    @property
    def unsaved(self) -> bool:
        """Whether edits are on their way; those that were refused are not."""
        return self._replica.oldest is not None

    @property
    def refused(self) -> str | None:
        """Why there are edits here that the server did not take."""
        return self._replica.refused

    @property
    def progress(self) -> float:
        """How much of the document has arrived, between 0 and 1."""
        replica = self._replica
        if replica.synced or not replica.opened:
            return float(replica.synced)
        return min(1.0, replica.received / max(1, replica.size))

    @property
    def presence(self) -> dict[int, dict[str, Any]]:
        """Who is here: states by client id; one's own is ``doc.client_id``."""
        return dict(self._replica.others.states)

    # What can be done with it.

    async def saved(self) -> None:
        """Wait until all edits that were made up to now are durable on the server.

        Raises:
            AccessDenied: If some were refused. They stay in the document here.
            CollabError: If the document was closed before.
        """
        await self._settled()
        if self._replica.refused is not None:
            raise AccessDenied(self._replica.refused)

    async def _settled(self) -> None:
        if self._closed:
            raise Unavailable("the document was left")
        serial = self._replica.serial

        def settled() -> bool:
            oldest = self._replica.oldest
            return oldest is None or oldest > serial

        await self._until(settled)

    def set_presence(self, state: Mapping[str, Any] | None) -> None:
        """Show who one is to all who have the document open; ``None`` hides one.

        Raises:
            ValueError: If it is not JSON.
            QuotaExceeded: If it has more than 16 KiB.
        """
        self._replica.announce(state)
        self._ring()

    def send(self, payload: bytes, user: str | None = None) -> bool:
        """Say something to all others who have the document open, or to one user.

        It arrives now or never. ``False`` says that it was not even sent, since there
        is no connection, or too much waits.

        Raises:
            QuotaExceeded: If it has more than 64 KiB.
        """
        if len(payload) > MAX_NOTE:
            raise QuotaExceeded("bytes of a message", MAX_NOTE)
        if not self.synced or len(self._replica.outbox) >= MAX_NOTES:
            return False
        self._replica.outbox.append(Note(user or "", payload))
        self._wake()
        return True

    def changes(self) -> AsyncIterator[Change]:
        """What changes from now on. What changes meanwhile comes as one change.

        It ends when the document is left.

        Raises:
            CollabError: While iterating, if the document was closed.
        """
        return self._changes(self._counts())

    def _counts(self) -> tuple[int, int, int]:
        return self._replica.edited, self._replica.changed, self._replica.met

    async def _changes(self, seen: tuple[int, int, int]) -> AsyncIterator[Change]:
        now = seen

        def has_changed() -> bool:
            nonlocal now
            now = self._counts()
            return now != seen

        while await self._more(has_changed):
            change = Change(*map(int.__ne__, seen, now))
            seen = now
            yield change

    async def messages(self) -> AsyncIterator[Note]:
        """What others :meth:`send`, with the user it comes from.

        A thousand are kept until they are read; each is read once.

        Raises:
            CollabError: While iterating, if the document was closed.
        """
        while await self._more(lambda: self._notes):
            yield self._notes.popleft()

    # Waiting.

    async def _until(self, condition: Callable[[], object]) -> None:
        if not await self._more(condition):
            raise Unavailable("the document was left")

    async def _more(self, condition: Callable[[], object]) -> bool:
        """Wait for a condition; ``False`` says that it will not be any more."""
        while not condition():
            if self._error is not None:
                raise self._error
            if self._left:
                return False
            await self._bell.wait()
        return True

    def _ring(self) -> None:
        """Let all look who wait for something."""
        self._bell.set()
        self._bell = asyncio.Event()

    def _wake(self) -> None:
        self._ring()
        if self._link is not None:
            self._link.wake.set()

    # What connections do with it.

    def _attach(self, link: Link, token: str) -> None:
        self._link, self._channel = link, link.add(self)
        link.say(self._channel, self._replica.open(token))

    def _detach(self) -> None:
        """Be without a channel: it is closed."""
        if self._link is not None:
            self._link.documents.pop(self._channel, None)
            self._link = None
            self._replica.leave()
        self._ring()

    def _fail(self, error: BaseException) -> None:
        """End for good."""
        if self._error is None:
            self._error = error
        self._leave()

    def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._on_left(self)
        link, channel = self._link, self._channel
        if link is not None:
            if self._error is None:
                for message in self._replica.outbox:
                    link.say(channel, message)
            link.say(channel, Left())
        self._detach()

    def _close(self) -> None:
        """Observe the document no more. Until then edits count as unsaved."""
        self._leave()
        if not self._closed:
            self._closed = True
            self._replica.close()


class Link:
    """One connection, and the documents on its channels."""

    def __init__(
        self,
        socket: ClientConnection,
        hail: Hail,
        ask: Callable[[str], Awaitable[str | None]],
        advise: Callable[[Link, Reconnect], Coroutine[Any, Any, None]],
        synced: Callable[[], None],
        patience: float,
    ) -> None:
        self.socket = socket
        self.ask = ask
        """Asks for the token of a document; ``None`` is none now."""
        self.advise = advise
        """Does what the server advises."""
        self.on_synced = synced
        self.size = hail.size
        self.heartbeat = hail.heartbeat / 1000
        self.patience = patience
        self.documents: dict[int, CollabDocument] = {}
        self.outbox: deque[bytes] = deque()
        self.wake = asyncio.Event()
        self.heard = asyncio.get_running_loop().time()
        self.over: asyncio.Future[Link | None] = asyncio.Future()
        """Done when it has ended, or has a successor."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._channel = 0

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something while the connection lasts; if it fails, so does the client."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if self.over.done():
            logger.error("a connection that was over failed", exc_info=error)
        else:
            self.over.set_exception(error)

    async def stop(self) -> None:
        """End what was begun with :meth:`spawn`."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def end(self, successor: Link | None = None) -> None:
        """Have ended, or a successor."""
        if not self.over.done():
            self.over.set_result(successor)

    def add(self, document: CollabDocument) -> int:
        """Give a document a channel; return its number."""
        self._channel += 1
        self.documents[self._channel] = document
        return self._channel

    def say(self, channel: int, message: Message) -> None:
        """Have a message sent before what documents have to say."""
        self.outbox.append(wire.uint(channel) + native.spell(message))
        self.wake.set()

    def frames(self) -> Iterator[bytes]:
        """What is to be sent now."""
        frame = bytearray()
        for part in self._parts():
            if frame and len(frame) + len(part) > min(FRAME, self.size):
                yield bytes(frame)
                frame.clear()
            frame += part
        if frame:
            yield bytes(frame)

    def _parts(self) -> Iterator[bytes]:
        while self.outbox:
            yield self.outbox.popleft()
        for channel, document in list(self.documents.items()):
            prefix = wire.uint(channel)
            try:
                while self.documents.get(channel) is document and (
                    messages := document._replica.take(FRAME)
                ):
                    for message in messages:
                        part = prefix + native.spell(message)
                        if len(part) > self.size:
                            raise FrameTooBig(len(part), self.size)
                        yield part
            except CollabError as exc:
                document._fail(exc)

    async def write(self) -> None:
        """Send what is to be sent, as fast as it is taken."""
        with suppress(ConnectionClosed):
            while True:
                await self.wake.wait()
                self.wake.clear()
                for frame in self.frames():
                    await self.socket.send(frame)

    async def watch(self) -> None:
        """Give up a connection on which nothing is heard, not even an answer."""
        clock = asyncio.get_running_loop().time
        number = 0
        while True:
            quiet = self.heard + 1.5 * self.heartbeat - clock()
            if quiet > 0:
                await asyncio.sleep(quiet)
                continue
            number += 1
            heard = self.heard
            self.say(0, Ping(number))
            await asyncio.sleep(self.patience)
            if self.heard == heard:
                logger.warning("the server is not heard any more; connecting anew")
                self.hang_up(DEAD, "not heard")
                self.end()
                return

    def hang_up(self, code: int, reason: str) -> None:
        """Close it with a code, and don't wait for the server."""
        hang_up(self.socket, code, reason, self.patience)

    async def renew(self) -> None:
        """Say again who one is."""
        while True:
            await asyncio.sleep(RENEWAL)
            for document in self.documents.values():
                document._replica.renew()

    async def close(self) -> None:
        """Send what is left, and say goodbye."""
        try:
            await self.stop()
            with suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(self.patience):
                    for frame in self.frames():
                        await self.socket.send(frame)
                    await self.socket.close()
        finally:
            self.socket.transport.abort()

    # Documents.

    async def enter(self, document: CollabDocument, delay: float = 0.0) -> None:
        """Open a document, after some seconds."""
        await asyncio.sleep(delay)
        while (token := await self.ask(document.name)) is None:
            await asyncio.sleep(document._back_off.next())
        if not document._left and document._link is None:
            document._attach(self, token)

    async def _give_token(self, document: CollabDocument) -> None:
        token = await self.ask(document.name)
        if token is not None and document._link is self:
            self.say(document._channel, Token(token))

    async def read(self) -> None:
        """Take what the server says, until the connection is closed.

        Raises:
            ProtocolError: If it is not understood; then we have closed it.
        """
        try:
            with suppress(ConnectionClosed):
                while True:
                    await self._take_all(as_bytes(await self.socket.recv()))
        except ProtocolError as exc:
            self.hang_up(MALFORMED, str(exc))
            raise
        self.end()

    async def _take_all(self, frame: bytes) -> None:
        for channel, message in native.read(frame):
            self.heard = asyncio.get_running_loop().time()
            if channel:
                await self._take(channel, message)
            elif isinstance(message, Reconnect):
                self.spawn(self.advise(self, message))
        if len(frame) > FRAME // 8:
            await asyncio.sleep(0)  # More may be there; others have a turn.

    async def _take(self, channel: int, message: Message) -> None:
        """Take what the server says of a document."""
        document = self.documents.get(channel)
        if document is None:
            return  # It was left, and the server didn't know yet.
        match message:
            case Note():
                document._notes.append(message)
            case TokenWanted():
                self.spawn(self._give_token(document))
            case Closed(code, reason):
                document._detach()
                if comes_back(code):
                    delay = document._back_off.next()
                    text = "%r: closed (%d %s); opening it again in %.1f s"
                    logger.warning(text, document.name, code, reason, delay)
                    self.spawn(self.enter(document, delay))
                else:
                    document._fail(error_of(code, reason, document.name))
            case _:
                if isinstance(message, Refused) and document.refused is None:
                    logger.warning("%r: refused (%s)", document.name, message.reason)
                await self._receive(document, message)
        document._wake()

    async def _receive(self, document: CollabDocument, message: Message) -> None:
        while document._link is self:
            try:
                document._replica.receive(message)
            except Busy:
                await asyncio.sleep(BUSY)
                self.heard = asyncio.get_running_loop().time()
                continue
            except ProtocolError:
                raise  # Of the connection: both should be of one mind.
            except CollabError as exc:
                document._fail(exc)
            except ExceptionGroup:
                logger.exception("%r: an observer failed", document.name)
            if isinstance(message, Synced):
                self.on_synced()
                document._back_off.reset()
            return


def hang_up(socket: ClientConnection, code: int, reason: str, patience: float) -> None:
    """Close a connection with a code, and don't wait for the other end."""
    with suppress(InvalidState):  # It is being closed.
        short = reason.encode()[:MAX_REASON].decode(errors="ignore")
        socket.protocol.send_close(code, short)
        socket.send_data()
    socket.transport.close()
    # What can't be written holds nothing up.
    asyncio.get_running_loop().call_later(patience, socket.transport.abort)


def as_bytes(frame: bytes | str) -> bytes:
    """A frame that is binary.

    Raises:
        ProtocolError: If it is not.
    """
    if isinstance(frame, str):
        raise ProtocolError("a text frame")
    return frame


def comes_back(code: int) -> bool:
    """Whether another attempt can help after a close code."""
    return code not in (1000, 1001) and not 4400 <= code < 4500


def error_of(code: int, reason: str, name: str) -> CollabError:
    """What a close code means that is for good."""
    if code == AccessDenied.close_code:
        return AccessDenied(reason)
    if code == DocumentGone.close_code and name:
        return DocumentGone(name)
    return SentAway(code, reason)
