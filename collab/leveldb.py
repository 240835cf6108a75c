"""LevelDB, read without writing: what y-leveldb keeps its documents in.

LevelDB itself writes whenever it is opened, and locks the directory. This reads what
lies there: the tables that ``CURRENT`` and its manifest name, and the logs that are not
in a table yet. A server may be running meanwhile, or may have been killed. The formats
are those of LevelDB's ``table_format.md``, ``log_format.md`` and ``version_edit.cc``.
"""

from __future__ import annotations

import heapq
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

from .errors import ImportFailed, ProtocolError
from .wire import read_data, read_uint

T = TypeVar("T")

COMPARATOR = b"leveldb.BytewiseComparator"
"""The order of keys. LevelDB can be told another; nobody whose files we read does."""

ATTEMPTS = 100
"""At reading the manifest and the logs before a server makes new ones."""

LOG_BLOCK = 32 * 1024
"""Bytes of a block of a log; a record that doesn't fit goes on in the next."""

MAGIC = 0xDB4775248B80FB57
"""The last eight bytes of a table."""

FOOTER = 48
"""Bytes at the end of a table: where its index is, and the magic number."""

TRAILER = 5
"""Bytes behind a block of a table: how it is compressed, and its checksum."""

LEVELS = 7
"""Of tables. A table is in one of them."""

KEYS = 64
"""A block's keys may be so many times as long as the block, in which each begins with
as much of the one before as it says. LevelDB writes every 16th of them whole."""

CACHED_BLOCKS = 16
"""Blocks of tables that are remembered: neighbouring documents share them."""

CACHED_INDEXES = 256
"""Tables whose index is remembered: about 100 KB for one of 2 MiB."""

_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_VALUE = 1
_NEWEST = -(2**56)
"""Less than any age."""


class Entry(NamedTuple):
    """What was written to a key. Of those with the same key, the first counts."""

    key: bytes
    age: int
    """Minus what LevelDB calls the sequence number: the newest comes first."""
    value: bytes | None
    """``None``: the key was deleted."""


_ORDER = itemgetter(0, 1)


@dataclass(frozen=True, slots=True)
class Table:
    """A file of entries in order, as the manifest describes it."""

    number: int
    size: int
    first: bytes
    last: bytes
    """The keys in it are between these two, both included."""


class LevelDB:
    """A LevelDB as it is at the moment, or was a moment ago."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and the logs.

        Raises:
            ImportFailed: If the folder holds no LevelDB, or it is damaged.
        """
        self.folder = folder
        self._block = lru_cache(CACHED_BLOCKS)(self._read_block)
        self._index = lru_cache(CACHED_INDEXES)(self._read_index)
        where = "name the directory in which a server keeps its documents"
        try:
            names = os.listdir(folder)
        except OSError as exc:
            message = f"cannot read {folder}: {exc.strerror}; {where}"
            raise ImportFailed(message) from exc
        if "CURRENT" not in names:
            raise ImportFailed(
                f"{folder} has no file CURRENT, so it is no LevelDB; {where}"
            )
        self._load()

    @property
    def empty(self) -> bool:
        """Whether nothing was ever written."""
        return not self.tables and not self.recent

    def read(self, first: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """The keys from ``first`` to before ``end``, in order, with their values.

        Raises:
            ImportFailed: If something in this range is damaged.
        """
        while True:
            try:
                return list(self._merged(first, end))
            except OSError as exc:
                # A server that is running has put tables together into new ones.
                if not isinstance(exc, FileNotFoundError) or self._current():
                    what = f"cannot read {exc.filename}: {exc.strerror}"
                    raise _damaged(what) from exc
                self._load()

    def _load(self) -> None:
        for _ in range(ATTEMPTS):
            manifest = None
            try:
                manifest = self._manifest()
                self.version = _Version(manifest, f"manifest in {self.folder}")
                logs = self._logs(self.version)
                # A log that became a table meanwhile would be in neither.
                if self._current():
                    break
            except FileNotFoundError:
                # Removed since it was named? Then a newer manifest names others.
                if manifest is not None and self._current():
                    raise self._lacking() from None
            except OSError as exc:
                message = f"cannot read {self.folder}: {exc.strerror}"
                raise ImportFailed(f"{message}; try as a user who may") from exc
        else:
            raise self._lacking()
        self.tables = list(self.version.tables.values())
        self.recent: list[Entry] = []
        for path, log in logs.items():
            for batch in _records(log, str(path)):
                self.recent += _parsed(_read_batch, batch, str(path))
        self.recent.sort(key=_ORDER)

    def _lacking(self) -> ImportFailed:
        return ImportFailed(
            f"{self.folder} lacks files, or changes all the time; stop the server that"
            " uses it and try again, or restore a backup"
        )

    def _merged(self, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        at = bisect_left(self.recent, first, key=lambda entry: entry.key)
        until = bisect_left(self.recent, end, key=lambda entry: entry.key)
        sources: list[Iterator[Entry]] = [iter(self.recent[at:until])]
        sources += (
            self._within(table, first, end)
            for table in self.tables
            if table.first < end and table.last >= first
        )
        done = None
        for key, _, value in heapq.merge(*sources, key=_ORDER):
            if key != done:
                done = key
                if value is not None:
                    yield key, value

    def _current(self) -> bool:
        """Whether what was loaded is what the folder holds."""
        try:
            return self._manifest() == self.version.manifest
        except OSError:
            return False

    def _manifest(self) -> bytes:
        current = self.folder / "CURRENT"
        name = _contents(current).removesuffix(b"\n")
        if not name.startswith(b"MANIFEST-") or not name[9:].isdigit():
            raise _damaged(f"{current} names no manifest")
        return _contents(self.folder / name.decode())

    def _logs(self, version: _Version) -> dict[Path, bytes]:
        """The logs of which not all is in tables."""
        # The one that the manifest names must be there; there may be newer ones.
        paths = {self._file(version.log, "log")} if version.log else set()
        for path in self.folder.glob("*.log"):
            stem = path.stem
            number = int(stem) if stem.isascii() and stem.isdigit() else 0
            if number >= version.log or number == version.log_before:
                paths.add(path)
        return {path: _contents(path) for path in paths}

    def _within(self, table: Table, first: bytes, end: bytes) -> Iterator[Entry]:
        before = (table.first, _NEWEST)
        for last, at, size in self._index(table):
            # It is between the last key of this block and the first of the next.
            if last < first:
                before = (last, _NEWEST)
            else:
                until = min(last, table.last)
                for entry in self._block(table, at, size):
                    if entry[:2] <= before or entry.key > until:
                        where = f"{self._path(table)} at byte {at}"
                        raise _damaged(f"{where} has keys that are not in order")
                    before = entry[:2]
                    if entry.key >= end:
                        return
                    if entry.key >= first:
                        yield entry
            if last >= end:
                return

    def _read_index(self, table: Table) -> list[tuple[bytes, int, int]]:
        """The blocks of a table: a key not before their last, their place and size."""
        where = str(self._path(table))
        footer = self._read(table, table.size - FOOTER, FOOTER)
        if int.from_bytes(footer[-8:], "little") != MAGIC:
            raise _damaged(f"{where} doesn't end as a table does")
        index = self._entries(table, *_parsed(_read_footer, footer, where))
        blocks = [
            (key[:-8], *_parsed(_read_handle, value, where)) for key, value in index
        ]
        before, end = b"", 0
        for key, at, size in blocks:
            # Otherwise a short index could have a block read a million times.
            if key < before or at < end:
                raise _damaged(f"{where} has blocks that are not in order")
            before, end = key, at + size + TRAILER
        return blocks

    def _read_block(self, table: Table, at: int, size: int) -> list[Entry]:
        entries = []
        for key, value in self._entries(table, at, size):
            number = int.from_bytes(key[-8:], "little")
            written = value if number & 0xFF == _VALUE else None
            entries.append(Entry(key[:-8], -(number >> 8), written))
        return entries

    def _entries(self, table: Table, at: int, size: int) -> list[tuple[bytes, bytes]]:
        """The keys and values in a block. The last eight bytes of a key are a number:
        seven for the sequence, one for the kind."""
        where = f"{self._path(table)} at byte {at}"
        block = self._read(table, at, size + TRAILER)
        if unmask(int.from_bytes(block[-4:], "little")) != crc32c(block[:-4]):
            raise _damaged(f"{where} has a wrong checksum")
        match block[size]:
            case 0:
                return _parsed(_read_block, block[:size], where)
            case 1:
                return _parsed(_read_block, _parsed(unsnap, block[:size], where), where)
            case kind:
                raise ImportFailed(
                    f"{where} is compressed in a way that is not known here ({kind});"
                    " only Snappy is"
                )

    def _read(self, table: Table, at: int, size: int) -> bytes:
        path = self._path(table)
        _expect_file(path)
        with path.open("rb") as file:
            # What is asked for is what the file says; room is made for what is there.
            if at < 0 or at + size > os.fstat(file.fileno()).st_size:
                raise _damaged(f"{path} is too short")
            file.seek(at)
            found = file.read(size)
        if len(found) < size:
            raise _damaged(f"{path} is too short")
        return found

    def _path(self, table: Table) -> Path:
        older = self._file(table.number, "sst")
        return older if older.exists() else self._file(table.number, "ldb")

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06}.{kind}"


class _Version:
    """What a manifest says: a log of changes to which tables and logs count."""

    def __init__(self, manifest: bytes, where: str) -> None:
        self.manifest = manifest
        self.log = 0
        """The oldest log that is not in a table yet."""
        self.log_before = 0
        self.tables: dict[tuple[int, int], Table] = {}
        """By level and number."""
        for edit in _records(manifest, where):
            _parsed(self._apply, edit, where)

    def _apply(self, edit: bytes) -> None:
        at = 0
        while at < len(edit):
            tag, at = read_uint(edit, at)
            match tag:
                case 1:
                    comparator, at = read_data(edit, at)
                    if comparator != COMPARATOR:
                        raise ProtocolError("keys in an order that is not known here")
                case 2:
                    self.log, at = read_uint(edit, at)
                case 3 | 4:  # The next number of a file, and of an entry.
                    _, at = read_uint(edit, at)
                case 5:  # Where LevelDB goes on merging tables.
                    _, at = read_uint(edit, at)
                    _, at = read_data(edit, at)
                case 6:
                    level, at = read_uint(edit, at)
                    number, at = read_uint(edit, at)
                    self.tables.pop((level, number), None)
                case 7:
                    level, at = read_uint(edit, at)
                    if level >= LEVELS:
                        raise ProtocolError(f"a table in level {level}")
                    number, at = read_uint(edit, at)
                    size, at = read_uint(edit, at)
                    first, at = read_data(edit, at)
                    last, at = read_data(edit, at)
                    table = Table(number, size, first[:-8], last[:-8])
                    self.tables[level, number] = table
                case 9:
                    self.log_before, at = read_uint(edit, at)
                case _:
                    raise ProtocolError(
                        f"a change of a kind that is not known here: {tag}"
                    )


def _records(log: bytes, where: str) -> Iterator[bytes]:
    """The records of a log.

    The last may be unfinished, as when its writer was killed: it doesn't count then, as
    for LevelDB.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(log):
        left = LOG_BLOCK - at % LOG_BLOCK
        if left < _HEADER.size:
            at += left
            continue
        if at + _HEADER.size > len(log):
            return
        checksum, size, kind = _HEADER.unpack_from(log, at)
        if kind == size == 0:
            at += left  # Space that was reserved, and not written.
            continue
        end = at + _HEADER.size + size
        if end > len(log) < at + left:
            return
        if size > left - _HEADER.size or unmask(checksum) != crc32c(log[at + 6 : end]):
            raise _damaged(f"{where} at byte {at} has a wrong checksum")
        part = log[at + _HEADER.size : end]
        at = end
        if kind in (_FULL, _FIRST):
            parts = []
        elif kind not in (_MIDDLE, _LAST) or not parts:
            raise _damaged(f"{where} goes on with what never began, before byte {at}")
        parts.append(part)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []


def _read_batch(batch: bytes) -> list[Entry]:
    """What one record of a log writes."""
    sequence, count = struct.unpack_from("<QI", batch)
    at = 12
    entries = []
    for number in range(sequence, sequence + count):
        kind = batch[at]
        key, at = read_data(batch, at + 1)
        value = None
        if kind == _VALUE:
            value, at = read_data(batch, at)
        entries.append(Entry(key, -number, value))
    return entries


def _read_block(block: bytes) -> list[tuple[bytes, bytes]]:
    """The keys and values in a block.

    A key begins with as much of the one before as it says. What follows them says where
    a key is whole, for a search.
    """
    (whole,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 - 4 * whole
    at = 0
    key = b""
    left = KEYS * len(block)
    entries = []
    while at < end:
        shared, at = read_uint(block, at)
        own, at = read_uint(block, at)
        size, at = read_uint(block, at)
        key = key[:shared] + block[at : at + own]
        left -= len(key)
        if left < 0:
            raise ProtocolError("keys that are too long for their block")
        at += own + size
        entries.append((key, block[at - size : at]))
    if at != end:
        raise ProtocolError("an entry ends outside of its block")
    return entries


def _read_footer(footer: bytes) -> tuple[int, int]:
    """The place and size of the index. An index of other things stands before it."""
    _, at = read_uint(footer, 0)
    _, at = read_uint(footer, at)
    return _read_handle(footer[at:])


def _read_handle(handle: bytes) -> tuple[int, int]:
    """The place and size of a block, its trailer not counted."""
    at, behind = read_uint(handle, 0)
    size, _ = read_uint(handle, behind)
    return at, size


def _contents(path: Path) -> bytes:
    _expect_file(path)
    return path.read_bytes()


def _expect_file(path: Path) -> None:
    """Complain of what would never end, or never begin: a device, or a pipe."""
    if not path.is_file() and path.exists():
        raise _damaged(f"{path} is no file")


def _parsed(read: Callable[[bytes], T], data: bytes, where: str) -> T:
    """What a function reads from bytes that may be damaged."""
    try:
        return read(data)
    except (ProtocolError, IndexError, struct.error) as exc:
        raise _damaged(f"{where} cannot be read ({exc})") from exc


def _damaged(what: str) -> ImportFailed:
    return ImportFailed(
        f"{what}; restore a backup, or repair a copy (ClassicLevel.repair in Node.js)"
    )


def unsnap(data: bytes) -> bytes:
    """Decompress what Snappy compressed.

    Raises:
        ProtocolError: If it isn't that, or damaged. So do ``IndexError``.
    """
    length, at = read_uint(data, 0)
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        size = tag >> 2
        match tag & 3:
            case 0:
                if size >= 60:
                    width = size - 59
                    size = int.from_bytes(data[at : at + width], "little")
                    at += width
                size += 1
                out += data[at : at + size]
                at += size
                continue
            case 1:
                back = (tag >> 5) << 8 | data[at]
                size = 4 + (size & 7)
                at += 1
            case kind:
                width = 2 * kind - 2
                back = int.from_bytes(data[at : at + width], "little")
                size += 1
                at += width
        if len(out) > length or not 0 < back <= len(out):
            raise ProtocolError("a copy of what is not there")
        start = len(out) - back
        if back >= size:
            out += out[start : start + size]
        else:
            # It copies what it has itself just written: a pattern, over and over.
            out += (bytes(out[start:]) * (size // back + 1))[:size]
    if len(out) != length:
        raise ProtocolError(f"{len(out)} bytes where {length} should be")
    return bytes(out)


def unmask(checksum: int) -> int:
    """LevelDB turns its checksums, as they are part of what has a checksum again."""
    turned = (checksum - 0xA282EAD8) & 0xFFFFFFFF
    return (turned >> 17 | turned << 15) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32 of Castagnoli, which is not zlib's."""
    remainders = _remainders()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = remainders[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _remainders() -> list[int]:
    """What each byte leaves, divided by the polynomial (bits reversed)."""
    remainders = list(range(256))
    for _ in range(8):
        remainders = [n >> 1 ^ (0x82F63B78 if n & 1 else 0) for n in remainders]
    return remainders
