"""What is said in a room beside the document: by an application, or one to another.

It is delivered at most once, now or never: who is behind, or not here, misses it. Only
who is asked for a token hears of that later, as access depends on the answer.
"""

from __future__ import annotations

from .messages import Message, Note, Stateless, TokenWanted
from .room import Room
from .session import Session

TOKEN_TIME = 60
"""Seconds within which somebody is to say again who they are."""


def broadcast(room: Room, payload: str) -> None:
    """Say something of the application's to all who are known to understand it."""
    _tell(room, Stateless(payload), [s for s in _everybody(room) if s.talks])


def ask_for_tokens(room: Room) -> None:
    """Have everybody say again who they are, who can be asked."""
    asked = [s for s in _everybody(room) if s.mutual or s.numbered]
    for session in asked:
        room.deliver(session, [TokenWanted(TOKEN_TIME)])


def pass_on(room: Room, note: Note, author: Session) -> None:
    """Pass on what a session says to one user, or to all others."""
    owner = author.owner
    others = [s for s in _everybody(room) if s.numbered and s.owner is not owner]
    if note.user:
        others = [s for s in others if s.who == note.user]
    _tell(room, Note(author.who, note.payload), others)


def _everybody(room: Room) -> list[Session]:
    return [session for some in room.sessions.values() for session in some]


def _tell(room: Room, message: Message, sessions: list[Session]) -> None:
    """Send something to some of those who are here."""
    by_encoding: dict[object, list[Session]] = {}
    for session in sessions:
        if session.behind is None:
            by_encoding.setdefault(session.encoding, []).append(session)
    for some in by_encoding.values():
        encoding = some[0].encoding
        encoded = encoding.join([encoding.encode(message)])
        for session in some:
            session.write(encoded)
