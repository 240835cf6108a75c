"""What happened in a room, told to all who are in it.

It is encoded once for each encoding, and leaves as one write per session.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from .messages import Update
from .session import Author, Encoding, Session, sessions_of

Listeners: TypeAlias = Sequence[tuple[Encoding, Sequence[Session]]]
"""Sessions that are told what happens, by their encodings."""


def listeners(sessions: Mapping[Encoding, Collection[Session]]) -> Listeners:
    """All who aren't behind, to be told something now.

    A write may fill a transport, and then all of its sessions fall behind, those too
    that are yet to be told. What counts is who was behind before.
    """
    return [
        (encoding, [session for session in some if session.behind is None])
        for encoding, some in sessions.items()
    ]


def tell_updates(
    everybody: Listeners,
    fresh: Sequence[tuple[bytes, Author | None]],
    shown: int,
    shared: bool,
) -> None:
    """Tell updates to all but their authors, and that they are behind a position.

    ``shared`` says that there are authors who have several sessions.
    """
    for encoding, sessions in everybody:
        encode = encoding.encode
        if len(fresh) == 1 and not shared:
            [(update, author)] = fresh
            everything = encoding.join((encode(Update(update, shown)),))
            for session in sessions:
                if session is not author:
                    session.write(everything)
            continue
        encoded = [encode(Update(update, shown)) for update, _ in fresh]
        everything = encoding.join(encoded)
        authors = {author for _, author in fresh}
        spared: Collection[Author | None] = authors
        if shared:
            spared = {session for a in authors for session in sessions_of(a)}
        for session in sessions:
            if session not in spared:
                session.write(everything)
                continue
            owner = session.owner
            others = [
                piece
                for piece, (_, author) in zip(encoded, fresh, strict=True)
                if author is not owner
            ]
            if others:
                session.write(encoding.join(others))
