"""What a database is asked for, whichever it is."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import DatabaseUnreachable, Deadlock, StoreError

T = TypeVar("T")

Entry = tuple[int, int, bytes, str | None, int, int]
"""A row of updates: document, position, update, author, time and checksum."""

ROWS_PER_STATEMENT = 128
"""Rows per INSERT. Each number of rows is a statement that stays prepared (94 KB for
128 rows), so that a commit costs a third; more rows take more statements."""


SECRETS = ("password", "passwd", "sslpassword")
"""Parameters of a URL that drivers take for passwords."""


class Database(ABC):
    """One database. Its methods block, and may be called from any thread.

    Each may raise a :class:`~collab.errors.StoreError`; nothing has changed then.
    """

    remembers: ClassVar[bool] = False
    """Whether heads may be remembered from one append to the next: nobody else writes,
    as a rule, and :meth:`advance` notices if somebody did."""

    transactional_ddl: ClassVar[bool] = True
    """Whether a migration that fails leaves nothing behind."""

    path: Path | None = None
    """The file, if it is one."""

    in_memory: bool = False
    """Whether it is gone with this process, and no other can read it."""

    create: ClassVar[str] = (
        "INSERT INTO documents (name, epoch, created_at, updated_at)"
        " VALUES (:name, :epoch, :now, :now) ON CONFLICT (name) DO NOTHING"
    )
    """Creates a document, unless it is there."""

    put_snapshot: ClassVar[str] = (
        "INSERT INTO snapshots (document_id, position, state, gate, at, crc)"
        " VALUES (:id, :position, :state, :gate, :at, :crc)"
        " ON CONFLICT (document_id, position) DO UPDATE SET state = excluded.state,"
        " gate = excluded.gate, at = excluded.at, crc = excluded.crc"
    )
    """Writes a snapshot, in place of another one if there is one."""

    alone: ClassVar[str] = " FOR UPDATE"
    """Behind a query for a document: nobody else writes anything of it, until the end
    of the transaction."""

    def __init__(self, url: str, parsed: sa.URL) -> None:
        self.url = url
        self._shown = shown(parsed)

    def __str__(self) -> str:
        """The URL, without its passwords."""
        return self._shown

    @abstractmethod
    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction that changes something."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the database and waits for nobody."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections. Closing twice is harmless."""

    # Statements.

    @contextmanager
    def tables_locked(self, connection: Connection) -> Iterator[None]:
        """Wait until nobody else changes the tables, and keep others from it."""
        yield  # Who writes is alone.

    @abstractmethod
    def lock(self, connection: Connection, ids: Sequence[int]) -> dict[int, int]:
        """Lock documents until the end of the transaction; return their heads.

        Those that are gone, or deleted, are left out.
        """

    @abstractmethod
    def advance(
        self, connection: Connection, gains: Sequence[tuple[int, int, int]], now: int
    ) -> bool:
        """Move heads: of a document, from a head on, by so many.

        ``False`` if one of them wasn't there, or is deleted; the transaction is to be
        rolled back then.
        """

    @abstractmethod
    def insert(self, connection: Connection, rows: Sequence[Entry]) -> None:
        """Insert updates."""

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Complain if the server can't take values of so many bytes in a statement.

        Raises:
            StoreError: If it can't.
        """

    def check(self, connection: Connection) -> list[str]:
        """Sentences about settings with which an acknowledgement promises too much."""
        return []

    @abstractmethod
    def settle(self) -> None:
        """Let what was committed be in the database alone, and in no log beside it."""

    def reclaim(self, connection: Connection, pages: int) -> int:
        """Give disk space back to the system, some of it; return what is left to do."""
        return 0

    @abstractmethod
    def rebuild(self) -> None:
        """Write the database anew, without what was deleted. Others wait meanwhile."""

    # Errors.

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise what a database or its driver says as a StoreError."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, ValueError, OverflowError) as exc:
            cause = exc.orig if isinstance(exc, DBAPIError) else exc
            said = " ".join(str(cause).split()) or type(cause).__name__
            advice = self._advise(cause)
            if advice is None and (
                isinstance(exc, PoolTimeout | DisconnectionError)
                or (isinstance(exc, DBAPIError) and exc.connection_invalidated)
            ):
                advice = "trying again"
            if advice is not None:
                message = f"cannot use the database {self}: {said}; {advice}"
                raise DatabaseUnreachable(message) from exc
            message = f"the database {self} refuses: {said}"
            kind = Deadlock if self._is_deadlock(cause) else StoreError
            raise kind(message) from exc

    def _is_deadlock(self, cause: BaseException | None) -> bool:
        """Whether transactions stood in each other's way, and this one was ended."""
        return False

    def _advise(self, cause: BaseException | None) -> str | None:
        """What to do about an error that is no fault of the statement."""
        return None


def shown(url: sa.URL) -> str:
    """A URL without its passwords."""
    return url.difference_update_query(SECRETS).render_as_string()


def slices(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of a size; the last may be shorter."""
    for at in range(0, len(values), size):
        yield values[at : at + size]
