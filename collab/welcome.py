"""What somebody gets who has nothing.

It is the document as it was encoded last, shared by all who join, and the updates
since.
"""

from __future__ import annotations

from collections.abc import Sequence

from .document import EMPTY, LARGE_STATE, Document
from .messages import Message, Piece, SyncStep2, Update
from .session import Author, Encoding, Session

RECENT = 64 * 1024
"""Bytes of updates that joiners are sent behind a state that was encoded before..."""

SHARE = 4
"""...or one in so many bytes of that state, if that is more."""


class Welcome:
    """The document of a room, encoded for who joins."""

    def __init__(self) -> None:
        self.state: bytes | None = None
        """The document as it was encoded last, while that is of use to who joins."""
        self.pinned = 0
        """How many are encoding it further: it isn't forgotten meanwhile."""
        self._used = False
        self._encoded: dict[tuple[Encoding, type[Message]], bytes] = {}
        """States, as encodings that others build upon have them, and those that are
        sealed for encodings that several sessions have."""
        self._pieces: dict[tuple[Encoding, bytes], bytes] = {}
        self.pieces: list[bytes] | None = None
        """The state in pieces, if somebody wanted it so."""
        self._recent: list[tuple[bytes, Author | None]] = []
        self.recent_size = 0

    def ready(self, encoding: Encoding) -> bool:
        """Whether nothing large is left to be encoded for who joins."""
        if self.state is None:
            return False
        return (
            len(self.state) <= LARGE_STATE or (encoding.base, Update) in self._encoded
        )

    def begin(self, state: bytes) -> None:
        """Remember the document as it is now."""
        self.forget()
        self.state = state
        self._used = True

    def keep(self, state: bytes, base: Encoding, encoded: bytes) -> None:
        """Remember how the Update of a large state is encoded, if it is still ours."""
        if state is self.state:
            self._encoded[base, Update] = encoded
            self._used = True

    def cut(self, state: bytes, pieces: list[bytes]) -> None:
        """Remember how a state is cut into pieces, if it is still ours."""
        if state is self.state:
            self.pieces = pieces

    def parts(
        self, fresh: Sequence[tuple[bytes, Author | None]]
    ) -> tuple[list[bytes] | None, list[bytes]]:
        """The state in pieces, if it was cut, and the updates since.

        These build upon each other.
        """
        self._used = True
        if self.state is None:
            return None, []
        return self.pieces, [update for update, _ in (*self._recent, *fresh)]

    def encode_piece(self, encoding: Encoding, piece: bytes) -> bytes:
        """Encode a piece, unless that was done already for somebody else."""
        key = encoding.base, piece
        encoded = self._pieces.get(key)
        if encoded is None:
            encoded = encoding.base.encode_state(Piece(piece))
            if self.pieces is not None and piece in self.pieces:
                self._pieces[key] = encoded
        return encoding.seal(encoded)

    def note(self, fresh: Sequence[tuple[bytes, Author | None]]) -> None:
        """Add what happened since, with who need not be sent it."""
        if self.state is None:
            return
        self._recent += fresh
        self.recent_size += sum([len(update) for update, _ in fresh])
        if self.recent_size > max(RECENT, len(self.state) // SHARE) and not self.pinned:
            self.forget()

    def forget(self) -> None:
        """Let go of a state that is no longer worth its memory."""
        self.state = self.pieces = None
        self._encoded.clear()
        self._pieces.clear()
        self._recent.clear()
        self.recent_size = 0

    def expire(self) -> None:
        """Forget what nobody wanted since last time."""
        if not self._used and not self.pinned:
            self.forget()
        self._used = False

    def encode(
        self,
        document: Document,
        session: Session,
        fresh: Sequence[tuple[bytes, Author | None]],
        unsaved: bool,
    ) -> list[bytes]:
        """Encode the document for a session that has nothing, the large part first.

        While others type, it is the state of a moment ago and the updates since,
        ``fresh`` ones included. What comes last is a SyncStep2: who has read it is told
        that it has everything. ``unsaved`` says that the session has edits that the log
        doesn't have yet.
        """
        self._used = True
        if self.state is None:
            self.state = document.state()
        everything = [*self._recent, *fresh]
        since = [update for update, author in everything if author is not session]
        encoding = session.encoding
        encode = encoding.encode
        large = len(self.state) > LARGE_STATE
        if unsaved and (since or large):
            # It isn't empty-handed: an Update of what it has itself sent would look
            # like an acknowledgement.
            if not large:
                return [encoding.encode_state(SyncStep2(document.state()))]
            # Compressing it again, for one session, would take too long.
            updates = [encode(SyncStep2(update)) for update, _ in everything]
            return [encode(SyncStep2(self.state)), *updates]
        # There is one way to encode what is large, so that it is encoded once.
        message = Update(self.state) if since or large else SyncStep2(self.state)
        shared = self._encode(encoding, message)
        if not since and not large:
            return [shared]
        encoded = [encode(Update(update)) for update in since]
        return [shared, *encoded, encode(SyncStep2(EMPTY))]

    def _encode(self, encoding: Encoding, message: Message) -> bytes:
        """Encode the state, unless that was done already."""
        kind = type(message)
        sealed = self._encoded.get((encoding, kind))
        if sealed is not None:
            return sealed
        state = self._encoded.get((encoding.base, kind))
        if state is None:
            state = encoding.base.encode_state(message)
            self._encoded[encoding.base, kind] = state
        sealed = encoding.seal(state)
        if encoding.shared:
            self._encoded[encoding, kind] = sealed
        return sealed
