"""What tests of the log share: databases of each kind, and what may happen to them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
import pymysql
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from collab.catalog import Catalog
from collab.schema import metadata
from collab.store import Append, Store, Stored, checksum

KINDS = ("sqlite", "postgres", "mariadb")
"""What the log may be in; the last two are names of fixtures, too."""


def opened(url: str) -> Store:
    store = Store(url)
    assert store.open() == []
    return store


def append(store: Store, name: str, *updates: bytes) -> int:
    """Append to one document; return where its log ends now."""
    return store.append([Append(name, [(update, None) for update in updates])])[0].head


def names(store: Store) -> list[str]:
    return [line.name for line in Catalog(store.database).listing()]


def id_of(store: Store, name: str = "doc") -> int:
    document_id = store.load(name).document_id
    assert document_id is not None
    return document_id


def write_snapshot(store: Store, position: int, name: str = "doc") -> bool:
    state, index = b"state %d" % position, b"index %d" % position
    return store.write_snapshot(id_of(store, name), position, state, index)


@contextmanager
def somebody_else(url: str) -> Iterator[Connection]:
    """A transaction of a program that knows nothing of the store."""
    with _engine(url).begin() as connection:
        yield connection


@cache
def _engine(url: str) -> Engine:
    return sa.create_engine(url, poolclass=NullPool)


def behind_its_back(url: str, statement: str, **values: object) -> list[Any]:
    """Do to the database what a disk, an operator or another program might do.

    Returns the rows of a query: tuples, or values if there is one column.
    """
    with _engine(url).connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        result = connection.execute(text(statement), values)
        if not result.returns_rows:
            return []
        rows = result.all()
    return [row[0] if len(row) == 1 else tuple(row) for row in rows]


def merge_rows(url: str, document_id: int, first: int, last: int, data: bytes) -> None:
    """Let one row stand for several positions."""
    behind_its_back(
        url,
        "DELETE FROM updates WHERE document_id = :id"
        " AND position BETWEEN :first AND :last",
        id=document_id,
        first=first,
        last=last,
    )
    span = last - first + 1
    behind_its_back(
        url,
        "INSERT INTO updates (document_id, position, data, at, crc, span)"
        " VALUES (:id, :last, :data, 0, :crc, :span)",
        id=document_id,
        last=last,
        data=data,
        crc=checksum(document_id, last, data, span=span),
        span=span,
    )


def discard_rows(url: str, document_id: int, base: int) -> None:
    """Let a snapshot stand for the rows up to a position."""
    for statement in (
        "DELETE FROM updates WHERE document_id = :id AND position <= :base",
        "DELETE FROM snapshots WHERE document_id = :id AND position < :base",
        "UPDATE documents SET base = :base WHERE id = :id",
    ):
        behind_its_back(url, statement, id=document_id, base=base)


def hang_up(url: str) -> None:
    """Let the server end all connections to its database."""
    with somebody_else(url) as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        query = (
            "SELECT id FROM information_schema.processlist"
            " WHERE db = database() AND id <> connection_id()"
        )
        for number in connection.exec_driver_sql(query).scalars().all():
            connection.exec_driver_sql(f"KILL {number}")
        while connection.exec_driver_sql(query).first():
            pass


@contextmanager
def lost_answers(url: str, fates: Iterable[bool | None]) -> Iterator[None]:
    """Lose the connection as the next transactions commit.

    ``True``: it was committed, ``False``: it wasn't; ``None``: all goes well.
    """
    following = list(fates)
    database = make_url(url).database

    def commit(connection: Connection) -> None:
        if connection.engine.url.database != database or not following:
            return
        fate = following.pop(0)
        if fate is None:
            return
        dialect = connection.engine.dialect
        finish = dialect.do_commit if fate else dialect.do_rollback
        finish(connection.connection)
        raise OperationalError(
            "COMMIT", None, _gone(dialect.name), connection_invalidated=True
        )

    event.listen(Engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(Engine, "commit", commit)
    assert not following, "there were fewer commits"


def _gone(dialect: str) -> Exception:
    """What a driver says of a server that is gone, or SQLite of a broken disk."""
    if dialect == "postgresql":
        return psycopg.OperationalError("server closed the connection unexpectedly")
    if dialect in ("mysql", "mariadb"):
        return pymysql.err.OperationalError(2013, "Lost connection during query")
    broken = sqlite3.OperationalError("disk I/O error")
    broken.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return broken


def everything(url: str) -> bytes:
    """All that the tables hold in columns of any kind."""
    found: list[bytes] = []
    with somebody_else(url) as connection:
        inspector = sa.inspect(connection)
        for table in inspector.get_table_names():
            for row in connection.execute(text(f"SELECT * FROM {table}")):
                found += [
                    bytes(value)
                    if isinstance(value, bytes | memoryview)
                    else str(value).encode()
                    for value in row
                ]
    return b"\0".join(found)


def empty(url: str) -> None:
    """Take everything out of the tables."""
    with somebody_else(url) as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())


def url_of(url: str, **parts: Any) -> str:
    """A URL with other parts."""
    return make_url(url).set(**parts).render_as_string(hide_password=False)


def check_whole_commits(store: Store) -> None:
    """Read from three threads while one writes: nobody sees a part of a commit."""
    append(store, "doc", b"x", b"x", b"x")
    done = threading.Event()
    torn: list[Stored] = []

    def read() -> None:
        while not done.is_set():
            stored = store.load("doc")
            if stored.head % 3 or stored.damaged or len(stored.rows) != stored.head:
                torn.append(stored)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    heads = [append(store, "doc", b"x", b"x", b"x") for _ in range(100)]
    done.set()
    for reader in readers:
        reader.join()
    assert heads == list(range(6, 306, 3))
    assert torn == []
