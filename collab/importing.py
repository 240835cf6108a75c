"""Documents in the files of other servers, to be taken over.

Each kind of file is opened by a function of its own, without changing it or anything
beside it. What is in it is read one document at a time::

    with KINDS["hocuspocus-sqlite"](path) as source:
        print(len(source))
        for found in source: ...    # Found or Unreadable

What is found is what its package would load; it passes no gate here. Where something
was lost, a document parks what refers to it.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
import tempfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import Any

from .document import EMPTY
from .errors import ImportFailed, ProtocolError, UpdateRejected
from .leveldb import LevelDB
from .trails import INSIDE, ORIGIN, RIGHT, STRIDE
from .updates import Parsed, cut
from .wire import read_data, read_text, text, uint

BUSY_TIMEOUT = 10.0
"""Seconds to wait for a server that is writing to the same SQLite file."""

ATTEMPTS = 5
"""At copying a file that a server keeps writing to."""

SQLITE = b"SQLite format 3\0"
"""The first bytes of a database."""

WAL = 2
"""What stands in byte 18 of a database that has a write-ahead log."""

CELL = 4
"""Bytes that a row takes in a file, at least, beside what is in it."""

SLACK = 2**16
"""Bytes that a query may find more than the file has: it may be growing."""

STEPS = 20
"""Steps of SQLite's that a query may take for each byte of the file. It finds a row in
about as many, and a row has some bytes."""

PAUSE = 100_000
"""Steps of SQLite's between two looks at how many there were: a millisecond."""

INFLATED = 2**28
"""Bytes that a document's compressed updates may have, which is much."""

YSTORE = b"VERSION:"
"""The first bytes of a FileYStore; the number and a newline follow."""

TIME = struct.Struct("<d")
"""Seconds since the epoch, behind each update of a FileYStore."""

YSTORE_VERSION = 2
"""Of all that pycrdt-store, pycrdt-websocket, and ypy-websocket from 0.8 on write."""


@dataclass(frozen=True, slots=True)
class Found:
    """A document."""

    name: str
    """As the other server calls it. It may be none that we allow."""
    updates: Sequence[bytes]
    """Yjs updates of version 1, to be applied in this order: together all there is."""
    saved_at: int | None = None
    """Milliseconds since the epoch, if it is known."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document that cannot be read, and why. The others can."""

    name: str
    reason: str


class Source:
    """The documents of a file. Its length is their number."""

    def __init__(self, names: Sequence[object], read: Callable[[str], Found]) -> None:
        self._names = names
        self._read = read

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Found | Unreadable]:
        for name in self._names:
            try:
                if not isinstance(name, str):
                    # SQLite keeps in a column what it is given, whatever its type.
                    raise ImportFailed("its name is not a text")
                yield self._read(name)
            except ImportFailed as exc:
                yield Unreadable(str(name), str(exc))


# @hocuspocus/extension-sqlite 1 to 4: one row for each document, its whole state
# (src/SQLite.ts). A schema of one's own may allow several; the newest counts.

_DOCUMENTS = "SELECT DISTINCT name FROM documents"
_DOCUMENT = "SELECT data FROM documents WHERE name = ? ORDER BY rowid DESC LIMIT 1"


@contextmanager
def hocuspocus_sqlite(path: Path) -> Iterator[Source]:
    """Open the database of @hocuspocus/extension-sqlite.

    Raises:
        ImportFailed: If it cannot be read, or is something else.
    """
    with _database(path) as database:
        database.expect("documents", {"name", "data"}, "@hocuspocus/extension-sqlite")

        def read(name: str) -> Found:
            rows = database.read(_DOCUMENT, name)
            return Found(
                name, [part for (data,) in rows for part in apart(_blob(data))]
            )

        yield Source([name for (name,) in database.read(_DOCUMENTS)], read)


# y-leveldb: a key for each update, counted up, and one for the state vector, by which
# its own list of all documents is made (src/y-leveldb.js).


@contextmanager
def y_leveldb(folder: Path) -> Iterator[Source]:
    """Open the directory of y-leveldb, as y-websocket's server has with YPERSISTENCE.

    Raises:
        ImportFailed: If it cannot be read, or is something else.
    """
    database = LevelDB(folder)
    names = []
    for key, _ in database.read(_key("v1_sv"), _key("v1_sw")):
        try:
            name, end = read_text(key, len(_key("v1_sv")) + 1)
        except ProtocolError as exc:
            raise ImportFailed(f"{folder} has a key that is not y-leveldb's") from exc
        if end != len(key):
            raise ImportFailed(f"{folder} has a key that is not y-leveldb's")
        names.append(name)
    if not names and not database.empty:
        raise ImportFailed(
            f"{folder} is a LevelDB, but y-leveldb keeps no documents in it; name"
            " another directory"
        )

    def read(name: str) -> Found:
        # A number follows, four bytes behind the byte 1.
        key = _key("v1", name, "update")
        updates = [value for _, value in database.read(key + b"\x01", key + b"\x02")]
        # The first may be the state of the document, as it was flushed.
        first = apart(updates[0]) if updates else []
        return Found(name, [*first, *updates[1:]])

    yield Source(names, read)


def _key(*parts: str) -> bytes:
    return b"".join(b"\0" + text(part) for part in parts)


# pycrdt-store, and before it pycrdt-websocket and ypy-websocket: a row for each update,
# and since 0.1.3 one beside them for the state a while ago (pycrdt/store/sqlite.py).

_PATHS = "SELECT DISTINCT path FROM yupdates"
_CHECKPOINTED = " UNION SELECT path FROM ycheckpoints"
_UPDATES = "SELECT yupdate, timestamp FROM yupdates WHERE path = ? ORDER BY 2, rowid"
_UNTIMED = "SELECT yupdate, NULL FROM yupdates WHERE path = ? ORDER BY rowid"
_CHECKPOINT = "SELECT checkpoint FROM ycheckpoints WHERE path = ?"


@contextmanager
def pycrdt_store(path: Path) -> Iterator[Source]:
    """Open the database of an SQLiteYStore, or the file of a FileYStore.

    Jupyter's ``.jupyter_ystore.db`` is one of the former.

    Raises:
        ImportFailed: If it cannot be read, or is something else.
    """
    if _head(path).startswith(YSTORE):
        yield Source([path.name], lambda name: _read_file(path))
        return
    with _database(path) as database:
        columns = database.expect(
            "yupdates", {"path", "yupdate", "metadata"}, "pycrdt-store"
        )
        updates = _UPDATES if "timestamp" in columns else _UNTIMED
        checkpoints = bool(database.columns("ycheckpoints"))

        def read(name: str) -> Found:
            rows = database.read(updates, name)
            found = _inflated(update for update, _ in rows)
            if checkpoints and found[:1] in ([], [EMPTY]):
                # Squashing what isn't compressed, 0.1.3 to 0.1.5 put nothing in the
                # place of the history. Then a checkpoint has what there is. Otherwise
                # it only has what pycrdt made of the updates, which may be less.
                states = database.read(_CHECKPOINT, name)
                found = [*_inflated(state for (state,) in states), *found]
            return Found(name, found, _milliseconds(rows[-1][1]) if rows else None)

        paths = database.read(_PATHS + _CHECKPOINTED if checkpoints else _PATHS)
        yield Source([name for (name,) in paths], read)


def _inflated(stored: Iterable[object]) -> list[bytes]:
    """Updates as they were before a store's ``compress`` callback, if that was zlib's.

    What isn't compressed has no valid checksum at the end.
    """
    updates = []
    left = INFLATED
    for value in stored:
        update = _blob(value)
        if update[:1] in (b"\x78", b"\x1f"):
            inflating = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib's, or gzip's.
            with suppress(zlib.error):
                inflated = inflating.decompress(update, left)
                left -= len(inflated)
                if left <= 0:
                    raise ImportFailed(f"its updates have more than {INFLATED} bytes")
                if inflating.eof:
                    update = inflated
        updates.append(update)
    return updates


def _read_file(path: Path) -> Found:
    """The document in a FileYStore: update, metadata and time, over and over."""
    header, _, log = _contents(path).partition(b"\n")
    if header != YSTORE + b"%d" % YSTORE_VERSION:
        raise ImportFailed(
            f"{path} is a FileYStore of another version than {YSTORE_VERSION}; move it"
            " over with the program that wrote it"
        )
    updates: list[bytes] = []
    saved_at = None
    at = 0
    while at < len(log):
        try:
            update, end = read_data(log, at)
            _, end = read_data(log, end)
            time, end = read_data(log, end)
        except ProtocolError:
            if not _ends_with_time(log):
                break  # Its writer was killed within the last.
            time = b""
        if len(time) != TIME.size:
            raise ImportFailed(
                f"{path} is damaged, {at} bytes behind its first line: a writer was"
                " killed there, and another went on; restore a backup"
            )
        updates.append(update)
        saved_at = _milliseconds(*TIME.unpack(time))
        at = end
    return Found(path.name, updates, saved_at)


def _ends_with_time(log: bytes) -> bool:
    """Whether the log ends as one does whose last record is whole."""
    end = log[-1 - TIME.size :]
    if len(end) != 1 + TIME.size or end[:1] != uint(TIME.size):
        return False
    return bool(1e9 < TIME.unpack(end[1:])[0] < 1e10)


def _milliseconds(seconds: object) -> int | None:
    """A time in seconds since the epoch, which may be anything."""
    if isinstance(seconds, float) and 0 <= seconds < 1e12:
        return int(seconds * 1000)
    return None


# States.


def apart(state: bytes) -> list[bytes]:
    """What a state shows, and the state, if it also holds what it can't show yet.

    Yjs encodes a document with what it received too early, and waits for. The gate
    would park all of that, and the document would seem to be empty.
    """
    try:
        parsed = cut(state)
    except UpdateRejected:
        return [state]  # Whoever applies it learns why.
    known = _known(parsed)
    carried = [*parsed.ranges.items(), *parsed.deletes.items()]
    if all(ranges[-1] <= known.get(client, 0) for client, ranges in carried):
        return [state]
    shown = _until(state, parsed, known)
    return [state] if shown == EMPTY else [shown, state]


def _known(parsed: Parsed) -> dict[int, int]:
    """Up to which clock of each client there is nothing missing."""
    known = {c: 0 if ranges[0] else ranges[1] for c, ranges in parsed.ranges.items()}
    # Of each client, what refers to it: up to which clock, by whom, and at which clock.
    waiting: dict[int, list[tuple[int, int, int]]] = {}
    for client, trail in parsed.trails.items():
        for at in range(0, len(trail), STRIDE):
            start, how, first, first_clock, second, second_clock = trail[
                at : at + STRIDE
            ]
            if how & (ORIGIN | INSIDE):
                waiting.setdefault(first, []).append((first_clock, client, start))
            if how & RIGHT:
                waiting.setdefault(second, []).append((second_clock, client, start))
    for references in waiting.values():
        references.sort()
    lowered = list(waiting)
    for other in lowered:
        references = waiting.get(other, [])
        while references and references[-1][0] >= known.get(other, 0):
            _, client, start = references.pop()
            if start < known[client]:
                known[client] = start
                lowered.append(client)
    return known


def _until(state: bytes, parsed: Parsed, known: Mapping[int, int]) -> bytes:
    """The part of a state up to some clocks, which are each where a struct ends."""
    sections = []
    for client, cuts in parsed.cuts.items():
        if known[client]:
            count = bisect_left(cuts[::2], known[client])
            rest = cuts[2 * count + 1 :]
            stop = rest[0] if rest else parsed.bounds[client][1]
            head = uint(count) + uint(client) + uint(0)
            sections.append(head + state[cuts[1] : stop])
    deletes = []
    for client, ranges in parsed.deletes.items():
        end = known.get(client, 0)
        pairs = zip(ranges[::2], ranges[1::2], strict=True)
        spans = [uint(a) + uint(min(b, end) - a) for a, b in pairs if a < end]
        if spans:
            deletes.append(uint(client) + uint(len(spans)) + b"".join(spans))
    return b"".join([uint(len(sections)), *sections, uint(len(deletes)), *deletes])


# SQLite.

_ENDLESS = "there is more in it than a file of its size can hold"

_COLUMNS = "SELECT name FROM pragma_table_info(?)"


class _Database:
    """An SQLite database that is read a statement at a time.

    A server that is writing to it waits for one document, and not for all of them.
    """

    def __init__(
        self, path: Path, files: Sequence[Path], connection: sqlite3.Connection
    ) -> None:
        self._path = path
        self._files = files
        """Those that it is in, whatever it says of itself."""
        self._connection = connection
        self._steps = 0
        connection.set_progress_handler(self._go_on, PAUSE)

    def read(self, query: str, *arguments: str) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
            ImportFailed: If the database is damaged, or locked for too long.
        """
        # A page can be that of many rows, and what looks like a table be a view that
        # never ends. But what was written cannot be more than the file.
        states = filter(None, map(_state, self._files))
        left = SLACK + sum(size for size, _ in states)
        self._steps = STEPS * left // PAUSE
        rows = []
        with _translated(self._path):
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, left)
            for row in self._connection.execute(query, arguments):
                left -= CELL
                left -= sum(len(v) for v in row if isinstance(v, bytes | str))
                if left < 0:
                    raise sqlite3.DatabaseError(_ENDLESS)
                rows.append(row)
        return rows

    def _go_on(self) -> bool:
        """Count steps; return whether it is too many."""
        self._steps -= 1
        return self._steps < 0

    def columns(self, table: str) -> set[str]:
        """The columns of a table; none, if there is no such table."""
        return {name for (name,) in self.read(_COLUMNS, table)}

    def expect(self, table: str, wanted: set[str], package: str) -> set[str]:
        """The columns of a table that must have these.

        Raises:
            ImportFailed: If it hasn't, or cannot be read.
        """
        columns = self.columns(table)
        if not wanted <= columns:
            lacks = f"table {table}"
            if columns:
                lacks = f"column {min(wanted - columns)} in its {lacks}"
            raise ImportFailed(
                f"{self._path} has no {lacks}: {package} did not write it; name another"
                " file"
            )
        return columns


@contextmanager
def _database(path: Path) -> Iterator[_Database]:
    """Open an SQLite file, and change neither it nor anything beside it.

    Raises:
        ImportFailed: If it is not there, is something else, or changes all the time.
    """
    head = _head(path)
    if not head.startswith(SQLITE):
        raise ImportFailed(f"{path} is not an SQLite database; name another file")
    real = path.resolve()
    logs = [real.with_name(real.name + end) for end in ("-journal", "-wal")]
    with ExitStack() as stack:
        address = f"{real.as_uri()}?mode=ro"
        if WAL in head[18:20] or any(map(_state, logs)):
            # SQLite would make files beside it, and undo what a killed server began.
            folder = tempfile.TemporaryDirectory(prefix="collab-import-")
            copy = _copy([real, *logs], Path(stack.enter_context(folder)))
            address = copy.resolve().as_uri()
        with _translated(path):
            connection = sqlite3.connect(address, timeout=BUSY_TIMEOUT, uri=True)
        stack.callback(connection.close)
        with _translated(path):
            # What is written there shall do nothing but be read.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
        yield _Database(path, [real, *logs], connection)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, MemoryError) as exc:
        # A name in it is no text, or a length in it is none.
        raise ImportFailed(
            f"cannot read {path}: its schema is damaged; restore a backup"
        ) from exc
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        busy = code == sqlite3.SQLITE_BUSY
        advice = (
            "stop the server that uses it and try again"
            if busy
            else "restore a backup, or try what `sqlite3 FILE .recover` makes of it"
        )
        wrong = _ENDLESS if code == sqlite3.SQLITE_INTERRUPT else str(exc)
        raise ImportFailed(f"cannot read {path}: {wrong:.300}; {advice}") from exc


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ImportFailed(f"where an update should be, there is {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return f"a text of {len(value)} letters" if isinstance(value, str) else f"{value!r}"


# Files.


def _head(path: Path) -> bytes:
    return _contents(path, 100)


def _contents(path: Path, size: int = -1) -> bytes:
    try:
        if S_IFMT(path.stat().st_mode) not in (S_IFREG, S_IFDIR):
            # A device or a pipe would never end, or never begin.
            raise ImportFailed(f"{path} is no file; name another")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as exc:
        raise ImportFailed(
            f"cannot read {path}: {exc.strerror}; name a file that this user may read"
        ) from exc


def _copy(files: Sequence[Path], folder: Path) -> Path:
    """Copy what is there of some files, as it was at one moment; return the first.

    Raises:
        ImportFailed: If there is no such moment, or no room.
    """
    for _ in range(ATTEMPTS):
        before = [_state(file) for file in files]
        try:
            for file, state in zip(files, before, strict=True):
                (folder / file.name).unlink(missing_ok=True)
                if state:
                    shutil.copyfile(file, folder / file.name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise ImportFailed(
                f"cannot copy {files[0]} to {folder}: {exc.strerror}; make room"
                " there, or set TMPDIR to another directory"
            ) from exc
        if [_state(file) for file in files] == before:
            return folder / files[0].name
    raise ImportFailed(
        f"{files[0]} changes all the time; stop the server that uses it and try again"
    )


def _state(file: Path) -> tuple[int, int] | None:
    """What changes when a file is written to; ``None`` if nothing is in it."""
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if found.st_size else None


KINDS: Mapping[str, Callable[[Path], AbstractContextManager[Source]]] = {
    "hocuspocus-sqlite": hocuspocus_sqlite,
    "y-leveldb": y_leveldb,
    "pycrdt-store": pycrdt_store,
}
"""What can be taken over, by the name of what wrote it."""
