"""How much of a document's past is kept: rows merged, rows discarded.

A document's log ends at its head and begins at its base, for which a snapshot stands.
Rows up to the base are dead, whoever takes them away and whenever. Each method is a
transaction of its own, after any of which the process may die; any number of nodes may
do the same at once, and none of them holds up who writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import text

from .databases import Database
from .schema import BLOB, Name
from .store import Row, checksum
from .thinning import Merged, Old

DISCARDED = 5000
"""Rows that are discarded in one transaction."""

PAGE = 2000
"""Rows that are read in one statement."""

# Queries.

_STATE = text(
    "SELECT id, head, base, tidied_at,"
    " (SELECT MAX(position) FROM snapshots WHERE document_id = documents.id) AS newest"
    " FROM documents WHERE name = :name AND deleted_at IS NULL"
).bindparams(sa.bindparam("name", type_=Name))
_BASE = text("SELECT base FROM documents WHERE id = :id")
_ROWS = text(
    "SELECT position, span, data, author, at, crc FROM updates"
    " WHERE document_id = :id AND position > :after AND position <= :until"
    " ORDER BY position LIMIT :limit"
)
_YOUNG = text(
    "SELECT MIN(position - span) FROM updates"
    " WHERE document_id = :id AND position > :base AND at >= :cutoff"
)
_SIZES = text(
    "SELECT position, span, LENGTH(data) FROM updates"
    " WHERE document_id = :id AND position > :base AND position <= :until"
    " ORDER BY position DESC LIMIT :limit"
)
_LANDMARKS = text(
    "SELECT position FROM snapshots WHERE document_id = :id UNION"
    " SELECT position FROM versions WHERE document_id = :id UNION"
    " SELECT base FROM documents WHERE id = :id"
)
_REMOVE = text(
    "DELETE FROM updates"
    " WHERE document_id = :id AND position >= :first AND position <= :position"
)
_PUT = text(
    "INSERT INTO updates (document_id, position, data, author, at, crc, span)"
    " VALUES (:id, :position, :data, :author, :at, :crc, :span)"
).bindparams(sa.bindparam("data", type_=BLOB))
_RAISE = text("UPDATE documents SET base = :base WHERE id = :id AND base < :base")
_SNAPSHOTS = text(
    "SELECT position FROM snapshots WHERE document_id = :id ORDER BY position DESC"
)
_DELETE_SNAPSHOT = text(
    "DELETE FROM snapshots WHERE document_id = :id AND position = :position"
)
_DEAD = text(
    "SELECT MAX(position) FROM (SELECT position FROM updates"
    " WHERE document_id = :id AND position <= :base ORDER BY position"
    " LIMIT :limit) AS dead"
)
_DISCARD = text("DELETE FROM updates WHERE document_id = :id AND position <= :until")
_FORGET_VERSIONS = text(
    "DELETE FROM versions WHERE document_id = :id AND position < :base"
)
_FORGET_DAMAGE = text(
    "DELETE FROM quarantine WHERE document_id = :id AND last <= :base"
)
_TIDIED = text("UPDATE documents SET tidied_at = :now WHERE id = :id")
_UNTIDY = (
    text(
        "SELECT name FROM documents WHERE name > :after AND deleted_at IS NULL"
        " AND tidied_at <= :rested AND updated_at >= tidied_at - :age"
        " ORDER BY name LIMIT :limit"
    )
    .bindparams(sa.bindparam("after", type_=Name))
    .columns(name=Name)
)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long the history of documents is kept, beside what they are now."""

    age: int | None = None
    """Milliseconds; ``None`` is for ever, 0 not at all."""

    @classmethod
    def parse(cls, written: str) -> Retention:
        """Read ``forever``, ``none``, or a number of days or hours: ``30d``, ``12h``.

        Raises:
            ValueError: If it is none of these.
        """
        if written in ("forever", "none"):
            return cls(None if written == "forever" else 0)
        found = re.fullmatch(r"([0-9]{1,6})([dh])", written)
        if found is None:
            raise ValueError(f"{written!r} is neither forever, none, 30d nor 12h")
        hours = int(found[1]) * (24 if found[2] == "d" else 1)
        return cls(hours * 3600 * 1000)

    def __str__(self) -> str:
        if self.age is None:
            return "forever"
        hours = self.age // (3600 * 1000)
        if not hours:
            return "none"
        return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


FOREVER = Retention()


class State(NamedTuple):
    """Where a document's history begins and ends."""

    document_id: int
    head: int
    base: int
    tidied_at: int
    newest: int | None
    """The position of the newest snapshot."""


class History:
    """The rows behind the snapshots of a database.

    Every method may raise a :class:`~collab.errors.StoreError`; it has changed nothing
    then.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def state(self, name: str) -> State | None:
        """Where a history begins and ends; ``None`` if there is no such document."""
        with self.database.reading() as connection:
            found = connection.execute(_STATE, {"name": name}).one_or_none()
            return None if found is None else State(*found)

    def horizon(self, document_id: int, base: int, cutoff: int) -> int | None:
        """The position up to which all rows are older; ``None`` if all of them are."""
        where = {"id": document_id, "base": base, "cutoff": cutoff}
        with self.database.reading() as connection:
            found = connection.execute(_YOUNG, where).scalar()
            return None if found is None else int(found)

    def landmarks(self, document_id: int) -> set[int]:
        """Positions that somebody refers to, and which must stay the end of a row."""
        with self.database.reading() as connection:
            found = connection.execute(_LANDMARKS, {"id": document_id})
            return set(found.scalars())

    def rows(self, document_id: int, after: int, until: int) -> Iterator[Old]:
        """The undamaged rows behind a position, up to another, read in pages."""
        while True:
            where = {"id": document_id, "after": after, "until": until, "limit": PAGE}
            with self.database.reading() as connection:
                page = connection.execute(_ROWS, where).all()
            for position, span, data, author, at, crc in page:
                after = position
                if crc == checksum(document_id, position, data, span=span):
                    yield Old(position, span, data, author, at)
            if len(page) < PAGE:
                return

    def tail(
        self, document_id: int, until: int, limit: int, size: int
    ) -> tuple[int, list[Row]]:
        """The last rows up to a position, at most so many and of so many bytes.

        Returns the position behind which they are, too: all that the log was told since
        then is in them. They begin behind what is damaged, missing or discarded.
        """
        here = {"id": document_id, "until": until, "limit": limit}
        with self.database.reading() as connection:
            base = connection.execute(_BASE, here).scalar()
            if base is None:
                return until, []
            after = until
            # Sizes first: a row may have 16 MiB.
            sizes = connection.execute(_SIZES, here | {"base": base}).all()
            for position, span, length in sizes:
                size -= length
                if position != after or size < 0:
                    break
                after = position - span
            page = connection.execute(_ROWS, here | {"after": after}).all()
        rows = []
        for position, span, data, _, _, crc in page:
            if crc == checksum(document_id, position, data, span=span):
                rows.append(Row(position, data))
            else:
                after = position
                rows.clear()
        return after, rows

    def merge(self, document_id: int, merged: Sequence[Merged]) -> bool:
        """Put rows in the place of those that they were made of.

        ``False`` if those are not there any more: somebody else was faster.
        """
        with self.database.writing() as connection:
            for row in merged:
                here = {"id": document_id, "position": row.position}
                span = row.position - row.first + 1
                gone = connection.execute(_REMOVE, here | {"first": row.first})
                if gone.rowcount != row.rows:
                    connection.rollback()
                    return False
                crc = checksum(document_id, row.position, row.update, span=span)
                values = {
                    "data": row.update,
                    "author": row.author,
                    "at": row.at,
                    "crc": crc,
                    "span": span,
                }
                connection.execute(_PUT, here | values)
        return True

    def raise_base(self, document_id: int, base: int) -> bool:
        """Let a snapshot stand for all rows before it.

        The snapshot must have been read back: it is all that is left of them. ``False``
        if it isn't there, or the base is further already.
        """
        here = {"id": document_id, "base": base}
        with self.database.writing() as connection:
            if not connection.execute(_RAISE, here).rowcount:
                return False
            if base not in connection.execute(_SNAPSHOTS, here).scalars().all():
                connection.rollback()
                return False
            connection.execute(_FORGET_VERSIONS, here)
            connection.execute(_FORGET_DAMAGE, here)
            return True

    def prune(self, document_id: int) -> None:
        """Keep the two newest snapshots, and the one of the base; none before it."""
        here = {"id": document_id}
        with self.database.writing() as connection:
            # Nobody raises the base meanwhile.
            if document_id not in self.database.lock(connection, [document_id]):
                return
            base = connection.execute(_BASE, here).scalar_one()
            positions = connection.execute(_SNAPSHOTS, here).scalars().all()
            for number, position in enumerate(positions):
                if position < base or (number > 1 and position > base):
                    old = here | {"position": position}
                    connection.execute(_DELETE_SNAPSHOT, old)

    def discard(self, document_id: int, base: int) -> int:
        """Take dead rows away, some of them; return how many there were."""
        here = {"id": document_id, "base": base, "limit": DISCARDED}
        with self.database.writing() as connection:
            until = connection.execute(_DEAD, here).scalar()
            if until is None:
                return 0
            return connection.execute(_DISCARD, here | {"until": until}).rowcount

    def tidied(self, document_id: int, now: int) -> None:
        """Note that rows were merged and discarded, as of a time."""
        with self.database.writing() as connection:
            connection.execute(_TIDIED, {"id": document_id, "now": now})

    def untidy(self, after: str, rested: int, age: int, limit: int) -> list[str]:
        """Names, in their order, of documents in which rows came of age.

        Of those that were last tidied before a time, and changed since, or at most
        ``age`` before.
        """
        where = {"after": after, "rested": rested, "age": age, "limit": limit}
        with self.database.reading() as connection:
            return list(connection.execute(_UNTIDY, where).scalars())
