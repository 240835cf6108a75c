"""Files of other servers, nearly right: LevelDB, SQLite, and those of a FileYStore.

It does not use the readers of the server, and spells what they read by the formats
alone. Checksums are right, mostly, whatever they are of: they keep nobody out who
writes a file.
"""

from __future__ import annotations

import gzip
import os
import random
import sqlite3
import struct
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from collab.leveldb import crc32c
from tests.fuzz import Case
from tests.fuzz.decoders import HONEST
from tests.fuzz.grammar import HUGE, NOT_TEXTS, NUMBERS, mutate
from tests.peers import data, insert, uint

FILE, LINK, FOLDER, PIPE = range(4)
"""What an input is: a name, a NUL, and what is in it or where it leads."""

Inputs: TypeAlias = list[tuple[int, bytes]]

MAGIC = 0xDB4775248B80FB57
LOG_BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

NAMES = ("a", "note 1", "é", "漢字 😀/é", "a/b")
ODD_NAMES = (
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    "x" * 256,
    "x" * 3000,
    "a\nError: all is well",
    "\x1b[2J\x1b]0;title\x07",
    "\u202etxt",
    "a\x00b",
    "%s%n{0}",
)
ODD_FILES = (
    "\u00b2.log",
    "000009.log",
    "-1.log",
    "٣.log",
    "1e9.log",
    "LOCK",
)
LEADS = ("/dev/zero", "/dev/full", "/proc/self/mem", ".", "CURRENT", "nowhere", "../..")


def file(name: str, content: bytes) -> tuple[int, bytes]:
    """An input that is a file."""
    return FILE, name.encode() + b"\x00" + content


@cache
def bomb() -> bytes:
    """What takes a thousand times as much when it is decompressed."""
    return zlib.compress(bytes(40 * 2**20), 9)


@cache
def chain() -> bytes:
    """A state of whose clients each waits for the next, and the last for nobody."""
    count = 3000
    items = [
        b"\x01" + uint(client) + b"\x00\x84" + uint(client + 1) + b"\x00\x01a"
        for client in range(1, count + 1)
    ]
    return uint(count) + b"".join(items) + b"\x00"


@cache
def long_keys() -> bytes:
    """A block in which each key has all of a long one, and a byte of its own."""
    first = uint(0) + uint(6000) + uint(0) + b"k" * 6000
    others = [uint(6000) + b"\x01\x00" + bytes((n % 256,)) for n in range(6000)]
    return first + b"".join(others) + bytes(4) + b"\x01\x00\x00\x00"


def lay(inputs: Case, folder: Path) -> None:
    """Put files where they are read."""
    for kind, spelled in inputs:
        name, _, content = spelled.partition(b"\x00")
        if not 0 < len(name) < 256 or b"/" in name or name in (b".", b".."):
            continue
        path = folder / os.fsdecode(name)
        if path.is_symlink() or path.exists():
            continue
        if kind == FILE:
            path.write_bytes(content)
        elif kind == LINK and content and b"\x00" not in content:
            path.symlink_to(os.fsdecode(content))
        elif kind == FOLDER:
            path.mkdir()
        elif kind == PIPE:
            os.mkfifo(path)


class Writer:
    """Writes something, with a small probability wrongly."""

    def __init__(self, chance: random.Random, wrong: float) -> None:
        self.chance = chance
        self.wrong = wrong

    def breaks(self, times: float = 1.0) -> bool:
        """Whether a rule is broken."""
        return self.chance.random() < self.wrong * times

    def uint(self, honest: int, times: float = 0.2) -> bytes:
        if not self.breaks(times):
            return uint(honest)
        chance = self.chance
        if chance.random() < 0.2:
            return b"\xff" * chance.choice((1, 8, 9, 400)) + b"\x7f"
        return uint(
            chance.choice((honest + 1, max(0, honest - 1), *NUMBERS, *HUGE, 2**40))
        )

    def data(self, content: bytes) -> bytes:
        return self.uint(len(content)) + content

    def name(self) -> str:
        return self.chance.choice(ODD_NAMES if self.breaks(2) else NAMES)

    def update(self) -> bytes:
        """An update, or what stands in the place of one."""
        chance = self.chance
        if self.breaks():
            return chance.choice(
                (
                    b"",
                    bomb(),
                    chain(),
                    chance.randbytes(20),
                    b"[" * 5000,
                    b"\x01\x01\x01\x00\x28\x01\x01m\x01k\x01" + b"v\x01\x01a" * 5000,
                    b"\x01\x01\x05\x00\x05\x01\x01t\xe8\x07"
                    + b"[" * 500
                    + b"]" * 500
                    + b"\x00",
                )
            )
        update = chance.choice((*HONEST, insert(1, "A"), insert(1, "b", 1)))
        return mutate(chance, update, HONEST) if self.breaks(2) else update

    def documents(self) -> dict[str, list[bytes]]:
        """Names, and what each document is made of."""
        chance = self.chance
        return {
            self.name(): [self.update() for _ in range(chance.choice((0, 1, 2, 6)))]
            for _ in range(chance.choice((1, 2, 4)))
        }


# LevelDB.


@dataclass(frozen=True)
class Change:
    """What is written to a key."""

    key: bytes
    number: int
    value: bytes | None

    @property
    def internal(self) -> bytes:
        """The key as it stands in a table."""
        kind = 0 if self.value is None else 1
        return self.key + (self.number << 8 | kind).to_bytes(8, "little")


@dataclass(frozen=True)
class Table:
    """A file of changes, as the manifest has it."""

    level: int
    number: int
    content: bytes
    first: bytes
    last: bytes


class Level(Writer):
    """The folder of a LevelDB, in which y-leveldb keeps documents."""

    def make(self) -> tuple[Inputs, dict[bytes, bytes]]:
        """The files, and what is in them if nothing is broken."""
        chance = self.chance
        changes = self.changes()
        tables: list[Table] = []
        inputs: Inputs = []
        at = 0
        while at < len(changes) and chance.random() < 0.7:
            count = chance.choice((1, 5, 20, 100))
            tables.append(self.table(len(tables) + 10, changes[at : at + count]))
            at += count
        log = chance.choice((4, 5, 9))
        for table in tables:
            kind = chance.choice(("ldb", "sst"))
            inputs.append(file(f"{table.number:06}.{kind}", table.content))
        inputs.append(file(f"{log:06}.log", self.log(self.batches(changes[at:]))))
        manifest = f"MANIFEST-{chance.choice((2, 3)):06}"
        inputs.append(file(manifest, self.log(self.edits(tables, log))))
        inputs.append(file("CURRENT", self.current(manifest)))
        if self.breaks():
            inputs.append(self.stranger())
        if self.breaks():
            del inputs[chance.randrange(len(inputs))]
        if self.breaks(2):
            at = chance.randrange(len(inputs))
            what, spelled = inputs[at]
            name, _, content = spelled.partition(b"\x00")
            content = mutate(chance, content, [spelled for _, spelled in inputs])
            inputs[at] = what, name + b"\x00" + content
        held = {c.key: c.value for c in changes}
        return inputs, {k: v for k, v in sorted(held.items()) if v is not None}

    def changes(self) -> list[Change]:
        """What y-leveldb wrote, one after the other."""
        chance = self.chance
        pairs: list[tuple[bytes, bytes | None]] = []
        for name, updates in self.documents().items():
            key = self.key("v1", name, "update") + b"\x01"
            pairs.append((self.key("v1_sv", name), b"\x00"))
            for number, update in enumerate(updates):
                pairs.append((key + number.to_bytes(4, "big"), update))
                if chance.random() < 0.2:
                    pairs.append((key + number.to_bytes(4, "big"), None))
                    pairs.append((key + number.to_bytes(4, "big"), update))
        for _ in range(chance.choice((0, 0, 3, 60))):
            value = chance.choice((None, b"x" * chance.choice((0, 9, 300))))
            pairs.append((b"\x00\x04meta" + bytes((chance.randrange(99),)), value))
        if self.breaks():
            pairs.append((self.key("v1_sv") + chance.choice((b"", b"\x00\xff")), b""))
            pairs.append((self.key("v1_sv", "a") + chance.randbytes(9), b""))
        first = self.number() if self.breaks(0.3) else 1
        return [
            Change(key, (first + number) % 2**56, value)
            for number, (key, value) in enumerate(pairs)
        ]

    def number(self) -> int:
        return self.chance.choice((*NUMBERS, 2**53, 2**56 - 2))

    def key(self, *parts: str) -> bytes:
        spelled = b""
        for part in parts:
            content = part.encode()
            if self.breaks(0.3):
                content += self.chance.choice(NOT_TEXTS)
            spelled += b"\x00" + self.data(content)
        return spelled

    # Tables.

    def table(self, number: int, changes: list[Change]) -> Table:
        chance = self.chance
        rows = sorted(changes, key=lambda change: (change.key, -change.number))
        if self.breaks():
            chance.shuffle(rows)
        written = bytearray()
        index: list[tuple[bytes, bytes]] = []
        at = 0
        while at < len(rows):
            part = rows[at : at + chance.choice((1, 3, 16))]
            at += len(part)
            pairs = [(row.internal, row.value or b"") for row in part]
            handle = self.place(written, self.block(pairs))
            index.append((part[-1].internal, handle))
        if self.breaks(0.5):
            index.append((index[-1][0], self.uint(0) + self.uint(len(written))))
        if self.breaks(0.5):
            index *= chance.choice((2, 3000))
        meta = self.place(written, self.block([]))
        where = self.place(written, self.block(index))
        footer = (meta + where).ljust(40, b"\x00")[:40]
        magic = chance.getrandbits(64) if self.breaks(0.2) else MAGIC
        written += footer + magic.to_bytes(8, "little")
        level = chance.choice((0, 1, 6)) if not self.breaks() else self.number()
        # Newer tables are before older ones wherever a key is in both.
        return Table(level, number, bytes(written), rows[0].key, rows[-1].key)

    def place(self, written: bytearray, block: bytes) -> bytes:
        """Write a block, as it is or compressed; return where."""
        chance = self.chance
        kind = chance.choice((0, 1))
        content = self.snap(block) if kind else block
        if self.breaks(0.3):
            kind = chance.choice((1, 2, 4, 255))
        at = len(written)
        trailer = bytes((kind,))
        checksum = mask(crc32c(content + trailer))
        if self.breaks(0.2):
            checksum ^= 1
        written += content + trailer + checksum.to_bytes(4, "little")
        if self.breaks(0.3):
            at = chance.choice((0, 1, at + 1, len(written), 2**40, 2**53 - 1, 2**62))
        size = len(content)
        if self.breaks(0.3):
            size = chance.choice((0, size - 1, size + 5, 2**31, 2**40, 2**53 - 1))
        return uint(at) + uint(size)

    def block(self, pairs: list[tuple[bytes, bytes]]) -> bytes:
        chance = self.chance
        if self.breaks(0.3):
            return long_keys()
        written = bytearray()
        restarts = []
        before = b""
        every = chance.choice((1, 2, 16))
        for number, (key, value) in enumerate(pairs):
            shared = 0
            if number % every == 0:
                restarts.append(len(written))
            else:
                pairs_ = zip(key, before, strict=False)
                shared = next((n for n, (a, b) in enumerate(pairs_) if a != b), 0)
            written += self.uint(shared) + self.uint(len(key) - shared)
            written += self.uint(len(value)) + key[shared:] + value
            before = key
        restarts = restarts or [0]
        count = len(restarts)
        if self.breaks(0.3):
            count = chance.choice((0, count + 1, 2**16, 2**31, 2**32 - 1))
        whole = b"".join(at.to_bytes(4, "little") for at in restarts)
        return bytes(written) + whole + count.to_bytes(4, "little")

    def snap(self, plain: bytes) -> bytes:
        """Compress as Snappy does, though not as well."""
        chance = self.chance
        written = bytearray(self.uint(len(plain)))
        at = 0
        while at < len(plain):
            back = chance.choice((1, 2, 8, max(1, at)))
            size = 0
            while (
                back <= at
                and size < 64
                and at + size < len(plain)
                and plain[at + size] == plain[at + size - back]
            ):
                size += 1
            if self.breaks(0.1):
                back = chance.choice((0, at + 1, 2**16 - 1, 2**32 - 1))
                size = max(size, 4)
            if size >= 4:
                written += self.copy(back, size)
            else:
                size = chance.choice((1, 7, 60, 300))
                literal = plain[at : at + size]
                size = len(literal)
                said = size - 1
                if self.breaks(0.1):
                    said = chance.choice((size, 2**16, 2**31, 2**32 - 1))
                width = max(1, (said.bit_length() + 7) // 8)
                if said < 60 and chance.random() < 0.9:
                    written.append(said << 2)
                else:
                    written.append(59 + width << 2)
                    written += said.to_bytes(width, "little")
                written += literal
            at += size
        return bytes(written)

    def copy(self, back: int, size: int) -> bytes:
        if 4 <= size <= 11 and back < 2048 and self.chance.random() < 0.5:
            return bytes((back >> 8 << 5 | size - 4 << 2 | 1, back & 255))
        if back < 2**16:
            return bytes((size - 1 << 2 | 2,)) + back.to_bytes(2, "little")
        return bytes((size - 1 << 2 | 3,)) + back.to_bytes(4, "little")

    # Logs.

    def log(self, records: list[bytes]) -> bytes:
        """Records in blocks; what doesn't fit goes on in the next."""
        chance = self.chance
        written = bytearray()
        for record in records:
            at = 0
            while True:
                left = LOG_BLOCK - len(written) % LOG_BLOCK
                if left < 7:
                    written += bytes(left)
                    continue
                part = record[at : at + left - 7]
                if self.breaks(0.3):
                    part = part[: chance.randrange(len(part) + 1)]
                begins, at = at == 0, at + len(part)
                ends = at >= len(record)
                kind = {
                    (True, True): FULL,
                    (True, False): FIRST,
                    (False, True): LAST,
                    (False, False): MIDDLE,
                }[begins, ends]
                written += self.piece(kind, part)
                if ends:
                    break
        if chance.random() < 0.1:
            written += bytes(chance.choice((1, 7, 100, LOG_BLOCK)))
        if self.breaks():
            del written[chance.randrange(len(written) + 1) :]
        return bytes(written)

    def piece(self, kind: int, content: bytes) -> bytes:
        chance = self.chance
        if self.breaks(0.3):
            kind = chance.randrange(7)
        checksum = mask(crc32c(bytes((kind,)) + content))
        if self.breaks(0.2):
            checksum ^= 1
        size = len(content)
        if self.breaks(0.3):
            size = chance.choice((0, size + 1, max(0, size - 1), 65535))
        return struct.pack("<IHB", checksum, size, kind) + content

    def batches(self, changes: list[Change]) -> list[bytes]:
        batches = []
        at = 0
        while at < len(changes):
            part = changes[at : at + self.chance.choice((1, 2, 30))]
            at += len(part)
            number, count = part[0].number, len(part)
            if self.breaks(0.3):
                number = 2**64 - 1
            if self.breaks(0.3):
                count = self.chance.choice((0, count + 1, 2**31, 2**32 - 1))
            batch = struct.pack("<QI", number, count)
            for change in part:
                kind = 0 if change.value is None else 1
                if self.breaks(0.3):
                    kind = self.chance.randrange(256)
                batch += bytes((kind,)) + self.data(change.key)
                if change.value is not None:
                    batch += self.data(change.value)
            batches.append(batch)
        return batches

    # The manifest.

    def edits(self, tables: list[Table], log: int) -> list[bytes]:
        chance = self.chance
        comparator = b"leveldb.BytewiseComparator"
        if self.breaks(0.2):
            comparator = chance.choice((b"idb_cmp1", b"", b"\xff\x1b[2J", b"x" * 999))
        edits = [b"\x01" + self.data(comparator)]
        if chance.random() < 0.5:
            edits.append(b"\x07\x00\x08" + uint(9) + data(b"a" * 9) + data(b"b" * 9))
            edits.append(b"\x06\x00\x08")
        for table in tables:
            levels = [table.level]
            if self.breaks(0.5):
                levels += range(chance.choice((3, 5000)))
            for level in levels:
                edit = b"\x07" + self.uint(level) + self.uint(table.number)
                edit += self.uint(len(table.content))
                first, last = table.first, table.last
                if self.breaks(0.3):
                    first, last = last, first
                edits.append(edit + self.data(first + b"\x01" + bytes(7)))
                edits[-1] += self.data(last + b"\x01" + bytes(7))
        edits.append(b"\x02" + self.uint(log) + b"\x09\x00\x03\x63\x04" + uint(2**40))
        if chance.random() < 0.3:
            edits.append(b"\x05\x01" + data(b"k" * 9))
        if self.breaks(0.5):
            odd = self.uint(chance.choice((0, 8, 10, 99, 2**53))) + chance.randbytes(5)
            edits.insert(chance.randrange(len(edits)), odd)
        if chance.random() < 0.5:
            return [b"".join(edits)]
        return edits

    def current(self, manifest: str) -> bytes:
        if not self.breaks(0.5):
            return manifest.encode() + b"\n"
        return self.chance.choice(
            (
                b"",
                b"\n",
                manifest.encode(),
                b"MANIFEST-../../../etc/passwd\n",
                b"/etc/passwd\n",
                b"MANIFEST-000002/../000002\n",
                b"MANIFEST-\xd9\xa3\n",
                b"MANIFEST-" + b"0" * 5000 + b"\n",
                b"MANIFEST-9\n",
                b"CURRENT\n",
                b"MANIFEST-000002\x00\n",
            )
        )

    def stranger(self) -> tuple[int, bytes]:
        """Something that LevelDB does not put there."""
        chance = self.chance
        name = chance.choice((*ODD_FILES, "CURRENT", "000010.ldb", "000004.log"))
        kind = chance.choice((FILE, LINK, LINK, FOLDER, PIPE))
        content = {FILE: b"x", LINK: chance.choice(LEADS).encode()}.get(kind, b"")
        return kind, name.encode() + b"\x00" + content


def mask(checksum: int) -> int:
    """As LevelDB's ``util/crc32c.h``."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


# SQLite, and the files of a FileYStore.

HOCUSPOCUS = (
    'CREATE TABLE "documents" ("name" varchar(255) NOT NULL, "data" blob NOT NULL,'
    " UNIQUE(name))"
)
PYCRDT = (
    "CREATE TABLE yupdates (path TEXT NOT NULL, yupdate BLOB, metadata BLOB,"
    " timestamp REAL NOT NULL)"
)
CHECKPOINTS = (
    "CREATE TABLE ycheckpoints (path TEXT NOT NULL, checkpoint BLOB, timestamp REAL)"
)
ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t)"
ODD_SCHEMAS = (
    "CREATE TABLE documents (name, data)",
    "CREATE TABLE documents (name, data, PRIMARY KEY (name)) WITHOUT ROWID",
    "CREATE TABLE documents (name, data BLOB AS (zeroblob(900000000)))",
    f"CREATE VIEW documents AS {ENDLESS} SELECT n AS name, x'0000' AS data FROM t",
    f"CREATE VIEW documents AS {ENDLESS}"
    " SELECT 'a' AS name, zeroblob(1000000) AS data FROM t LIMIT 9000",
    "CREATE VIEW documents AS SELECT 'a' AS name, zeroblob(900000000) AS data",
    "CREATE VIEW documents AS SELECT name, data FROM documents",
    "CREATE VIRTUAL TABLE documents USING fts5(name, data)",
    "CREATE TABLE yupdates (path, yupdate, metadata)",
    "CREATE TABLE yupdates (path TEXT, yupdate BLOB)",
    f"CREATE VIEW yupdates AS {ENDLESS} SELECT 'a' AS path, x'0000' AS yupdate,"
    " NULL AS metadata, n AS timestamp FROM t",
    "CREATE VIEW yupdates AS SELECT 'a' AS path, zeroblob(900000000) AS yupdate,"
    " NULL AS metadata, 1.0 AS timestamp",
    f"CREATE VIEW ycheckpoints AS {ENDLESS}"
    " SELECT n AS path, x'0000' AS checkpoint FROM t",
)


class Stores(Writer):
    """The database of @hocuspocus/extension-sqlite or pycrdt-store, or its file."""

    def make(self) -> Inputs:
        chance = self.chance
        kind = chance.choice(("hocuspocus", "pycrdt", "pycrdt", "file"))
        if kind == "file":
            return [file("file.y", self.ystore())]
        content = self.database(kind == "hocuspocus")
        if self.breaks(3):
            content = self.spoil(content)
        inputs = [file("file.db", content)]
        if self.breaks():
            end = chance.choice(("-wal", "-journal", "-shm"))
            inputs.append(file(f"file.db{end}", self.beside(end, content)))
        if self.breaks(0.2):
            lead = chance.choice(LEADS).encode()
            inputs[0] = chance.choice((LINK, PIPE, FOLDER)), b"file.db\x00" + lead
        return inputs

    def database(self, hocuspocus: bool) -> bytes:
        chance = self.chance
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            run = connection.execute
            run(f"PRAGMA page_size = {chance.choice((512, 1024, 4096))}")
            if self.breaks(0.3):
                run(f"PRAGMA encoding = '{chance.choice(('UTF-16le', 'UTF-16be'))}'")
            schema = [HOCUSPOCUS] if hocuspocus else [PYCRDT]
            if not hocuspocus and chance.random() < 0.5:
                schema.append(CHECKPOINTS)
            if self.breaks(2):
                schema = [chance.choice(ODD_SCHEMAS), *schema[1:]]
            for statement in schema:
                self.attempt(run, statement)
            for name, updates in self.documents().items():
                if hocuspocus:
                    content = b"".join(updates[:1]) or b"\x00\x00"
                    row = (self.value(name), self.value(content))
                    self.attempt(run, "INSERT INTO documents VALUES (?, ?)", *row)
                    continue
                path = self.value(name)
                add = "INSERT INTO yupdates VALUES (?, ?, ?, ?)"
                for update in updates:
                    packed = self.value(self.packed(update))
                    self.attempt(run, add, path, packed, b"", self.time())
                if len(schema) > 1 and chance.random() < 0.5:
                    add = "INSERT INTO ycheckpoints VALUES (?, ?, ?)"
                    packed = self.value(self.packed(self.update()))
                    self.attempt(run, add, path, packed, self.time())
            if chance.random() < 0.2:
                run("CREATE TABLE other (a)")
                for number in range(chance.choice((3, 300))):
                    run("INSERT INTO other VALUES (?)", (b"x" * number,))
            return connection.serialize()

    def attempt(
        self, run: Callable[..., object], statement: str, *values: object
    ) -> None:
        """Run a statement, if SQLite does."""
        with suppress(sqlite3.Error, OverflowError):  # It doesn't keep everything.
            run(statement, values)

    def value(self, honest: object) -> object:
        if not self.breaks():
            return honest
        chance = self.chance
        return chance.choice((None, 5, 1e308, -(2**63), b"\xff\xfe", "text", "", b""))

    def time(self) -> object:
        if not self.breaks():
            return 1.7e9
        chance = self.chance
        return chance.choice(
            (0.0, -1.0, 1e308, 1e300, float("inf"), "now", b"x", 2**62)
        )

    def packed(self, update: bytes) -> bytes:
        """An update as a store with a ``compress`` callback has it."""
        kind = self.chance.random()
        if kind < 0.7:
            return update
        packed = zlib.compress(update) if kind < 0.85 else gzip.compress(update)
        return mutate(self.chance, packed, []) if self.breaks() else packed

    def spoil(self, content: bytes) -> bytes:
        """Damage pages where they say what is where."""
        chance = self.chance
        if len(content) < 100 or chance.random() < 0.2:
            return mutate(chance, content, [content])
        spoilt = bytearray(content)
        size = int.from_bytes(content[16:18], "big") or 65536
        for _ in range(chance.choice((1, 1, 2, 5))):
            page = chance.randrange(max(1, len(content) // size)) * size
            head = page + (100 if page == 0 else 0)
            kind = chance.randrange(6)
            if (
                kind == 0
            ):  # The kind of a page, the number of its cells, where they are.
                spoilt[head + chance.randrange(12)] = chance.choice(
                    (0, 2, 5, 10, 13, 255)
                )
            elif kind == 1:  # The header of the file.
                spoilt[chance.randrange(100)] = chance.choice((0, 1, 2, 127, 255))
            elif kind == 2:  # The children of a page: itself, or another.
                spoilt[head] = chance.choice((2, 5))
                child = chance.randrange(1, len(content) // size + 2)
                spoilt[head + 8 : head + 12] = child.to_bytes(4, "big")
            elif kind == 3:  # Cells that are one cell.
                cells = int.from_bytes(spoilt[head + 3 : head + 5], "big")
                start = head + (12 if spoilt[head] in (2, 5) else 8)
                one = spoilt[start : start + 2]
                count = min(cells or 1, size // 4)
                spoilt[start : start + 2 * count] = one * count
            elif kind == 4:  # The end of a cell: where it goes on, if it is long.
                where = page + chance.randrange(size)
                goes = chance.randrange(len(content) // size + 2)
                spoilt[where : where + 4] = goes.to_bytes(4, "big")
            else:  # A length in the middle.
                where = page + chance.randrange(size)
                long = chance.choice((b"\xff" * 8 + b"\x7f", b"\x87\xff\xff\xff\x7f"))
                spoilt[where : where + len(long)] = long
        return bytes(spoilt[: len(content)])

    def beside(self, end: str, content: bytes) -> bytes:
        chance = self.chance
        head = {
            "-wal": struct.pack(">IIIIIIII", 0x377F0682, 3007000, 4096, 0, 1, 2, 3, 4),
            "-journal": bytes.fromhex("d9d505f920a163d7")
            + struct.pack(">iIIII", chance.choice((1, -1)), 7, 1, 512, 4096),
        }.get(end, b"")
        return head + mutate(chance, content[:2000], []) + b"\x00" * 512

    def ystore(self) -> bytes:
        chance = self.chance
        header = b"VERSION:2\n"
        if self.breaks():
            header = chance.choice(
                (b"VERSION:3\n", b"VERSION:2", b"VERSION:", b"VERSION:" + b"9" * 9999)
            )
        content = header
        for _ in range(chance.choice((0, 1, 5, 30))):
            time = struct.pack("<d", 1.7e9)
            if self.breaks():
                time = chance.choice(
                    (b"", time[:7], time * 2, b"\xff" * 8, struct.pack("<d", 1e308))
                )
            content += self.data(self.update()) + self.data(b"m") + self.data(time)
        if self.breaks(2):
            content = header + mutate(chance, content[len(header) :], [content])
        return content
