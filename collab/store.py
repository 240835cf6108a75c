"""The log in SQL: what every document has been told, in order, on disk.

An update has a position in its document's log: 1, 2, 3, without a gap. An edit exists
when the transaction that gave it a position has committed. Everything else here serves
opening a document quickly (snapshots) or finding it (documents).

The methods block, and may be called from any thread. Writing happens on one connection
behind one lock, reading on as many as there are threads. Python releases the GIL for
each statement and must win it back from a busy event loop afterwards, which takes up
to 5 ms; hence a commit is four statements, however many rows it has.
"""

from __future__ import annotations

import sqlite3
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import NamedTuple, TypeVar
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy import Column, Connection, event, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from .errors import DatabaseTooNew, DatabaseUnreachable, StoreError

REVISION = "0001"
"""The newest migration: a database that has it is opened without importing Alembic."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that is writing to the same SQLite file."""

WAL_SIZE = 64 * 2**20
"""Bytes to which SQLite truncates its write-ahead log after a checkpoint."""

ROWS_PER_STATEMENT = 128
"""Rows per INSERT: each number of rows is a statement that SQLite keeps prepared."""

KNOWN_HEADS = 100_000
"""Documents whose id and head are remembered between two appends."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_BLOB = sa.LargeBinary(2**32 - 1)
# Names are compared byte by byte. On MySQL even the binary collations of text take
# "a" and "a " for the same name; bytes don't.
_NAME = (
    sa.String(255)
    .with_variant(sa.String(255, collation="C"), "postgresql")
    .with_variant(sa.VARBINARY(255), "mysql", "mariadb")
)
# Times are milliseconds since 1970 in UTC: the one representation that all databases
# store, compare and return alike.


def _document_id() -> Column[int]:
    return Column(
        "document_id",
        _ID,
        sa.ForeignKey("documents.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )


def _position() -> Column[int]:
    return Column("position", sa.BigInteger, primary_key=True, autoincrement=False)


documents = sa.Table(
    "documents",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("head", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    Column("epoch", sa.String(32), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("updated_at", sa.BigInteger, nullable=False),
    Column("deleted_at", sa.BigInteger),
    Column("metadata", sa.JSON),
    # Without it SQLite may give the id of a deleted document to the next one.
    sqlite_autoincrement=True,
)
# Design and Python say "update" and "index"; as column names both must be quoted, and
# each database quotes differently.
updates = sa.Table(
    "updates",
    metadata,
    _document_id(),
    _position(),
    Column("data", _BLOB, nullable=False),
    Column("author", sa.Text),
    Column("at", sa.BigInteger, nullable=False),
    Column("crc", sa.BigInteger, nullable=False),
)
snapshots = sa.Table(
    "snapshots",
    metadata,
    _document_id(),
    _position(),
    Column("state", _BLOB, nullable=False),
    Column("gate", _BLOB, nullable=False),
    Column("at", sa.BigInteger, nullable=False),
    Column("crc", sa.BigInteger, nullable=False),
)
versions = sa.Table(
    "versions",
    metadata,
    _document_id(),
    _position(),
    Column("name", sa.String(255), nullable=False),
    Column("author", sa.Text),
    Column("at", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Append:
    """What one document gains in a commit: updates and their authors, in order."""

    name: str
    updates: Sequence[tuple[bytes, str | None]]


class Row(NamedTuple):
    """One update of a log. A tuple, since there may be 100,000 in a tail."""

    position: int
    update: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the updates up to a position add up to."""

    position: int
    state: bytes
    index: bytes
    """Opaque bytes that the gate needs beside the state."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """What the log should hold and doesn't: a snapshot, or updates ``first..last``."""

    what: str
    first: int
    last: int
    cause: str

    def __str__(self) -> str:
        here = (
            str(self.first)
            if self.first == self.last
            else f"{self.first} to {self.last}"
        )
        return f"{self.what} {here} {self.cause}"


@dataclass(frozen=True, slots=True)
class Stored:
    """What the log holds of a document, in one consistent view."""

    document_id: int | None
    epoch: str | None
    head: int
    snapshot: Snapshot | None
    """The newest that is undamaged."""
    rows: list[Row]
    """The undamaged updates behind the snapshot, in order."""
    damaged: list[Damaged]
    """What had to be left out. Empty, unless a disk or an operator failed."""


def checksum(document_id: int, position: int, *data: bytes) -> int:
    """The CRC-32 of a row.

    It covers where the row belongs, so that rows which changed places are found too.
    """
    crc = crc32(_WHERE.pack(document_id, position))
    for part in data:
        crc = crc32(part, crc)
    return crc


T = TypeVar("T")
_WHERE = struct.Struct(">qq")


@lru_cache(maxsize=ROWS_PER_STATEMENT)
def _advance(count: int) -> str:
    return (
        "UPDATE documents SET head = documents.head + gain.column3, updated_at = ?"
        f" FROM (VALUES {', '.join(['(?, ?, ?)'] * count)}) AS gain"
        " WHERE documents.id = gain.column1 AND documents.head = gain.column2"
    )


@lru_cache(maxsize=ROWS_PER_STATEMENT)
def _insert(count: int) -> str:
    return (
        "INSERT INTO updates (document_id, position, data, author, at, crc)"
        f" VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * count)}"
    )


def _now() -> int:
    return int(time.time() * 1000)


class Store:
    """The log of all documents in one database."""

    def __init__(self, url: str) -> None:
        """Check the URL; nothing is opened yet.

        Raises:
            DatabaseUnreachable: If this version has no such database.
        """
        try:
            parsed = sa.make_url(url)
            driver = parsed.get_driver_name()
        except (ArgumentError, NoSuchModuleError):
            raise DatabaseUnreachable(
                f"{url!r} is not the URL of a database; write sqlite:///collab.db or"
                " sqlite:////absolute/path/collab.db"
            ) from None
        if parsed.get_backend_name() != "sqlite" or driver != "pysqlite":
            raise DatabaseUnreachable(
                f"{parsed.render_as_string()}: this version keeps its log in SQLite;"
                " write sqlite:///collab.db or sqlite:////absolute/path/collab.db"
            )
        self._shown = parsed.render_as_string()
        self.url = url
        self.in_memory = parsed.database in (None, "", ":memory:")
        self.path = None if self.in_memory else Path(str(parsed.database)).absolute()
        self._engine = sa.create_engine(
            parsed,
            connect_args={
                "timeout": BUSY_TIMEOUT,
                "cached_statements": 2 * ROWS_PER_STATEMENT,
                "check_same_thread": False,
            },
            poolclass=StaticPool if self.in_memory else None,
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", _begin)
        self._writing = RLock()
        # A database in memory has one connection, so its readers wait for the writer.
        self._reading: AbstractContextManager[object] = (
            self._writing if self.in_memory else nullcontext()
        )
        self._writer: Connection | None = None
        self._heads: dict[str, tuple[int, int]] = {}

    def __str__(self) -> str:
        """The URL of the database, without its password."""
        return self._shown

    def open(self) -> None:
        """Connect, and bring the tables up to date.

        Any number of processes may open a new database at once.

        Raises:
            DatabaseUnreachable: If the database cannot be read and written.
            DatabaseTooNew: If a newer version of this package has changed the tables.
        """
        with self.exclusively() as connection:
            found = None
            if sa.inspect(connection).has_table("alembic_version"):
                query = "SELECT version_num FROM alembic_version"
                found = connection.exec_driver_sql(query).scalar()
            if found != REVISION:
                self._migrate(connection, found)

    def close(self) -> None:
        """Close all connections. Closing twice is harmless."""
        with self._writing:
            self._hang_up()
            self._engine.dispose()

    def ping(self) -> None:
        """Check that the database answers.

        Raises:
            StoreError: If it doesn't.
        """
        with self._read() as connection:
            connection.exec_driver_sql("SELECT version_num FROM alembic_version")

    def append(self, batch: Sequence[Append]) -> list[int]:
        """Append to several logs in one transaction; return the new head of each.

        When this returns, the updates are on disk. Documents that don't exist are
        created. A document may occur more than once.

        Raises:
            DatabaseUnreachable: If nothing can be written now.
            StoreError: If something in the batch cannot be stored.

        Nothing of the batch is stored then.
        """
        if not batch:
            return []
        with self._writing:
            heads = self._append(batch)
            if heads is None:
                # Another process appended to, or deleted, one of the documents. What
                # we remember is forgotten now, and read within the transaction.
                heads = self._append(batch)
        assert heads is not None
        return heads

    def load(self, name: str) -> Stored:
        """Read all that is needed to open a document. Reading creates nothing.

        The damaged is reported, not hidden: behind a damaged snapshot stands the
        previous one, with more rows.
        """
        with self._read() as connection:
            found = connection.execute(
                select(documents.c.id, documents.c.epoch, documents.c.head).where(
                    documents.c.name == name
                )
            ).one_or_none()
            if found is None:
                return Stored(None, None, 0, None, [], [])
            document_id, epoch, head = found
            damaged: list[Damaged] = []
            snapshot = _newest(connection, document_id, damaged)
            after = snapshot.position if snapshot else 0
            rows = _rows(connection, document_id, after, head, damaged)
            return Stored(document_id, epoch, head, snapshot, rows, damaged)

    def read(self, name: str, after: int, limit: int) -> list[Row]:
        """Read at most ``limit`` updates behind a position, but no damaged ones."""
        with self._read() as connection:
            found = connection.execute(
                select(documents.c.id, documents.c.head).where(documents.c.name == name)
            ).one_or_none()
            if found is None:
                return []
            until = min(found.head, after + limit)
            return _rows(connection, found.id, after, until, [])

    def write_snapshot(
        self, document_id: int, position: int, state: bytes, index: bytes
    ) -> bool:
        """Keep what the updates up to a position add up to, and the snapshot before.

        Writing it again changes nothing, or repairs it. ``False``: there is a newer
        one, or no such position, since the document was deleted meanwhile.
        """
        with self.exclusively() as connection:
            head = connection.execute(
                select(documents.c.head).where(documents.c.id == document_id)
            ).scalar()
            if head is None or head < position:
                return False
            here = snapshots.c.document_id == document_id
            kept = connection.scalars(
                select(snapshots.c.position)
                .where(here)
                .order_by(snapshots.c.position.desc())
            ).all()
            if kept and kept[0] > position:
                return False
            previous = [other for other in kept if other < position][:1]
            connection.execute(
                snapshots.delete().where(here, snapshots.c.position.not_in(previous))
            )
            connection.execute(
                sa.insert(snapshots).values(
                    document_id=document_id,
                    position=position,
                    state=state,
                    gate=index,
                    at=_now(),
                    crc=checksum(document_id, position, state, index),
                )
            )
            return True

    def names(self, after: str = "", limit: int = 1000) -> list[str]:
        """List documents by name, in the order of their bytes."""
        with self._read() as connection:
            query = (
                select(documents.c.name)
                .where(documents.c.name > after, documents.c.deleted_at.is_(None))
                .order_by(documents.c.name)
                .limit(limit)
            )
            return list(connection.scalars(query))

    def exists(self, name: str) -> bool:
        """Whether the document has ever been written to."""
        with self._read() as connection:
            query = select(documents.c.id).where(documents.c.name == name)
            return connection.execute(query).first() is not None

    # -- appending --

    def _append(self, batch: Sequence[Append]) -> list[int] | None:
        """Append, or return ``None`` if the heads we remember are no longer true."""
        gains: dict[str, int] = {}
        for entry in batch:
            gains[entry.name] = gains.get(entry.name, 0) + len(entry.updates)
        now = _now()
        with self.exclusively() as connection:
            heads = {n: self._heads[n] for n in gains if n in self._heads}
            if unknown := [name for name in gains if name not in heads]:
                heads.update(_find_or_create(connection, unknown, now))
            advances = [v for n, gain in gains.items() for v in (*heads[n], gain)]
            advanced = 0
            for part in _slices(advances, 3 * ROWS_PER_STATEMENT):
                advanced += connection.exec_driver_sql(
                    _advance(len(part) // 3), (now, *part)
                ).rowcount
            if advanced != len(gains):
                self._heads.clear()
                connection.rollback()
                return None
            values: list[object] = []
            result = []
            for entry in batch:
                document_id, head = heads[entry.name]
                for update, author in entry.updates:
                    head += 1
                    crc = checksum(document_id, head, update)
                    values += (document_id, head, update, author, now, crc)
                heads[entry.name] = document_id, head
                result.append(head)
            for rows in _slices(values, 6 * ROWS_PER_STATEMENT):
                connection.exec_driver_sql(_insert(len(rows) // 6), tuple(rows))
        if len(self._heads) > KNOWN_HEADS:
            self._heads.clear()
        self._heads.update(heads)
        return result

    # -- connections --

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._reading, self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def exclusively(self) -> Iterator[Connection]:
        with self._writing, self._translated():
            try:
                if self._writer is None:
                    self._writer = self._engine.connect().execution_options(write=True)
                with self._writer.begin():
                    yield self._writer
            except BaseException:
                # Whatever happened, the next one starts with a new connection.
                self._heads.clear()
                self._hang_up()
                raise

    def _hang_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if self.path:
            writer.invalidate()
        writer.close()

    def _migrate(self, connection: Connection, found: str | None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
        config.attributes["connection"] = connection
        known = {
            s.revision for s in ScriptDirectory.from_config(config).walk_revisions()
        }
        if found is not None and found not in known:
            raise DatabaseTooNew(
                f"{self.path} was written by a newer version of collab-server (its"
                f" tables are at {found}, this version knows {REVISION}); install that"
                " version or restore a backup"
            )
        command.upgrade(config, "head")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what a database, a driver or a file system says as a StoreError."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, ValueError, OverflowError) as exc:
            cause = exc.orig if isinstance(exc, DBAPIError) else exc
            code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
            where = self.path or "in memory"
            if advice := _advice(code, self.path):
                raise DatabaseUnreachable(
                    f"cannot use the database {where}: {cause} ({advice})"
                ) from exc
            raise StoreError(f"the database {where} refused: {cause}") from exc


def _advice(code: int, path: Path | None) -> str | None:
    """What to do about an error of SQLite that is not the fault of a statement."""
    match code:
        case sqlite3.SQLITE_CANTOPEN if path and not path.parent.is_dir():
            return f"create the directory {path.parent}, or name another file"
        case sqlite3.SQLITE_CANTOPEN if path and path.is_dir():
            return "it is a directory; name a file in it"
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return "let this user read and write the file and its directory"
        case sqlite3.SQLITE_NOTADB:
            return "it is some other file; name another"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return (
                f"another process has been writing to it for {BUSY_TIMEOUT:g} seconds"
            )
        case sqlite3.SQLITE_FULL:
            return "make room on its disk"
        case sqlite3.SQLITE_IOERR:
            return "see to its disk"
        case _:
            return None


def _find_or_create(
    connection: Connection, names: Sequence[str], now: int
) -> dict[str, tuple[int, int]]:
    """The ids and heads of documents, by name."""
    found: dict[str, tuple[int, int]] = {}
    for part in _slices(names, ROWS_PER_STATEMENT):
        query = select(documents.c.name, documents.c.id, documents.c.head).where(
            documents.c.name.in_(part)
        )
        found |= {name: (id, head) for name, id, head in connection.execute(query)}
        if missing := [name for name in part if name not in found]:
            rows = [
                {
                    "name": name,
                    "epoch": uuid.uuid4().hex,
                    "created_at": now,
                    "updated_at": now,
                }
                for name in missing
            ]
            connection.execute(sa.insert(documents), rows)
            found |= {name: (id, head) for name, id, head in connection.execute(query)}
    return found


def _newest(
    connection: Connection, document_id: int, damaged: list[Damaged]
) -> Snapshot | None:
    positions = connection.scalars(
        select(snapshots.c.position)
        .where(snapshots.c.document_id == document_id)
        .order_by(snapshots.c.position.desc())
    ).all()
    for position in positions:
        state, gate, crc = connection.execute(
            select(snapshots.c.state, snapshots.c.gate, snapshots.c.crc).where(
                snapshots.c.document_id == document_id,
                snapshots.c.position == position,
            )
        ).one()
        if crc == checksum(document_id, position, state, gate):
            return Snapshot(position, state, gate)
        damaged.append(Damaged("snapshot", position, position, "has a wrong CRC-32"))
    return None


def _rows(
    connection: Connection,
    document_id: int,
    after: int,
    until: int,
    damaged: list[Damaged],
) -> list[Row]:
    rows = []
    expected = after + 1
    for position, data, crc in connection.exec_driver_sql(
        "SELECT position, data, crc FROM updates"
        " WHERE document_id = ? AND position > ? AND position <= ?"
        " ORDER BY position",
        (document_id, after, until),
    ):
        if position != expected:
            damaged.append(Damaged("update", expected, position - 1, "is missing"))
        expected = position + 1
        if crc == checksum(document_id, position, data):
            rows.append(Row(position, data))
        else:
            damaged.append(Damaged("update", position, position, "has a wrong CRC-32"))
    if expected <= until:
        damaged.append(Damaged("update", expected, until, "is missing"))
    return rows


def _configure(connection: sqlite3.Connection, _: object) -> None:
    # Python's sqlite3 would begin transactions on its own: late, and not for reading.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = FULL")  # A commit returns from the disk.
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16000")  # KiB
    connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE}")
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            # Two processes are creating the file, and for this SQLite does not wait.
            if (
                exc.sqlite_errorcode != sqlite3.SQLITE_BUSY
                or time.monotonic() > deadline
            ):
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that starts reading and then writes fails if somebody else wrote in
    # between; one that is going to write says so.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _migrations() -> Path:
    """Where the migrations are: inside the installed package, or beside it."""
    package = Path(__file__).parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def _slices(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]
