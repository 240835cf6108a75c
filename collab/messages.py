"""What clients and rooms say to each other, whatever the dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# About a document.


@dataclass(frozen=True, slots=True)
class SyncStep1:
    """What I have; send me what I lack."""

    state_vector: bytes


@dataclass(frozen=True, slots=True)
class SyncStep2:
    """What you lacked."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Update:
    """What just changed."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Saved:
    """An update of yours is in the log."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """An update of yours was not taken."""

    reason: str = "read-only"


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


# About who may open it.


@dataclass(frozen=True, slots=True)
class Token:
    """Who I am."""

    token: str
    version: str = ""
    """Of the client's provider, if it says."""


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """Tell me again who you are."""


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
    | Token
    | TokenWanted
    | Admitted
    | Denied
    | Left
    | Unknown
)
