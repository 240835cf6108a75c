"""The log in SQL: what every document has been told, in order, on disk.

An update has a position in its document's log: 1, 2, 3, without a gap. An edit exists
when the transaction that gave it its position has committed. All else here serves
to open a document quickly, or as it once was: snapshots.

The methods block, and may be called from any thread.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy import Connection, text

from .databases import ROWS_PER_STATEMENT, Database, Entry, open_database, slices
from .errors import DocumentGone, NotKept
from .migrating import look, prepare
from .schema import BLOB, Name

KNOWN_DOCUMENTS = 20_000
"""Documents whose id and head are remembered from one append to the next."""

# Queries.

_FIND = text(
    "SELECT id, epoch, head, base, deleted_at FROM documents WHERE name = :name"
).bindparams(sa.bindparam("name", type_=Name))
_FIND_ALL = (
    text("SELECT name, id FROM documents WHERE name IN :names")
    .bindparams(sa.bindparam("names", expanding=True, type_=Name))
    .columns(name=Name)
)
_HEAD = text("SELECT head, base FROM documents WHERE id = :id")
_UPDATES = text(
    "SELECT position, span, data, crc FROM updates"
    " WHERE document_id = :id AND position > :after AND position <= :until"
    " ORDER BY position"
)
_LOST = text(
    "SELECT first, last FROM quarantine WHERE document_id = :id AND what = 'update'"
)
_SNAPSHOTS = text(
    "SELECT position FROM snapshots WHERE document_id = :id AND position <= :until"
    " ORDER BY position DESC"
)
_SNAPSHOT = text(
    "SELECT state, gate, crc FROM snapshots"
    " WHERE document_id = :id AND position = :position"
)
_NEXT = text(
    "SELECT position, span FROM updates"
    " WHERE document_id = :id AND position > :position ORDER BY position LIMIT 1"
)

# Values.


@dataclass(frozen=True, slots=True)
class Append:
    """What one document gains in a commit: updates and their authors, in order."""

    name: str
    updates: Sequence[tuple[bytes, str | None]]
    document_id: int | None = None
    """The document that was opened under that name: if it is gone, another one is not
    made in its place. ``None`` if there was none."""


class Appended(NamedTuple):
    """Where a log ends now."""

    document_id: int
    head: int
    mixed: bool = False
    """Whether there is something of others between what was appended."""


class _Doubt(NamedTuple):
    """A commit of ``length`` updates from the ``first`` on of those that are unsaved,
    behind a head."""

    head: int
    first: int
    length: int


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
    base: int = 0
    """Where the history begins: rows up to here are discarded."""


def checksum(document_id: int, position: int, *data: bytes, span: int = 1) -> int:
    """The CRC-32 of a row.

    It covers where the row belongs, so that rows which changed places are found too.
    """
    crc = crc32(_PLACE.pack(document_id, position))
    if span != 1:
        crc = crc32(_SPAN.pack(span), crc)
    for part in data:
        crc = crc32(part, crc)
    return crc


_PLACE = struct.Struct(">qq")
_SPAN = struct.Struct(">q")


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
        self.url = url
        self.database: Database = open_database(url)
        self._known: dict[str, Appended] = {}
        self._doubts: dict[int, list[_Doubt]] = {}
        """Of documents, the commits that may have come to pass although they failed."""

    def __str__(self) -> str:
        """The URL of the database, without its password."""
        return str(self.database)

    @property
    def path(self) -> Path | None:
        """The file of the database, if it is one."""
        return self.database.path

    @property
    def in_memory(self) -> bool:
        """Whether the log is gone with this process, and no other can read it."""
        return self.database.in_memory

    def open(self, migrate: bool = True) -> list[str]:
        """Connect, and bring the tables up to date, or only look whether they are.

        Any number of processes may open a new database at once. Returns sentences about
        settings of the database with which an acknowledgement promises too much.

        Raises:
            DatabaseUnreachable: If the database cannot be read and written.
            DatabaseTooNew: If a newer version of this package has changed the tables.
            DatabaseTooOld: If they are not up to date, and shall stay so.
        """
        return prepare(self.database, migrate)

    def open_to_read(self) -> None:
        """Connect, and look whether the tables are up to date; nothing is written.

        Raises:
            DatabaseUnreachable: If the database cannot be read.
            DatabaseTooOld: If the tables are not up to date.
        """
        look(self.database)

    def close(self) -> None:
        """Close all connections. Closing twice is harmless."""
        self.database.close()

    def ping(self) -> None:
        """Check that the database answers."""
        with self.database.reading() as connection:
            connection.execute(text("SELECT version_num FROM alembic_version"))

    # Appending.

    def append(self, batch: Sequence[Append]) -> list[Appended]:
        """Append to several logs in one transaction; return where each ends now.

        When this returns, the updates are on disk. Documents that don't exist are
        created. A document may occur more than once.

        After a failure, the same updates are to be tried again, others only behind
        them: what a failed commit has stored after all is not stored twice.

        Raises:
            DatabaseUnreachable: If nothing can be written at the moment.
            DocumentGone: If a document of the batch was deleted.
            StoreError: If something in the batch cannot be stored.
        """
        if not batch:
            return []
        try:
            appended = self._append(batch, self._known)
            if appended is None:
                # Another process appended to one of the documents, or deleted it. Who
                # remembers nothing reads within the transaction.
                appended = self._append(batch, {})
        except BaseException:
            self._known.clear()
            raise
        assert appended is not None
        return appended

    def _append(
        self, batch: Sequence[Append], remembered: dict[str, Appended]
    ) -> list[Appended] | None:
        """Append, or return ``None`` if what we remember is no longer true."""
        updates: dict[str, list[tuple[bytes, str | None]]] = {}
        opened: dict[str, int | None] = {}
        for entry in batch:
            updates.setdefault(entry.name, []).extend(entry.updates)
            opened[entry.name] = entry.document_id
        now = milliseconds()
        positions: dict[str, list[int]] = {}
        attempts: dict[int, list[_Doubt]] = {}
        committing = False
        try:
            with self.database.writing() as connection:
                places = self._places(connection, opened, remembered, now)
                gains = []
                rows: list[Entry] = []
                for name, news in updates.items():
                    document_id, head, _ = place = places[name]
                    known = self._stored(connection, place, news)
                    attempt = _Doubt(head, len(known), len(news) - len(known))
                    for update, author in news[len(known) :]:
                        head += 1
                        crc = checksum(document_id, head, update)
                        rows.append((document_id, head, update, author, now, crc))
                        known.append(head)
                    places[name] = Appended(document_id, head)
                    positions[name] = known
                    gains.append((document_id, attempt.head, attempt.length))
                    doubts = self._doubts.get(document_id, [])
                    attempts[document_id] = [d for d in doubts if d != attempt]
                    attempts[document_id].append(attempt)
                if not self.database.advance(connection, gains, now):
                    connection.rollback()
                    return None
                if rows:
                    self.database.insert(connection, rows)
                committing = True
        except BaseException:
            if committing:
                self._doubts |= attempts
            raise
        for document_id in attempts:
            self._doubts.pop(document_id, None)
        if self.database.remembers:
            if len(self._known) > KNOWN_DOCUMENTS:
                self._known.clear()
            self._known |= places
        appended = []
        reached = dict.fromkeys(updates, 0)
        for entry in batch:
            before = reached[entry.name]
            at = reached[entry.name] = before + len(entry.updates)
            place = places[entry.name]
            if at:
                own = positions[entry.name][min(before, at - 1) : at]
                mixed = own[-1] - own[0] >= len(own)
                place = Appended(place.document_id, own[-1], mixed)
            appended.append(place)
        return appended

    def _places(
        self,
        connection: Connection,
        opened: dict[str, int | None],
        remembered: dict[str, Appended],
        now: int,
    ) -> dict[str, Appended]:
        """Where the logs of documents end.

        Raises:
            DocumentGone: If one was deleted.
        """
        places: dict[str, Appended] = {}
        ids: dict[str, int] = {}
        new: list[str] = []
        for name, document_id in opened.items():
            known = remembered.get(name)
            if known is not None and document_id in (None, known.document_id):
                places[name] = known
            elif document_id is not None:
                ids[name] = document_id
            else:
                new.append(name)
        # In one order, so that nodes don't wait for each other for ever.
        for names in slices(sorted(new), ROWS_PER_STATEMENT):
            ids |= self._find_or_create(connection, names, now)
        if ids:
            heads = self.database.lock(connection, list(ids.values()))
            for name, document_id in ids.items():
                if document_id not in heads:
                    raise DocumentGone(name)
                places[name] = Appended(document_id, heads[document_id])
        return places

    def _find_or_create(
        self, connection: Connection, names: Sequence[str], now: int
    ) -> dict[str, int]:
        """The ids of documents, by name."""
        found = _find_all(connection, names)
        missing = [
            {"name": name, "epoch": uuid.uuid4().hex, "now": now}
            for name in names
            if name not in found
        ]
        if not missing:
            return found
        create = text(self.database.create)
        name = sa.bindparam("name", type_=Name)
        connection.execute(create.bindparams(name), missing)
        return _find_all(connection, names)

    def _stored(
        self,
        connection: Connection,
        place: Appended,
        updates: Sequence[tuple[bytes, str | None]],
    ) -> list[int]:
        """The positions of updates that are stored, by commits that seemed to fail."""
        positions: list[int] = []
        for doubt in self._doubts.get(place.document_id, ()):
            until = doubt.head + doubt.length
            if place.head < until or len(positions) < doubt.first:
                continue
            where = {"id": place.document_id, "after": doubt.head, "until": until}
            stored = [row.data for row in connection.execute(_UPDATES, where)]
            end = doubt.first + doubt.length
            if stored == [update for update, _ in updates[doubt.first : end]]:
                positions[doubt.first :] = range(doubt.head + 1, until + 1)
        return positions

    # Reading.

    def load(self, name: str, below: int | None = None) -> Stored:
        """Read all that is needed to open a document. Reading creates nothing.

        What is damaged is left out, and reported. Behind a damaged snapshot stands the
        previous one, with more rows; ``below`` is the position of one that cannot be
        used.

        Raises:
            DocumentGone: If it was deleted.
        """
        with self.database.reading() as connection:
            found = connection.execute(_FIND, {"name": name}).one_or_none()
            if found is None:
                return Stored(None, None, 0, None, [], [])
            if found.deleted_at is not None:
                raise DocumentGone(name)
            until = found.head if below is None else below - 1
            damaged: list[Damaged] = []
            snapshot = _newest(connection, found.id, until, damaged)
            rows = _behind(connection, found, snapshot, found.head, damaged)
            place = found.id, found.epoch, found.head
            return Stored(*place, snapshot, rows, damaged, found.base)

    def read(
        self, name: str, document_id: int, after: int, limit: int
    ) -> tuple[list[Row], bool]:
        """Read the undamaged updates at the ``limit`` positions behind ``after``.

        And whether they are all that there was, but for what is in quarantine: rows are
        discarded with age. Of another document under that name nothing is read.
        """
        with self.database.reading() as connection:
            found = connection.execute(_FIND, {"name": name}).one_or_none()
            if found is None or found.deleted_at is not None or found.id != document_id:
                return [], True
            until = min(found.head, after + limit)
            damaged: list[Damaged] = []
            rows = _rows(connection, found.id, after, until, damaged)
            return rows, not damaged

    def read_at(self, name: str, position: int) -> Stored:
        """Read what the log held when it ended at a position; 0 is before everything.

        Raises:
            DocumentGone: If the document was deleted, or never was.
            NotKept: If the log doesn't reach there, or what it was then is no longer
                known: rows are discarded and merged with age.
        """
        with self.database.reading() as connection:
            found = connection.execute(_FIND, {"name": name}).one_or_none()
            if found is None or found.deleted_at is not None:
                raise DocumentGone(name)
            if not 0 <= position <= found.head:
                raise NotKept(position, f"the log ends at {found.head}")
            if position < found.base:
                raise NotKept(position, f"the history begins at {found.base}")
            damaged: list[Damaged] = []
            snapshot = _newest(connection, found.id, position, damaged)
            rows = _behind(connection, found, snapshot, position, damaged)
            reached = snapshot.position if snapshot else 0
            here = {"id": found.id, "position": position}
            following = connection.execute(_NEXT, here).one_or_none()
            if following is not None and reached < position:
                before = following.position - following.span
                if before < position:  # A part of what that row stands for.
                    kept = f"{max(before, reached)} and {following.position}"
                    raise NotKept(position, f"the nearest that are kept are {kept}")
            place = found.id, found.epoch, position
            return Stored(*place, snapshot, rows, damaged, found.base)

    # Snapshots.

    def write_snapshot(
        self, document_id: int, position: int, state: bytes, index: bytes
    ) -> bool:
        """Keep what the updates up to a position add up to.

        Others are kept. Writing it again changes nothing, or repairs it; any number of
        nodes may do so at once. ``False``: there is no such position, since the
        document is gone or rows up to a later one were discarded.
        """
        here = {"id": document_id, "position": position}
        with self.database.writing() as connection:
            if not _reaches(connection, here):
                return False
            crc = checksum(document_id, position, state, index)
            row = {"state": state, "gate": index, "at": milliseconds(), "crc": crc}
            self.database.check_size(len(state) + len(index))
            blobs = [sa.bindparam(name, type_=BLOB) for name in ("state", "gate")]
            put = text(self.database.put_snapshot).bindparams(*blobs)
            connection.execute(put, here | row)
            # Who purges the document waits for us from here on, or was faster.
            if not _reaches(connection, here):
                connection.rollback()
                return False
            return True

    def verify_snapshot(self, document_id: int, position: int) -> bool:
        """Whether a snapshot is there, and has been read back as it was written."""
        with self.database.reading() as connection:
            return _snapshot(connection, document_id, position) is not None


def _reaches(connection: Connection, here: dict[str, int]) -> bool:
    """Whether a position is one of a document's."""
    found = connection.execute(_HEAD, here).one_or_none()
    return found is not None and bool(found.base <= here["position"] <= found.head)


def _find_all(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    found = connection.execute(_FIND_ALL, {"names": names})
    return dict(found.all())


def _snapshot(
    connection: Connection, document_id: int, position: int
) -> Snapshot | None:
    here = {"id": document_id, "position": position}
    found = connection.execute(_SNAPSHOT, here).one_or_none()
    if found is None:
        return None
    state, gate, crc = found
    if crc != checksum(document_id, position, state, gate):
        return None
    return Snapshot(position, state, gate)


def _newest(
    connection: Connection, document_id: int, until: int, damaged: list[Damaged]
) -> Snapshot | None:
    where = {"id": document_id, "until": until}
    for position in connection.execute(_SNAPSHOTS, where).scalars().all():
        snapshot = _snapshot(connection, document_id, position)
        if snapshot is not None:
            return snapshot
        damaged.append(Damaged("snapshot", position, position, "has a wrong CRC-32"))
    return None


def _behind(
    connection: Connection,
    document: sa.Row[tuple[int, str, int, int, int | None]],
    snapshot: Snapshot | None,
    until: int,
    damaged: list[Damaged],
) -> list[Row]:
    """The rows behind a snapshot, if there is one."""
    after = snapshot.position if snapshot else 0
    if after < document.base:
        cause = "were discarded, and the snapshot that stood for them is damaged"
        gap = Damaged("updates", after + 1, document.base, cause)
        damaged += _unknown(connection, document.id, [gap])
        after = document.base
    return _rows(connection, document.id, after, until, damaged)


def _rows(
    connection: Connection,
    document_id: int,
    after: int,
    until: int,
    damaged: list[Damaged],
) -> list[Row]:
    rows = []
    lost: list[Damaged] = []
    expected = after + 1
    where = {"id": document_id, "after": after, "until": until}
    for position, span, data, crc in connection.execute(_UPDATES, where).all():
        if position - span >= expected:
            lost.append(Damaged("update", expected, position - span, "is missing"))
        expected = position + 1
        if crc == checksum(document_id, position, data, span=span):
            rows.append(Row(position, data))
        else:
            first = position - span + 1
            damaged.append(Damaged("update", first, position, "has a wrong CRC-32"))
    if expected <= until:
        lost.append(Damaged("update", expected, until, "is missing"))
    if lost:
        damaged += _unknown(connection, document_id, lost)
    damaged.sort(key=lambda damage: damage.first)
    return rows


def _unknown(
    connection: Connection, document_id: int, gaps: Sequence[Damaged]
) -> list[Damaged]:
    """What of gaps is not in quarantine: that was reported when it was put there."""
    known = connection.execute(_LOST, {"id": document_id}).all()
    return [part for gap in gaps for part in _without(gap, known)]


def _without(gap: Damaged, known: Sequence[tuple[int, int]]) -> list[Damaged]:
    """What of a gap is not in some ranges."""
    left = []
    at = gap.first
    for first, last in sorted(known):
        if first > gap.last or last < at:
            continue
        if first > at:
            left.append(Damaged(gap.what, at, first - 1, gap.cause))
        at = last + 1
    if at <= gap.last:
        left.append(Damaged(gap.what, at, gap.last, gap.cause))
    return left


def milliseconds() -> int:
    """The time, in milliseconds since the epoch. It may go back."""
    return int(time.time() * 1000)
