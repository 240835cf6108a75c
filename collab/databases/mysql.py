"""MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from ..errors import DatabaseUnreachable, StoreError
from .base import ROWS_PER_STATEMENT, Entry, slices
from .servers import CONNECT_TIMEOUT, LOCK_TIMEOUT, Server

PACKET = 64 * 2**20
"""The least that ``max_allowed_packet`` may be: MySQL's default, four times as much as
a message may have."""


class MySQL(Server):
    """MySQL from 8.0 and MariaDB from 10.5, through PyMySQL."""

    extra = "mysql"
    port = 3306
    tls = "see to ssl_ca in the URL"
    transactional_ddl = False
    create = (
        "INSERT INTO documents (name, epoch, created_at, updated_at)"
        " VALUES (:name, :epoch, :now, :now) ON DUPLICATE KEY UPDATE id = id"
    )
    put_snapshot = (
        "REPLACE INTO snapshots (document_id, position, state, gate, at, crc)"
        " VALUES (:id, :position, :state, :gate, :at, :crc)"
    )

    def __init__(self, url: str, parsed: sa.URL) -> None:
        arguments: dict[str, Any] = {
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT,
            # A server that is gone without a word would be waited for for ever.
            "read_timeout": 60,
            "write_timeout": 60,
        }
        self._packet = PACKET
        super().__init__(url, parsed, arguments)

    def _configure(self, connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'),"
                f" innodb_lock_wait_timeout = {LOCK_TIMEOUT},"
                f" lock_wait_timeout = {LOCK_TIMEOUT}"
            )
            cursor.execute("SELECT @@max_allowed_packet")
            (self._packet,) = cursor.fetchone()

    @contextmanager
    def tables_locked(self, connection: Connection) -> Iterator[None]:
        # Statements that change tables end a transaction, and its locks.
        got = connection.execute(text("SELECT GET_LOCK('collab.tables', 60)")).scalar()
        if got != 1:
            raise StoreError(f"another process changes the tables of {self}; wait")
        try:
            yield
        finally:
            if not connection.invalidated:
                release = text("SELECT RELEASE_LOCK('collab.tables')")
                connection.execute(release)

    def lock(self, connection: Connection, ids: Sequence[int]) -> dict[int, int]:
        marks = ", ".join(["%s"] * len(ids))
        try:
            found = connection.exec_driver_sql(
                f"SELECT id, head FROM documents WHERE id IN ({marks})"
                " AND deleted_at IS NULL ORDER BY id FOR UPDATE",
                tuple(ids),
            )
        except OperationalError as exc:
            if _waited(exc):
                # Of a document, or of the table? There is no document 0.
                query = "SELECT id FROM documents WHERE id = 0 FOR UPDATE"
                with self._waits_for_tables():
                    connection.exec_driver_sql(query).all()
            raise
        return dict(found.all())

    def advance(
        self, connection: Connection, gains: Sequence[tuple[int, int, int]], now: int
    ) -> bool:
        for part in slices(gains, ROWS_PER_STATEMENT):
            cases = " ".join(["WHEN %s THEN %s"] * len(part))
            marks = ", ".join(["%s"] * len(part))
            values = [value for id, _, gain in part for value in (id, gain)]
            ids = [id for id, _, _ in part]
            with self._waits_for_tables():
                connection.exec_driver_sql(
                    "UPDATE documents SET updated_at = %s,"
                    f" head = head + CASE id {cases} END WHERE id IN ({marks})",
                    (now, *values, *ids),
                )
        return True  # They are locked, and so they are there.

    def insert(self, connection: Connection, rows: Sequence[Entry]) -> None:
        part: list[Entry] = []
        size = 0
        for row in rows:
            self.check_size(len(row[2]))
            taken = _taken(len(row[2])) + 4 * len(row[3] or "")
            if part and (size + taken > self._packet // 4 or len(part) == 1000):
                self._insert(connection, part)
                part, size = [], 0
            part.append(row)
            size += taken
        self._insert(connection, part)

    def _insert(self, connection: Connection, rows: Sequence[Entry]) -> None:
        marks = ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(rows))
        with self._waits_for_tables():
            connection.exec_driver_sql(
                "INSERT INTO updates (document_id, position, data, author, at, crc)"
                f" VALUES {marks}",
                tuple([value for row in rows for value in row]),
            )

    @contextmanager
    def _waits_for_tables(self) -> Iterator[None]:
        """Statements for which no row is locked by somebody else: they wait for tables.

        Raises:
            DatabaseUnreachable: If they waited too long.
        """
        try:
            yield
        except OperationalError as exc:
            if not _waited(exc):
                raise
            said = f"{exc.orig}; another session has locked a table"
            raise DatabaseUnreachable(
                f"cannot use the database {self}: {said}"
            ) from exc

    def check_size(self, size: int) -> None:
        # The server would end the connection, as if it were gone.
        if _taken(size) > self._packet:
            raise StoreError(
                f"{self} takes {self._packet} bytes in one statement, and this has up"
                f" to {_taken(size)}; raise its max_allowed_packet"
            )

    def check(self, connection: Connection) -> list[str]:
        found = connection.exec_driver_sql(
            "SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit"
        )
        packet, flush = found.one()
        if packet < PACKET:
            raise DatabaseUnreachable(
                f"{self} takes {packet} bytes in one statement, and what a client may"
                f" send needs {PACKET}; set max_allowed_packet = 256M in the"
                " [mysqld] section of its configuration"
            )
        if flush != 1:
            return [
                f"{self} runs with innodb_flush_log_at_trx_commit = {flush}: what it"
                " says is committed may be lost when its machine fails; set it to 1"
            ]
        return []

    def rebuild(self) -> None:
        with self.translated(), self._writers.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in ("updates", "snapshots"):
                connection.exec_driver_sql(f"OPTIMIZE TABLE {table}").all()

    def _is_deadlock(self, cause: BaseException | None) -> bool:
        return getattr(cause, "args", ())[:1] == (1213,)

    def _advise(self, cause: BaseException | None) -> str | None:
        arguments = getattr(cause, "args", ())
        match arguments[0] if arguments else None:
            case 1045 | 1698:
                return "see to the user and the password in the URL"
            case 1049:
                return f"create it: CREATE DATABASE {self._parsed.database}"
            case 1021 | 1114 | 3:
                return "make room on its disk"
            case 1040 | 1203 | 1226:
                return "raise its max_connections, or set pool_size in the URL lower"
            case 1290 | 1792 | 1836:
                return "it is read-only: name the primary"
            case 1044 | 1142 | 1227:
                return "this user needs all rights on the database's tables"
            case 2026:
                return self.tls
            case 2003 if "SSL" in str(cause):
                return self.tls
            case 1053 | 1077 | 1079 | 1927:
                return "it stops or starts; trying again"
            case 2002 | 2003 | 2005 | 2006 | 2013 | 2055 | 0:
                return f"is MySQL running at {self._place}?"
            case _:
                return None


def _taken(size: int) -> int:
    """How many bytes of a statement some bytes take: it is text, in which some take
    two, and there is the rest of it."""
    return 2 * size + 500


def _waited(exc: OperationalError) -> bool:
    """Whether somebody has waited too long for a lock: of a row, or of a table."""
    return exc.orig is not None and exc.orig.args[0] == 1205
