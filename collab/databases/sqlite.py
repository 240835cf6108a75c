"""SQLite: a file, or memory."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from threading import RLock

import sqlalchemy as sa
from sqlalchemy import Connection, event, text
from sqlalchemy.pool import StaticPool

from ..errors import DatabaseUnreachable
from .base import ROWS_PER_STATEMENT, Database, Entry, slices

OLDEST = (3, 35, 0)
"""The oldest SQLite that knows ``UPDATE ... FROM`` and ``DROP COLUMN``."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that is writing to the same file."""

WAL_SIZE = 64 * 2**20
"""Bytes to which SQLite truncates its write-ahead log after a checkpoint."""


class SQLite(Database):
    """A file, or a database in memory.

    Writing happens on one connection behind one lock, reading on as many as there are
    threads.
    """

    remembers = True
    alone = ""  # Who writes is.

    def __init__(self, url: str, parsed: sa.URL) -> None:
        super().__init__(url, parsed.set(drivername="sqlite"))
        if sqlite3.sqlite_version_info < OLDEST:
            raise DatabaseUnreachable(
                f"this Python has SQLite {sqlite3.sqlite_version}, and the log needs"
                f" {'.'.join(map(str, OLDEST))}; install a newer Python"
            )
        if parsed.host or (not parsed.database and "?" in url):
            raise DatabaseUnreachable(f"{url!r} names no file; write sqlite:///FILE")
        if parsed.database and parsed.database != ":memory:":
            self.path = Path(parsed.database).absolute()
        self.in_memory = self.path is None
        options = {
            "timeout": str(BUSY_TIMEOUT),
            "cached_statements": str(2 * ROWS_PER_STATEMENT),
            "check_same_thread": "false",
        }
        self._engine = sa.create_engine(
            parsed.set(query=options | dict(parsed.query)),
            poolclass=StaticPool if self.in_memory else None,
            hide_parameters=True,
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._lock = RLock()
        # A database in memory has one connection, so its readers wait for the writer.
        self._reading: AbstractContextManager[object] = (
            self._lock if self.in_memory else nullcontext()
        )
        self._writer: Connection | None = None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is alone in writing from beginning to end."""
        with self._lock, self.translated():
            try:
                if self._writer is None:
                    self._writer = self._engine.connect().execution_options(write=True)
                with self._writer.begin():
                    yield self._writer
            except BaseException:
                # Whatever happened, the next one starts with a new connection.
                self._hang_up()
                raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._reading, self.translated(), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        with self._lock:
            self._hang_up()
            self._engine.dispose()

    def _hang_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not self.in_memory:
            writer.invalidate()
        writer.close()

    def lock(self, connection: Connection, ids: Sequence[int]) -> dict[int, int]:
        heads: dict[int, int] = {}
        for part in slices(ids, ROWS_PER_STATEMENT):
            heads |= dict(connection.execute(_HEADS, {"ids": list(part)}).all())
        return heads

    def advance(
        self, connection: Connection, gains: Sequence[tuple[int, int, int]], now: int
    ) -> bool:
        advanced = 0
        for part in slices(gains, ROWS_PER_STATEMENT):
            values = [value for gain in part for value in gain]
            statement = _advance(len(part))
            result = connection.exec_driver_sql(statement, (now, *values))
            advanced += result.rowcount
        return advanced == len(gains)

    def insert(self, connection: Connection, rows: Sequence[Entry]) -> None:
        for part in slices(rows, ROWS_PER_STATEMENT):
            values = tuple([value for row in part for value in row])
            connection.exec_driver_sql(_insert(len(part)), values)

    def check_size(self, size: int) -> None:
        """It takes a gigabyte: more than we have."""

    def settle(self) -> None:
        with self.translated():
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    def reclaim(self, connection: Connection, pages: int) -> int:
        automatic = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar()
        if automatic != 2:  # Incremental; older files use the space again instead.
            return 0
        free = int(connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0)
        pages = min(pages, free)
        for _ in range(pages):
            # It takes a step for each page, and Python's sqlite3 does only the first.
            connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
        return free - pages

    def rebuild(self) -> None:
        if self.path is None:
            return
        with self.translated(), sqlite3.connect(self.path, BUSY_TIMEOUT) as connection:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def _advise(self, cause: BaseException | None) -> str | None:
        path = self.path
        match getattr(cause, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_CANTOPEN if path and os.path.isdir(path):
                return "name a file in that directory"
            case sqlite3.SQLITE_CANTOPEN if path and not os.path.exists(path):
                return f"{path.parent} must be a directory that this user may write to"
            case (
                sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM
            ) if path:
                return "this user must be able to write to the file and its directory"
            case sqlite3.SQLITE_NOTADB:
                return "it is some other file, so name another"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return "another process has been writing to it for too long"
            case sqlite3.SQLITE_FULL:
                return "make room on its disk"
            case sqlite3.SQLITE_IOERR:
                return "see to its disk"
            case sqlite3.SQLITE_CORRUPT:
                return "restore a backup, or see https://sqlite.org/recovery.html"
            case _:
                return None


_HEADS = text(
    "SELECT id, head FROM documents WHERE id IN :ids AND deleted_at IS NULL"
).bindparams(sa.bindparam("ids", expanding=True))


@lru_cache(ROWS_PER_STATEMENT)
def _advance(count: int) -> str:
    # VALUES has no other names for its columns: here id, head before, and gain.
    rows = ", ".join(["(?, ?, ?)"] * count)
    return (
        "UPDATE documents SET head = head + column3, updated_at = ?"
        f" FROM (VALUES {rows})"
        " WHERE id = column1 AND head = column2 AND deleted_at IS NULL"
    )


@lru_cache(ROWS_PER_STATEMENT)
def _insert(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?, ?)"] * count)
    return (
        "INSERT INTO updates (document_id, position, data, author, at, crc)"
        f" VALUES {rows}"
    )


def _configure(connection: sqlite3.Connection, _: object) -> None:
    # Python's sqlite3 would begin transactions on its own: late, and not for reading.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = FULL")  # Each commit reaches the disk.
    connection.execute("PRAGMA foreign_keys = ON")
    # What is deleted is overwritten, always: else a document that is purged later would
    # leave what was replaced or moved before in pages that nobody looks at.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA cache_size = -16000")  # KiB
    # What a statement would undo is kept in memory, not in a new file each time.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE}")
    patience = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            # In an empty file, or never: so that what is deleted can be given back. It
            # writes to the file, and would wait for who does.
            if connection.execute("PRAGMA page_count").fetchone() == (0,):
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            # Two processes create the file at once, and SQLite does not wait for this.
            busy = exc.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > patience:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes fails if somebody else wrote in between:
    # one that is going to write says so at once.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
