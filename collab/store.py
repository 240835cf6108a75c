"""The log in SQL: what every document has been told, in order, on disk.

An update has a position in its document's log: 1, 2, 3, without a gap. An edit exists
when the transaction that gave it its position has committed. All else here serves
to open a document quickly (snapshots) or to find it (documents).

The methods block, and may be called from any thread. Writing happens on one connection
behind one lock, reading on as many as there are threads. Python gives the GIL away for
each step of a statement, and a busy event loop may keep it for 5 ms: so a commit is
BEGIN, UPDATE, INSERT and COMMIT, however many documents and updates are in it.
"""

from __future__ import annotations

import os
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
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from .errors import DatabaseTooNew, DatabaseUnreachable, StoreError

T = TypeVar("T")

REVISION = "0001"
"""The newest migration: a database that has it is opened without importing Alembic."""

SQLITE = (3, 33, 0)
"""The oldest SQLite that knows ``UPDATE ... FROM``."""

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process that is writing to the same SQLite file."""

WAL_SIZE = 64 * 2**20
"""Bytes to which SQLite truncates its write-ahead log after a checkpoint."""

ROWS_PER_STATEMENT = 128
"""Rows per INSERT. Each number of rows is a statement that stays prepared (94 KB for
128 rows), so that a commit costs a third; more rows take more statements."""

KNOWN_HEADS = 20_000
"""Documents whose id and head are remembered from one append to the next."""

# Queries.

_FIND = text("SELECT id, epoch, head FROM documents WHERE name = :name")
_FIND_ALL = text(
    "SELECT name, id, head FROM documents WHERE name IN :names"
).bindparams(sa.bindparam("names", expanding=True))
_LIST = text(
    "SELECT name FROM documents WHERE name > :after AND deleted_at IS NULL"
    " ORDER BY name LIMIT :limit"
)
_CREATE = text(
    "INSERT INTO documents (name, epoch, created_at, updated_at)"
    " VALUES (:name, :epoch, :now, :now)"
)
_HEAD = text("SELECT head FROM documents WHERE id = :id")
_UPDATES = text(
    "SELECT position, data, crc FROM updates"
    " WHERE document_id = :id AND position > :after AND position <= :until"
    " ORDER BY position"
)
_SNAPSHOTS = text(
    "SELECT position FROM snapshots WHERE document_id = :id ORDER BY position DESC"
)
_SNAPSHOT = text(
    "SELECT state, gate, crc FROM snapshots"
    " WHERE document_id = :id AND position = :position"
)
_DELETE_SNAPSHOT = text(
    "DELETE FROM snapshots WHERE document_id = :id AND position = :position"
)
_INSERT_SNAPSHOT = text(
    "INSERT INTO snapshots (document_id, position, state, gate, at, crc)"
    " VALUES (:id, :position, :state, :gate, :at, :crc)"
)


@lru_cache(ROWS_PER_STATEMENT)
def _advance(count: int) -> str:
    # VALUES has no other names for its columns: here id, head before, and gain.
    rows = ", ".join(["(?, ?, ?)"] * count)
    return (
        "UPDATE documents SET head = head + column3, updated_at = ?"
        f" FROM (VALUES {rows}) WHERE id = column1 AND head = column2"
    )


@lru_cache(ROWS_PER_STATEMENT)
def _insert(count: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?, ?)"] * count)
    return (
        "INSERT INTO updates (document_id, position, data, author, at, crc)"
        f" VALUES {rows}"
    )


# Values.


@dataclass(frozen=True, slots=True)
class Append:
    """What one document gains in a commit: updates and their authors, in order."""

    name: str
    updates: Sequence[tuple[bytes, str | None]]


class Row(NamedTuple):
    """One update of a log. A tuple, since a tail may have 100,000."""

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
        until = f" to {self.last}" if self.last > self.first else ""
        return f"{self.what} {self.first}{until} {self.cause}"


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
    crc = crc32(_PLACE.pack(document_id, position))
    for part in data:
        crc = crc32(part, crc)
    return crc


_PLACE = struct.Struct(">qq")


class Store:
    """The log of all documents, in one database.

    Every method may raise a :class:`~collab.errors.StoreError`; it has changed nothing
    then.
    """

    def __init__(self, url: str) -> None:
        """Check the URL; nothing is opened yet.

        Raises:
            DatabaseUnreachable: If there is no such database, or no driver for it.
        """
        usage = "write sqlite:///collab.db or sqlite:////absolute/path/collab.db"
        try:
            parsed = sa.make_url(url)
            driver = parsed.get_dialect().driver
        except (ArgumentError, NoSuchModuleError):
            raise DatabaseUnreachable(f"{url!r} is no database; {usage}") from None
        self._shown = parsed.render_as_string()
        if driver != "pysqlite":
            raise DatabaseUnreachable(
                f"this version cannot keep its log in {self._shown}; {usage}"
            )
        if sqlite3.sqlite_version_info < SQLITE:
            raise DatabaseUnreachable(
                f"this Python has SQLite {sqlite3.sqlite_version}, and the log needs"
                f" {'.'.join(map(str, SQLITE))}; install a newer Python"
            )
        self.url = url
        self.path = (
            Path(parsed.database).absolute()
            if parsed.database and parsed.database != ":memory:"
            else None
        )
        options = {
            "timeout": str(BUSY_TIMEOUT),
            "cached_statements": str(2 * ROWS_PER_STATEMENT),
            "check_same_thread": "false",
        }
        self._engine = sa.create_engine(
            parsed.set(query=options | dict(parsed.query)),
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

    @property
    def in_memory(self) -> bool:
        """Whether the log is gone with this process, and no other can read it."""
        return self.path is None

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
                query = text("SELECT version_num FROM alembic_version")
                found = connection.execute(query).scalar()
            if found != REVISION:
                self._migrate(connection, found)
                return
            # SQLite begins to write in a file that it may only read: try it.
            touch = text("UPDATE alembic_version SET version_num = version_num")
            connection.execute(touch)

    def close(self) -> None:
        """Close all connections. Closing twice is harmless."""
        with self._writing:
            self._hang_up()
            self._engine.dispose()

    def ping(self) -> None:
        """Check that the database answers."""
        with self._view() as connection:
            connection.execute(text("SELECT version_num FROM alembic_version"))

    def append(self, batch: Sequence[Append]) -> list[int]:
        """Append to several logs in one transaction; return the new head of each.

        When this returns, the updates are on disk. Documents that don't exist are
        created. A document may occur more than once.

        Raises:
            DatabaseUnreachable: If nothing can be written at the moment.
            StoreError: If something in the batch cannot be stored.
        """
        if not batch:
            return []
        with self._writing:
            heads = self._append(batch)
            if heads is None:
                # Another process appended to one of the documents, or deleted it. Now
                # that we remember nothing, we read within the transaction.
                heads = self._append(batch)
        assert heads is not None
        return heads

    def load(self, name: str) -> Stored:
        """Read all that is needed to open a document. Reading creates nothing.

        What is damaged is left out, and reported. Behind a damaged snapshot stands the
        previous one, with more rows.
        """
        with self._view() as connection:
            found = connection.execute(_FIND, {"name": name}).one_or_none()
            if found is None:
                return Stored(None, None, 0, None, [], [])
            document_id, epoch, head = found
            damaged: list[Damaged] = []
            snapshot = _newest(connection, document_id, damaged)
            after = snapshot.position if snapshot else 0
            rows = _rows(connection, document_id, after, head, damaged)
            return Stored(document_id, epoch, head, snapshot, rows, damaged)

    def read(self, name: str, after: int, limit: int) -> list[Row]:
        """Read the undamaged updates at the ``limit`` positions behind ``after``."""
        with self._view() as connection:
            found = connection.execute(_FIND, {"name": name}).one_or_none()
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
        here = {"id": document_id, "position": position}
        with self.exclusively() as connection:
            head = connection.execute(_HEAD, here).scalar()
            if head is None or head < position:
                return False
            kept = connection.execute(_SNAPSHOTS, here).scalars().all()
            if kept and kept[0] > position:
                return False
            previous = next((other for other in kept if other < position), None)
            for other in kept:
                if other != previous:
                    old = {"id": document_id, "position": other}
                    connection.execute(_DELETE_SNAPSHOT, old)
            crc = checksum(document_id, position, state, index)
            row = {"state": state, "gate": index, "at": _now(), "crc": crc}
            connection.execute(_INSERT_SNAPSHOT, here | row)
            return True

    def names(self, after: str = "", limit: int = 1000) -> list[str]:
        """List documents by name, in the order of their bytes."""
        with self._view() as connection:
            rows = connection.execute(_LIST, {"after": after, "limit": limit})
            return list(rows.scalars())

    def exists(self, name: str) -> bool:
        """Whether the document has ever been written to."""
        with self._view() as connection:
            return connection.execute(_FIND, {"name": name}).first() is not None

    @contextmanager
    def exclusively(self) -> Iterator[Connection]:
        """A transaction that is alone in writing from beginning to end."""
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

    @contextmanager
    def _view(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and never waits."""
        with self._reading, self._translated(), self._engine.begin() as connection:
            yield connection

    def _append(self, batch: Sequence[Append]) -> list[int] | None:
        """Append, or return ``None`` if the heads we remember are no longer true."""
        gains: dict[str, int] = {}
        for entry in batch:
            gains[entry.name] = gains.get(entry.name, 0) + len(entry.updates)
        now = _now()
        with self.exclusively() as connection:
            heads = {name: self._heads[name] for name in gains if name in self._heads}
            unknown = [name for name in gains if name not in heads]
            for names in _slices(unknown, ROWS_PER_STATEMENT):
                heads |= _find_or_create(connection, names, now)
            advanced = 0
            for part in _slices(list(gains), ROWS_PER_STATEMENT):
                values = (v for name in part for v in (*heads[name], gains[name]))
                statement = _advance(len(part))
                result = connection.exec_driver_sql(statement, (now, *values))
                advanced += result.rowcount
            if advanced != len(gains):
                self._heads.clear()
                connection.rollback()
                return None
            rows: list[object] = []
            reached = []
            for entry in batch:
                document_id, head = heads[entry.name]
                for update, author in entry.updates:
                    head += 1
                    crc = checksum(document_id, head, update)
                    rows += (document_id, head, update, author, now, crc)
                heads[entry.name] = document_id, head
                reached.append(head)
            for fields in _slices(rows, 6 * ROWS_PER_STATEMENT):
                connection.exec_driver_sql(_insert(len(fields) // 6), tuple(fields))
        if len(self._heads) > KNOWN_HEADS:
            self._heads.clear()
        self._heads |= heads
        return reached

    def _hang_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not self.in_memory:
            writer.invalidate()
        writer.close()

    def _migrate(self, connection: Connection, found: str | None) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
        config.attributes["connection"] = connection
        scripts = ScriptDirectory.from_config(config).walk_revisions()
        if found is not None and found not in {script.revision for script in scripts}:
            raise DatabaseTooNew(
                f"a newer version of collab-server wrote {self} (its tables are at"
                f" revision {found}, and this one knows {REVISION}); install that, or"
                " restore a backup"
            )
        command.upgrade(config, "head")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what a database or its driver says as a StoreError."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, ValueError, OverflowError) as exc:
            cause = exc.orig if isinstance(exc, DBAPIError) else exc
            advice = _advice(getattr(cause, "sqlite_errorcode", 0) & 0xFF, self.path)
            if advice:
                message = f"cannot use the database {self}: {cause}; {advice}"
                raise DatabaseUnreachable(message) from exc
            raise StoreError(f"the database {self} refuses: {cause}") from exc


def _advice(code: int, path: Path | None) -> str | None:
    """What to do about an error of SQLite that is no fault of the statement."""
    match code:
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
        case _:
            return None


def _find_or_create(
    connection: Connection, names: Sequence[str], now: int
) -> dict[str, tuple[int, int]]:
    """The ids and heads of documents, by name."""
    rows = connection.execute(_FIND_ALL, {"names": names})
    found = {name: (id, head) for name, id, head in rows}
    missing = [
        {"name": name, "epoch": uuid.uuid4().hex, "now": now}
        for name in names
        if name not in found
    ]
    if not missing:
        return found
    connection.execute(_CREATE, missing)
    return _find_or_create(connection, names, now)


def _newest(
    connection: Connection, document_id: int, damaged: list[Damaged]
) -> Snapshot | None:
    for position in connection.execute(_SNAPSHOTS, {"id": document_id}).scalars().all():
        here = {"id": document_id, "position": position}
        state, gate, crc = connection.execute(_SNAPSHOT, here).one()
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
    where = {"id": document_id, "after": after, "until": until}
    for position, data, crc in connection.execute(_UPDATES, where).all():
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
    connection.execute("PRAGMA synchronous = FULL")  # Each commit reaches the disk.
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16000")  # KiB
    # What a statement would undo is kept in memory, not in a new file each time.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_SIZE}")
    patience = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
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


def _migrations() -> Path:
    """Where the migrations are: in the installed package, or beside it."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _slices(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


def _now() -> int:
    return int(time.time() * 1000)
