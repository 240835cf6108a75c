"""A client's places in many documents, on one connection.

Whatever happens at one is no business of the others. What comes for a place while it
is at something that takes a while is kept; when that is much, nothing more is read from
the client. When the transport is full all places are behind, and catch up in turn.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Coroutine, Hashable, Iterable
from typing import Any, Generic, TypeAlias, TypeVar

from .auth import Visitor
from .channel import Channel, Decode
from .connection import Transport, blame
from .errors import CollabError, ProtocolError, QuotaExceeded, TooMany
from .hub import Hub
from .opening import SLICE
from .quotas import Guest
from .session import Session

logger = logging.getLogger("collab.places")

MAX_WAITING = 1024 * 1024
"""Bytes that wait for documents, above which nothing more is read."""

WAITING = 150
"""Bytes of memory that a message takes that waits, besides its own."""

DENIAL = 512
"""Of the bytes that are without use, how many it counts for to be denied: the
application was asked, and there is a line in the log."""

Key = TypeVar("Key", bound=Hashable)
Content = TypeVar("Content")

Waiting: TypeAlias = tuple[Content, int]
"""Something that waits, and its bytes."""


class Place(Channel, Generic[Key, Content]):
    """A client's place in one of its documents."""

    __slots__ = ("inbox", "key", "leaving")

    def __init__(
        self, hub: Hub, key: Key, decode: Decode, session: Session, guest: Guest
    ) -> None:
        super().__init__(hub, "", decode, session, guest)
        self.key = key
        self.inbox: deque[Waiting[Content]] | None = None
        """What waits until it is done with something."""
        self.leaving: bool | None = None
        """Whether it leaves with a goodbye, once it has taken what waits."""


SomePlace = TypeVar("SomePlace", bound=Place[Any, Any])


class Places(ABC, Generic[Key, Content, SomePlace]):
    """The places of one client."""

    __slots__ = (
        "_closed",
        "_drained",
        "_ignored",
        "_lagging",
        "_muted",
        "_relieved",
        "_transport",
        "_waiting",
        "hub",
        "places",
        "visitor",
    )

    def __init__(self, hub: Hub, transport: Transport, visitor: Visitor) -> None:
        self.hub = hub
        self.visitor = visitor
        self.places: dict[Key, SomePlace] = {}
        self._transport = transport
        self._muted = False
        """Whether the transport is gone."""
        self._closed = False
        """Whether it has left: nothing more is taken."""
        self._waiting = 0
        """Bytes in the inboxes of all places."""
        self._relieved: asyncio.Event | None = None
        """Set when there is room for more of them."""
        self._drained: asyncio.Event | None = None
        """Set when the transport has room again; ``None`` while it has."""
        self._lagging: list[SomePlace] = []
        """Places that are behind, longest first."""
        self._ignored = 0
        """Bytes without use, while there is nothing that it may open."""

    # What a dialect does.

    @abstractmethod
    async def _step(self, place: SomePlace, content: Content) -> None:
        """Take one thing for a place, whatever it is."""

    @abstractmethod
    def _restart(self, key: Key, content: Content, size: int) -> None:
        """Take what waited behind the end of a place: it is for a new one.

        Raises:
            CollabError: If the client must be disconnected.
        """

    @abstractmethod
    def _fail(self, place: SomePlace, error: CollabError) -> None:
        """Answer an error at a place.

        Raises:
            ProtocolError: If the client speaks something else.
        """

    def _ignore(self, size: int) -> None:
        """Count what is not taken.

        Raises:
            QuotaExceeded: If that is too much, and there is nothing that it may open.
        """
        if not any(place.room for place in self.places.values()):
            self._ignored += size
            limit = self.hub.limits.unadmitted_size
            if self._ignored > limit:
                raise QuotaExceeded("bytes without access", limit)

    def _check_repeats(self, name: str) -> None:
        """Complain if a document is open here too often to be opened once more.

        Raises:
            TooMany: If it is.
        """
        limit = self.hub.limits.repeats
        places = self.places.values()
        if sum([place.name == name and place.room is not None for place in places]) >= (
            limit
        ):
            raise TooMany("channels of one document", limit)

    # What takes a while.

    def _keep(self, place: SomePlace, content: Content, size: int) -> None:
        """Have something wait for a place that is at something else."""
        assert place.inbox is not None
        place.inbox.append((content, size))
        self._waiting += size + WAITING

    def _begin(
        self, place: SomePlace, work: Awaitable[None], *inbox: Waiting[Content]
    ) -> None:
        """Have a place do something; what comes for it meanwhile waits."""
        place.inbox = deque()
        for content, size in inbox:
            self._keep(place, content, size)
        self.hub.spawn(self._work(place, work))

    async def _work(self, place: SomePlace, work: Awaitable[None]) -> None:
        inbox = place.inbox
        assert inbox is not None
        loop = asyncio.get_running_loop()
        try:
            await self._try(place, work)
            until = loop.time() + SLICE
            while inbox and self.places.get(place.key) is place:
                if loop.time() > until:
                    await asyncio.sleep(0)
                    until = loop.time() + SLICE
                content, size = inbox.popleft()
                self._free(size + WAITING)
                await self._try(place, self._step(place, content))
        finally:
            place.inbox = None
            self._free(sum([size + WAITING for _, size in inbox]))
        if place.leaving is not None:
            place.leave(place.leaving)
        elif not self._closed:
            self._take_again(place.key, inbox)

    def _take_again(self, key: Key, inbox: Iterable[Waiting[Content]]) -> None:
        try:
            for content, size in inbox:
                self._restart(key, content, size)
        except CollabError as exc:
            self._transport.refuse(exc)

    async def _try(self, place: SomePlace, work: Awaitable[None]) -> None:
        try:
            await work
        except CollabError as exc:
            try:
                self._fail(place, exc)
            except ProtocolError as malformed:
                self._transport.refuse(malformed)
        except Exception:
            logger.exception("%s: unexpected error", self.visitor.peer)
            self._transport.refuse(CollabError())

    def _free(self, size: int) -> None:
        self._waiting -= size
        if self._relieved is not None and self._waiting <= MAX_WAITING:
            self._relieved.set()
            self._relieved = None

    def _relief(self) -> Coroutine[Any, Any, None] | None:
        """An awaitable if too much waits for documents, until it doesn't."""
        if self._waiting <= MAX_WAITING:
            return None
        if self._relieved is None:
            self._relieved = asyncio.Event()
        return _wait(self._relieved)

    # What the transport says.

    def advise(self, after: float, window: float) -> bool:
        """There is no word for it, unless the dialect has one."""
        return False

    def filled(self) -> None:
        """Hear that the transport is full."""
        if self._drained is None:
            self._drained = asyncio.Event()
        for place in self.places.values():
            self._lag(place)

    def _lag(self, place: SomePlace) -> None:
        if place.room is not None and place.session.behind is None:
            place.fall_behind()
            self._lagging.append(place)

    def drained(self) -> None:
        """Hear that the transport has room again."""
        self._release()
        self.hub.spawn(self._catch_up())

    def _release(self) -> None:
        """Let those go on who wait for the transport."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def _catch_up(self) -> None:
        while self._lagging and self._drained is None:
            place = self._lagging.pop(0)
            waiting = place.catch_up()
            if waiting is not None:
                await waiting
                if self._drained is not None:  # Others have filled it meanwhile.
                    self._lag(place)

    def mute(self) -> None:
        """Write nothing more."""
        self._muted = True
        for place in self.places.values():
            place.mute()
        self._release()  # It will not drain any more.

    def close(self, goodbye: bool) -> None:
        """Leave all rooms, each once it has taken what waits for it."""
        self._muted = self._closed = True
        for place in self.places.values():
            if place.inbox is None:
                place.leave(goodbye)
            else:
                place.leaving = goodbye
                place.mute()
        self._release()

    @property
    def peer(self) -> str:
        """Address and port of the client."""
        return self.visitor.peer

    def receive_text(self, payload: bytes) -> None:
        """Take a text message: there is none."""
        raise ProtocolError("text message: all messages are binary")

    def blame(self, error: CollabError) -> None:
        """Log, in one line, why the client is sent away."""
        names = [place.name for place in self.places.values() if place.room][:2]
        name = names[0] if len(names) == 1 else f"{len(self.places)} documents"
        blame(error, name, self.visitor.peer)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
