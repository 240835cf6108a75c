"""Documents as things: found, described, deleted, and kept in quarantine.

What is said here of a document concerns all processes that serve it; each of them looks
from time to time what became of those it has open.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, text

from .databases import Database, slices
from .errors import DocumentGone, StoreError
from .schema import BLOB, Name
from .store import Damaged, milliseconds

PAGE = 500
"""Documents that are asked for in one statement."""

OLD_RUN = 30 * 24 * 3600 * 1000
"""Milliseconds after which nobody wonders what became of a process."""

_NAMED = sa.bindparam("name", type_=Name)
_LIST = (
    text(
        "SELECT name, head, created_at, updated_at, deleted_at, purged_at"
        " FROM documents WHERE name > :after"
        " AND (deleted_at IS NULL OR :deleted = 1) ORDER BY name LIMIT :limit"
    )
    .bindparams(sa.bindparam("after", type_=Name))
    .columns(name=Name)
)
_COUNT = text("SELECT COUNT(*) FROM documents WHERE deleted_at IS NULL OR :deleted = 1")
_DESCRIBE = (
    text(
        "SELECT id, name, epoch, head, base, created_at, updated_at, deleted_at,"
        " purged_at, tidied_at, metadata FROM documents WHERE name = :name"
    )
    .bindparams(_NAMED)
    .columns(name=Name, metadata=sa.JSON)
)
_SIZES = {
    "rows": "SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0) FROM updates",
    "snapshots": "SELECT COUNT(*), COALESCE(SUM(LENGTH(state) + LENGTH(gate)), 0)"
    " FROM snapshots",
    "quarantined": "SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0) FROM quarantine",
}
_DELETE = text(
    "UPDATE documents SET deleted_at = :now WHERE name = :name AND deleted_at IS NULL"
).bindparams(_NAMED)
_RESTORE = text(
    "UPDATE documents SET deleted_at = NULL"
    " WHERE name = :name AND deleted_at IS NOT NULL AND purged_at IS NULL"
).bindparams(_NAMED)
_PURGE = text(
    "UPDATE documents SET deleted_at = COALESCE(deleted_at, :now), purged_at = :now,"
    " metadata = NULL, head = 0, base = 0, attempts = 0 WHERE id = :id"
)
_FORGET = text("DELETE FROM documents WHERE id = :id")
_ANNOTATE = text(
    "UPDATE documents SET metadata = :metadata"
    " WHERE name = :name AND deleted_at IS NULL"
).bindparams(_NAMED, sa.bindparam("metadata", type_=sa.JSON(none_as_null=True)))
_ALIVE = text(
    "SELECT id, head, epoch FROM documents WHERE id IN :ids AND deleted_at IS NULL"
).bindparams(sa.bindparam("ids", expanding=True))
_FIND = (
    text("SELECT name, id FROM documents WHERE name IN :names AND deleted_at IS NULL")
    .bindparams(sa.bindparam("names", expanding=True, type_=Name))
    .columns(name=Name)
)
_UPDATE = text(
    "SELECT position, span, data, author, at, crc FROM updates"
    " WHERE document_id = :id AND position = :last"
)
_SNAPSHOT = text(
    "SELECT state, gate, at, crc FROM snapshots"
    " WHERE document_id = :id AND position = :last"
)
_ISOLATE = text(
    "INSERT INTO quarantine"
    " (document_id, what, first, last, data, gate, author, at, crc, cause, found_at)"
    " VALUES (:id, :what, :first, :last, :data, :gate, :author, :at, :crc, :cause,"
    " :now)"
).bindparams(sa.bindparam("data", type_=BLOB), sa.bindparam("gate", type_=BLOB))
_ISOLATED = text(
    "SELECT COUNT(*) FROM quarantine"
    " WHERE document_id = :id AND what = :what AND last = :last"
)
_QUARANTINED = text(
    "SELECT what, first, last, cause FROM quarantine WHERE document_id = :id"
    " ORDER BY first"
)


class Listing(NamedTuple):
    """A line of a list of documents. Times are milliseconds since the epoch."""

    name: str
    head: int
    created_at: int
    updated_at: int
    deleted_at: int | None
    purged_at: int | None


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to know of a document without opening it.

    Times are milliseconds since the epoch, sizes are bytes.
    """

    name: str
    document_id: int
    epoch: str
    head: int
    base: int
    """The first position of its history, if that is not all of it."""
    created_at: int
    updated_at: int
    deleted_at: int | None
    purged_at: int | None
    tidied_at: int
    """When old rows were last merged and discarded; 0 is never."""
    metadata: dict[str, Any] | None
    rows: int
    rows_size: int
    snapshots: int
    snapshots_size: int
    quarantined: int
    quarantined_size: int


class Catalog:
    """The documents of a database.

    Every method may raise a :class:`~collab.errors.StoreError`; it has changed nothing
    then.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    # Finding.

    def page(
        self, after: str = "", limit: int = 1000, deleted: bool = False
    ) -> list[Listing]:
        """List documents by name, in the order of their bytes; deleted ones too."""
        where = {"after": after, "limit": limit, "deleted": int(deleted)}
        with self.database.reading() as connection:
            return [Listing(*row) for row in connection.execute(_LIST, where)]

    def listing(self, deleted: bool = False) -> Iterator[Listing]:
        """All documents by name, read in pages."""
        after = ""
        while page := self.page(after, PAGE, deleted):
            yield from page
            after = page[-1].name

    def count(self, deleted: bool = False) -> int:
        """How many documents there are."""
        with self.database.reading() as connection:
            found = connection.execute(_COUNT, {"deleted": int(deleted)}).scalar()
            return int(found or 0)

    def describe(self, name: str) -> Description | None:
        """What there is to know of a document, a deleted one too."""
        with self.database.reading() as connection:
            found = connection.execute(_DESCRIBE, {"name": name}).one_or_none()
            if found is None:
                return None
            values: dict[str, Any] = found._asdict()
            values["document_id"] = values.pop("id")
            for what, query in _SIZES.items():
                where = text(f"{query} WHERE document_id = :id")
                count, size = connection.execute(where, {"id": found.id}).one()
                values |= {what: int(count), f"{what}_size": int(size)}
        return Description(**values)

    def alive(self, ids: Sequence[int]) -> dict[int, tuple[int, str]]:
        """The heads and epochs of those of some documents that are not deleted."""
        alive: dict[int, tuple[int, str]] = {}
        with self.database.reading() as connection:
            for part in slices(ids, PAGE):
                found = connection.execute(_ALIVE, {"ids": list(part)})
                alive |= {row.id: (row.head, row.epoch) for row in found}
        return alive

    def find(self, names: Sequence[str]) -> dict[str, int]:
        """The ids of those of some documents that are there, and not deleted."""
        ids: dict[str, int] = {}
        with self.database.reading() as connection:
            for part in slices(names, PAGE):
                found = connection.execute(_FIND, {"names": list(part)})
                ids |= dict(found.all())
        return ids

    # Deleting.

    def delete(self, name: str) -> None:
        """Delete a document, for now: all of it is kept.

        Whoever has it open is sent away, and its name leads nowhere. Deleting again
        changes nothing.

        Raises:
            DocumentGone: If there is none.
        """
        with self.database.writing() as connection:
            where = {"name": name, "now": milliseconds()}
            if not connection.execute(_DELETE, where).rowcount:
                self._find(connection, name)

    def restore(self, name: str) -> None:
        """Take back that a document was deleted. It may be taken back twice.

        Raises:
            DocumentGone: If there is none.
            StoreError: If it was purged.
        """
        with self.database.writing() as connection:
            if not connection.execute(_RESTORE, {"name": name}).rowcount:
                found = self._find(connection, name)
                if found.purged_at is not None:
                    raise StoreError(f"{name!r} was purged: nothing of it is left")

    def purge(self, name: str, forget: bool = False) -> None:
        """Delete a document for good: what it had is in no table any more.

        Its name stays taken, so that no client that still has it brings it back; unless
        that shall be forgotten, too.

        Raises:
            DocumentGone: If there is none.
        """
        find = text(f"SELECT id FROM documents WHERE name = :name{self.database.alone}")
        with self.database.writing() as connection:
            id = connection.execute(find.bindparams(_NAMED), {"name": name}).scalar()
            if id is None:
                raise DocumentGone(name)
            # First of all, so that nobody adds to it any more.
            here = {"id": id, "now": milliseconds()}
            connection.execute(_PURGE, here)
            for table in ("updates", "snapshots", "versions", "quarantine"):
                statement = f"DELETE FROM {table} WHERE document_id = :id"
                connection.execute(text(statement), here)
            if forget:
                connection.execute(_FORGET, here)
        self.database.settle()

    def _find(self, connection: Connection, name: str) -> Any:
        found = connection.execute(_DESCRIBE, {"name": name}).one_or_none()
        if found is None:
            raise DocumentGone(name)
        return found

    def annotate(self, name: str, metadata: dict[str, Any] | None) -> None:
        """Keep an object of JSON with a document, in place of the one before.

        Raises:
            DocumentGone: If there is none.
            StoreError: If it is no JSON.
        """
        try:
            # Not all databases keep half of a surrogate pair, and not all take NaN.
            json.dumps(metadata, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as exc:
            raise StoreError(f"metadata of {name!r} is no JSON: {exc}") from exc
        with self.database.writing() as connection:
            where = {"name": name, "metadata": metadata}
            if not connection.execute(_ANNOTATE, where).rowcount:
                raise DocumentGone(name)

    # Damage.

    def isolate(self, document_id: int, damaged: Sequence[Damaged]) -> None:
        """Put what is damaged out of the way, as it is, and remember what is missing.

        From then on the document is what is left. Nothing is thrown away. There is
        nothing to do if the document is gone.
        """
        now = milliseconds()
        with self.database.writing() as connection:
            if document_id not in self.database.lock(connection, [document_id]):
                return
            for damage in damaged:
                snapshot = damage.what == "snapshot"
                here = {"id": document_id, "last": damage.last}
                query = _SNAPSHOT if snapshot else _UPDATE
                found = connection.execute(query, here).one_or_none()
                what = "snapshot" if snapshot else "update"
                if found is None:
                    known = connection.execute(_ISOLATED, here | {"what": what})
                    if known.scalar():
                        continue  # Another node was faster.
                row: dict[str, Any] = {
                    "what": what,
                    "first": damage.first,
                    "cause": damage.cause,
                    "data": None,
                    "gate": None,
                    "author": None,
                    "at": now,
                    "crc": None,
                    "now": now,
                }
                if found is not None:
                    row |= {"at": found.at, "crc": found.crc}
                    if snapshot:
                        row |= {"data": found.state, "gate": found.gate}
                    else:
                        row |= {"data": found.data, "author": found.author}
                        row["first"] = found.position - found.span + 1
                connection.execute(_ISOLATE, here | row)
                table = "snapshots" if snapshot else "updates"
                statement = f"DELETE FROM {table} WHERE document_id = :id"
                connection.execute(text(f"{statement} AND position = :last"), here)

    def quarantined(self, document_id: int) -> list[Damaged]:
        """What of a document is in quarantine."""
        with self.database.reading() as connection:
            found = connection.execute(_QUARANTINED, {"id": document_id})
            return [Damaged(*row) for row in found]

    # Processes that serve.

    def begin_run(self) -> Run:
        """Note that this process serves, and whether another one ended unexpectedly."""
        return Run(self.database)


class Run:
    """This process, as far as the others are concerned.

    One that did not say goodbye may have died of a document, and the next would die of
    it again. So who comes after it notes which document it is about to open.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.id = uuid.uuid4().hex
        host, pid = socket.gethostname(), os.getpid()
        now = milliseconds()
        with database.writing() as connection:
            others = connection.execute(text("SELECT id, host, pid FROM runs")).all()
            dead = [
                other.id
                for other in others
                if other.host == host and (other.pid == pid or not _lives(other.pid))
            ]
            self.wary = bool(others)
            """Whether one of the others may have died."""
            for id in dead:
                connection.execute(text("DELETE FROM runs WHERE id = :id"), {"id": id})
            old = {"old": now - OLD_RUN}
            connection.execute(text("DELETE FROM runs WHERE started_at < :old"), old)
            connection.execute(
                text(
                    "INSERT INTO runs (id, host, pid, started_at)"
                    " VALUES (:id, :host, :pid, :now)"
                ),
                {"id": self.id, "host": host, "pid": pid, "now": now},
            )

    def attempt(self, name: str) -> int:
        """Note that a document is about to be opened.

        Returns how often that was noted before without :meth:`opened`.
        """
        here = {"name": name}
        with self.database.writing() as connection:
            query = text("SELECT attempts FROM documents WHERE name = :name")
            found = connection.execute(query.bindparams(_NAMED), here).scalar()
            statement = text(
                "UPDATE documents SET attempts = attempts + 1 WHERE name = :name"
            )
            connection.execute(statement.bindparams(_NAMED), here)
            return int(found or 0)

    def opened(self, name: str) -> None:
        """Note that a document has been opened."""
        statement = text("UPDATE documents SET attempts = 0 WHERE name = :name")
        with self.database.writing() as connection:
            connection.execute(statement.bindparams(_NAMED), {"name": name})

    def end(self) -> None:
        """Note that this process ends as it should."""
        with self.database.writing() as connection:
            where = {"id": self.id}
            connection.execute(text("DELETE FROM runs WHERE id = :id"), where)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # It lives, and is somebody else's.
    return True
