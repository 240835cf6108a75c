"""What clients and rooms say to each other, whatever the dialect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

# About a document.


@dataclass(frozen=True, slots=True)
class SyncStep1:
    """What I have; send me what I lack."""

    state_vector: bytes


@dataclass(frozen=True, slots=True)
class SyncStep2:
    """What you lacked. With it you have everything up to a position, unless it is 0."""

    update: bytes
    position: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """What just changed. Before it you had everything up to a position, unless that is
    0; a client numbers its own."""

    update: bytes
    position: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """An update of yours is in the log, and with it all before."""

    update: bytes
    sequence: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """An update of yours was not taken."""

    reason: str = "read-only"
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Say this again once all that I said before is saved. Said again, it is."""

    mark: bytes


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is here: states of clients, encoded as y-protocols' awareness update."""

    states: bytes


@dataclass(frozen=True, slots=True)
class QueryPresence:
    """Tell me who is here."""


@dataclass(frozen=True, slots=True)
class Stateless:
    """Something of the application's own, which is kept nowhere."""

    payload: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something of the application's own, for one user or for everybody else."""

    user: str
    payload: bytes


# About opening it.


@dataclass(frozen=True, slots=True)
class Open:
    """I want to open a document, and what I have of it."""

    name: str
    token: str
    state_vector: bytes
    epoch: str
    position: int
    """Up to where I have everything, in that epoch."""


@dataclass(frozen=True, slots=True)
class Resume(Open):
    """I go on with a document that was open, over HTTP."""

    known: bytes
    """Of whom else I know, and at which clocks; see ``presence.read_known``."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What I have of it, and that so many bytes follow, in pieces."""

    reader: bool
    epoch: str
    position: int
    size: int
    state_vector: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of what you lack."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Synced:
    """Now you have everything up to a position."""

    position: int


@dataclass(frozen=True, slots=True)
class Closed:
    """A document is closed, and why."""

    code: int
    reason: str


# About who may open it.


@dataclass(frozen=True, slots=True)
class Token:
    """Who I am."""

    token: str
    version: str = ""
    """Of the client's provider, if it says."""


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """Tell me again who you are, within so many seconds."""

    seconds: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """You may read, and write unless ``reader``."""

    reader: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """You may not open this, or not any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """I have left this document, or you have; the connection stays."""

    reason: str = ""


# About the connection.


@dataclass(frozen=True, slots=True)
class Hello:
    """What I am."""

    client: str


@dataclass(frozen=True, slots=True)
class Hail:
    """What you are connected to: a version, a name for this connection, milliseconds
    between signs of life, and bytes that a frame may have."""

    version: int
    connection: str
    heartbeat: int
    size: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """I am here."""

    number: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Connect anew, at some moment in a window of milliseconds."""

    after: int
    window: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose requests belong together, over HTTP; known to nobody else."""

    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection ends, as one of a WebSocket with a close code does."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something of a kind that we don't know: it is ignored."""

    kind: int


Message: TypeAlias = (
    SyncStep1
    | SyncStep2
    | Update
    | Saved
    | Refused
    | Checkpoint
    | Presence
    | QueryPresence
    | Stateless
    | Note
    | Open
    | Resume
    | Opened
    | Piece
    | Synced
    | Closed
    | Hello
    | Hail
    | Ping
    | Pong
    | Reconnect
    | Identity
    | Ended
    | Token
    | TokenWanted
    | Admitted
    | Denied
    | Left
    | Unknown
)
