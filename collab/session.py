"""A client's seat in a room, and how messages look to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeAlias

from .errors import CollabError, Unavailable
from .identity import Amend
from .messages import Message, Saved

MAX_RECEIPTS = 10_000
"""Of one answer. Who counts on more goes on taking something for unsaved, until it
connects anew."""


class Encoding(Protocol):
    """How messages look on one kind of transport, in one dialect.

    Sessions with the same encoding share what is encoded.
    """

    @property
    def shared(self) -> bool:
        """Whether several sessions may have it."""

    @property
    def base(self) -> Encoding:
        """The encoding from which this one gets states, to :meth:`seal` them."""

    def encode(self, message: Message) -> bytes:
        """Encode one message."""

    def encode_state(self, message: Message) -> bytes:
        """Encode one message that may be large and is worth compressing."""

    def seal(self, state: bytes) -> bytes:
        """Make of what :attr:`base` encoded as a state what is one's own."""

    def join(self, encoded: Sequence[bytes]) -> Any:
        """Make one write of several encoded messages."""


class Owner:
    """One client that has several sessions, beside or behind each other.

    It has client ids and says things, as a session does that is a client by itself.
    """

    __slots__ = ("left", "owned", "sessions")

    def __init__(self) -> None:
        self.owned: tuple[int, ...] = ()
        self.sessions: set[Session] = set()
        """Those that are in the room."""
        self.left = 0.0
        """When the last one left, if there is none."""

    def probe(self) -> None:
        """Ask for a sign of life."""
        for session in self.sessions:
            session.probe()


class Session:
    """A client's seat in a room."""

    __slots__ = (
        "amend",
        "answered",
        "asked",
        "awaited",
        "behind",
        "behind_presence",
        "behind_version",
        "dismiss",
        "encoding",
        "introduced",
        "lacking",
        "mark",
        "marks",
        "missed",
        "mutual",
        "numbered",
        "owed",
        "owed_before",
        "owed_size",
        "owned",
        "probe",
        "reader",
        "shared",
        "synced",
        "talks",
        "told",
        "wanted",
        "who",
        "write",
    )

    def __init__(
        self,
        encoding: Encoding,
        write: Callable[[Any], object],
        probe: Callable[[], object],
        dismiss: Callable[[CollabError], object],
        who: str = "",
        *,
        reader: bool = False,
        mutual: bool = False,
        numbered: bool = False,
    ) -> None:
        self.encoding = encoding
        self.write = write
        """Takes what ``encoding.join`` returned."""
        self.probe = probe
        """Asks for a sign of life from the other end."""
        self.dismiss = dismiss
        """Sends it away, and says why."""
        self.who = who
        self.amend: Amend | None = None
        """What is done with what it says of who is here, if anything is."""
        self.reader = reader
        """Whether it may only read."""
        self.mutual = mutual
        """Whether it is asked what it has when it asks, and not before, and counts what
        it hears of being saved: once for each update, and for its answer to that."""
        self.numbered = numbered
        """Whether its updates have numbers, up to one of which all are acknowledged at
        once, and it is told positions."""
        self.asked = 0
        """How often a mutual session has asked."""
        self.awaited = 0
        """How many acknowledgements it expects for what it answers next."""
        self.missed = 0
        """How many it expects for what was not taken, since it asked last."""
        self.mark = b"\x00"
        """The last checkpoint that was confirmed to it; version 0 at first."""
        self.marks = 0
        """How many wait to be."""
        self.talks = mutual or numbered
        """Whether it is known to understand messages of the application's own. Others
        complain of them; y-websocket 3.1.0-rc fails, and hears nothing from then on."""
        self.told = False
        """Whether it was told that something was not taken: it may only read."""
        self.owned: tuple[int, ...] = ()
        self.shared: Owner | None = None
        """Whose session it is, if it isn't a client by itself."""
        self.introduced = False
        """Whether what it says of others' presence may be an echo."""
        self.answered = False
        """Whether it has said what it has."""
        self.synced = False
        """Whether it asked for the document, and was sent it."""
        self.lacking = False
        """Whether it sent something that came early, and must be asked for the rest."""
        self.behind: bytes | None = None
        """The state vector where it fell behind."""
        self.behind_presence = 0
        self.behind_version = 0
        self.wanted: bytes | None = None
        """The state vector it asked a diff for while it was behind."""
        self.owed: list[bytes] = []
        self.owed_before = 0
        """How many of these are from before it asked last."""
        self.owed_size = 0

    @property
    def owner(self) -> Author:
        """Who says what comes from it."""
        return self if self.shared is None else self.shared

    def asks(self) -> None:
        """Note that it asks what it lacks.

        It forgets what it has counted then, and expects to be told one thing: that
        what it answers is saved. Whatever it has sent before is in that.
        """
        if self.mutual:
            self.asked += 1
            self.awaited = 1
            self.missed = 0
            self.owed_before = len(self.owed)

    def awaits_more(self, count: int) -> None:
        """Note that what it answers next has what was not taken before."""
        self.awaited = min(self.awaited + count, MAX_RECEIPTS)
        self.missed = 0

    def answers(self) -> int:
        """Note that it has answered; return how often it expects to be told so."""
        if not self.mutual:
            return 1
        awaited, self.awaited = self.awaited, 0
        return awaited

    def take_owed(self) -> list[bytes]:
        """Take what it is owed, except acknowledgements that it no longer expects."""
        owed, self.owed, self.owed_size = self.owed, [], 0
        before, self.owed_before = self.owed_before, 0
        if not before:
            return owed
        saved = self.encoding.encode(Saved(b""))
        return [piece for piece in owed[:before] if piece != saved] + owed[before:]

    def check_owed(self, limit: int) -> None:
        """Complain if it writes on and on but doesn't read.

        Raises:
            Unavailable: If it is owed more bytes of acknowledgements than the limit.
        """
        if self.behind is not None and self.owed_size > limit:
            raise Unavailable(f"{limit} bytes of acknowledgements are unread")

    def send(self, *messages: Message) -> None:
        """Write messages at once."""
        encode = self.encoding.encode
        self.write(self.encoding.join([encode(message) for message in messages]))


Author: TypeAlias = Session | Owner
"""Who says something, as others see it."""


def sessions_of(author: Author | None) -> Collection[Session]:
    """The sessions in which nothing is news that an author says."""
    if author is None:
        return ()
    return author.sessions if isinstance(author, Owner) else (author,)
