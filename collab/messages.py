"""What clients and rooms say to each other, whatever the dialect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


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
    """What just changed. Back at its author it means: saved."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is here: states of clients, encoded as y-protocols' awareness update."""

    states: bytes


@dataclass(frozen=True, slots=True)
class QueryPresence:
    """Tell me who is here."""


Message: TypeAlias = SyncStep1 | SyncStep2 | Update | Presence | QueryPresence
