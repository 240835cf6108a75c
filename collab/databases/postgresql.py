"""PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, text

from ..errors import DatabaseUnreachable
from .base import Entry
from .servers import CONNECT_TIMEOUT, LOCK_TIMEOUT, Server

MIGRATING = 0x636F6C6C6162
"""The number of the lock that who changes the tables holds: "collab"."""


class PostgreSQL(Server):
    """PostgreSQL, through psycopg 3."""

    extra = "postgres"
    port = 5432
    tls = "see to sslmode and sslrootcert in the URL"

    def __init__(self, url: str, parsed: sa.URL) -> None:
        arguments: dict[str, Any] = {
            "application_name": "collab",
            "connect_timeout": CONNECT_TIMEOUT,
            # Notice a server that is gone without a word within half a minute.
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        }
        # A pooler that gives each transaction another connection can't keep statements.
        if (threshold := parsed.query.get("prepare_threshold")) is not None:
            parsed = parsed.difference_update_query(["prepare_threshold"])
            arguments["prepare_threshold"] = _threshold(str(threshold))
        super().__init__(url, parsed, arguments)

    def _configure(self, connection: Any, record: object) -> None:
        connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")
        # Else a commit may be answered before it is on disk. Stricter ones stay.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.commit()

    @contextmanager
    def tables_locked(self, connection: Connection) -> Iterator[None]:
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": MIGRATING})
        yield  # The end of the transaction lets go of it.

    def check_size(self, size: int) -> None:
        """It takes a gigabyte: more than we have."""

    def lock(self, connection: Connection, ids: Sequence[int]) -> dict[int, int]:
        # In one order, so that nodes don't wait for each other for ever.
        found = connection.exec_driver_sql(
            "SELECT id, head FROM documents WHERE id = ANY(%s::bigint[])"
            " AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE",
            (list(ids),),
        )
        return dict(found.all())

    def advance(
        self, connection: Connection, gains: Sequence[tuple[int, int, int]], now: int
    ) -> bool:
        ids, _, counts = zip(*gains, strict=True)
        result = connection.exec_driver_sql(
            "UPDATE documents SET head = head + gain, updated_at = %s"
            " FROM unnest(%s::bigint[], %s::bigint[]) AS gains (document, gain)"
            " WHERE id = document",
            (now, list(ids), list(counts)),
        )
        return result.rowcount == len(gains)

    def insert(self, connection: Connection, rows: Sequence[Entry]) -> None:
        columns = tuple(map(list, zip(*rows, strict=True)))
        connection.exec_driver_sql(
            "INSERT INTO updates (document_id, position, data, author, at, crc)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %b::bytea[],"
            " %s::text[], %s::bigint[], %s::bigint[])",
            columns,
        )

    def check(self, connection: Connection) -> list[str]:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            raise DatabaseUnreachable(
                f"{self} keeps text as {encoding}, in which not every name can be"
                " written; create it with ENCODING 'UTF8'"
            )
        if connection.exec_driver_sql("SHOW fsync").scalar() == "off":
            return [
                f"{self} runs with fsync = off: what it says is committed may be lost"
                " when its machine fails; set fsync = on"
            ]
        return []

    def rebuild(self) -> None:
        with self.translated(), self._writers.connect() as connection:
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            for table in ("updates", "snapshots"):
                connection.exec_driver_sql(f"VACUUM FULL {table}")

    def _is_deadlock(self, cause: BaseException | None) -> bool:
        return getattr(cause, "sqlstate", None) in ("40P01", "40001")

    def _advise(self, cause: BaseException | None) -> str | None:
        state = getattr(cause, "sqlstate", None)
        said = str(cause)
        match state or "":
            case "53100":
                return "make room on its disk"
            case "53300":
                return "raise its max_connections, or set pool_size in the URL lower"
            case "25006":
                return "it is read-only: name the primary"
            case "42501":
                return "this user needs all rights on the database's tables"
            case "55P03" if _context(cause) is None:
                # Of a row, it says where it is: that is for one document alone.
                return "another session has locked a table"
            case "57P01" | "57P02" | "57P03":
                return "it stops or starts; trying again"
            case "28P01" | "28000":
                return "see to the user and the password in the URL"
            case "3D000":
                return f"create it: createdb {self._parsed.database}"
            case code if code[:2] in ("08", "53", "58"):
                return "see to the server"
            case code if code or type(cause).__name__ != "OperationalError":
                return None
        # libpq couldn't connect, or was cut off, and says it in words.
        if "password" in said or "authentication" in said or 'role "' in said:
            return "see to the user and the password in the URL"
        if "SSL" in said or "certificate" in said:
            return self.tls
        if "does not exist" in said:
            return f"create it: createdb {self._parsed.database}"
        return f"is PostgreSQL running at {self._place}?"


def _context(cause: BaseException | None) -> object:
    """What PostgreSQL was doing when it failed."""
    return getattr(getattr(cause, "diag", None), "context", None)


def _threshold(value: str) -> int | None:
    """After how many executions a statement is prepared; ``None`` for never."""
    if value.lower() in ("none", ""):
        return None
    try:
        return int(value)
    except ValueError:
        raise DatabaseUnreachable(
            f"prepare_threshold in the URL is not a number: {value!r}"
        ) from None
