"""What the log doesn't have yet, and who waits to be told that it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from .messages import Checkpoint, Message
from .session import Session


class Receipts(NamedTuple):
    """What a session is told once ``at`` updates are saved."""

    at: int
    session: Session
    messages: Sequence[Message]
    size: int
    """Bytes that wait with them."""
    asked: int
    """How often the session had asked: if it asks again, it doesn't expect them."""


class Ledger:
    """The unsaved updates of a room, in order."""

    def __init__(self) -> None:
        self.unsaved: list[tuple[bytes, str]] = []
        """Updates that the log doesn't have yet, with their authors, in order."""
        self.size = 0
        """Bytes that wait for the log, repeats of what it doesn't have yet included."""
        self.saved = 0
        """How many updates were saved since the beginning."""
        self.receipts: deque[Receipts] = deque()

    def promise(
        self, session: Session, messages: Sequence[Message], size: int = 0
    ) -> bool:
        """Have a session told something once all that is here now is saved.

        ``False`` if that is so already: then it may be told at once.
        """
        if not self.unsaved:
            return False
        count = self.saved + len(self.unsaved)
        self.size += size
        asked = session.asked
        self.receipts.append(Receipts(count, session, messages, size, asked))
        return True

    def settle(self, count: int) -> tuple[int, dict[Session, list[Message]]]:
        """Take out the first ``count`` updates: the log has them now.

        Returns how many bytes they had, and whom to tell what.
        """
        size = sum([len(update) for update, _ in self.unsaved[:count]])
        del self.unsaved[:count]
        self.saved += count
        told: dict[Session, list[Message]] = {}
        while self.receipts and self.receipts[0].at <= self.saved:
            due = self.receipts.popleft()
            session = due.session
            self.size -= due.size
            for message in due.messages if session.marks else ():
                if isinstance(message, Checkpoint):
                    session.mark = message.mark
                    session.marks -= 1
            if due.messages and due.asked == session.asked:
                told.setdefault(session, []).extend(due.messages)
        return size, told

    def owed(self, session: Session) -> int:
        """How many acknowledgements a mutual session counts on, and hasn't had."""
        waiting = [
            len(due.messages)
            for due in self.receipts
            if due.session is session and due.asked == session.asked
        ]
        return sum(waiting) + session.awaited + session.missed

    def clear(self) -> None:
        """Forget everything: nobody was told that it is saved."""
        self.unsaved.clear()
        self.receipts.clear()
        self.size = 0
