"""Documents of other servers, in files that their own packages wrote."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from pycrdt import Text
from pycrdt.store import FileYStore, SQLiteYStore

from collab.document import EMPTY, Document
from collab.errors import ImportFailed, UpdateRejected
from collab.folding import fold
from collab.importing import KINDS, Found, Unreadable, apart
from collab.store import Store
from tests.fuzz.files import Change, Level
from tests.importing import HERE, Writer, Written
from tests.node import node_path
from tests.peers import uint

# One process writes the files, for all of these.
pytestmark = pytest.mark.xdist_group("importing")


@pytest.fixture(scope="module")
def yjs() -> Iterator[Writer]:
    """Documents that nobody has stored."""
    with Writer("none") as writer:
        yield writer


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, yjs: Writer) -> dict[str, Path]:
    """What each package makes of these documents."""
    folder = tmp_path_factory.mktemp("files")
    paths = {kind: folder / kind for kind in KINDS}
    for kind in ("hocuspocus-sqlite", "y-leveldb"):
        with Writer(kind, paths[kind]):
            pass
    asyncio.run(store_all(paths["pycrdt-store"], yjs.documents))
    return paths


async def store_all(path: Path, documents: dict[str, Written]) -> None:
    squashed = documents["squashed"]
    await store(path, squashed.name, squashed.updates[:-1])
    # Larger than nothing: what is there so far is squashed.
    await store(
        path, squashed.name, squashed.updates[-1:], cleanup_when_db_size_above=1e-9
    )
    for name, document in documents.items():
        if document is not squashed:
            await store(path, name, document.updates or [EMPTY])


async def store(
    path: Path,
    name: str,
    updates: Sequence[bytes],
    compression: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]
    | None = None,
    **options: float,
) -> None:
    """Write updates to an SQLiteYStore."""
    ystore = SQLiteYStore(name)
    ystore.db_path = str(path)
    for option, value in options.items():
        setattr(ystore, option, value)
    if compression is not None:
        ystore.register_compression_callbacks(*compression)
    async with ystore:
        assert ystore.db_initialized is not None
        await ystore.db_initialized.wait()
        # Nobody cuts the power here, and a thousand commits would wait for the disk.
        await ystore._db.execute("PRAGMA synchronous = OFF")
        for update in updates:
            await ystore.write(update)


def read(kind: str, path: Path) -> dict[str, Found | Unreadable]:
    with KINDS[kind](path) as source:
        found = {one.name: one for one in source}
        assert len(found) == len(source)
        return found


def opened(found: Found | Unreadable | None) -> Document:
    """The document that comes of what was found."""
    assert isinstance(found, Found)
    document = Document()
    for update in found.updates:
        document.apply(update)
    return document


def text(document: Document) -> str:
    return str(document.doc.get("text", type=Text))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files in a folder, and when they were written."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def copied(path: Path, to: Path) -> Path:
    """A copy, to be spoilt."""
    if path.is_dir():
        return shutil.copytree(path, to)
    shutil.copy(path, to)
    return to


# What all kinds have in common.


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_comes_as_yjs_had_it(
    kind: str, files: dict[str, Path], yjs: Writer
) -> None:
    documents = {n: opened(found) for n, found in read(kind, files[kind]).items()}
    assert documents.keys() == yjs.documents.keys()
    shown = yjs.show({name: doc.state() for name, doc in documents.items()})
    for name, document in documents.items():
        if not name.startswith("lacks"):
            assert shown[name] == yjs.documents[name].shown
            assert not document.parked
            # pycrdt shows half an emoji in a way of its own.
            if document.raw is None:
                assert text(document) == yjs.documents[name].text


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_may_have_lost_something(
    kind: str, files: dict[str, Path], yjs: Writer
) -> None:
    whole = yjs.documents["whole"]
    lacking = {
        name: opened(found)
        for name, found in read(kind, files[kind]).items()
        if name.startswith("lacks")
    }
    assert all(document.parked for document in lacking.values())
    shown = yjs.show({name: doc.state() for name, doc in lacking.items()})
    for name, document in lacking.items():
        # Of an update that merely begins too early, Yjs may show a part.
        assert shown[name]["text"]
        if kind == "hocuspocus-sqlite":
            assert shown[name] == yjs.documents[name].shown
        # It comes at last.
        for update in whole.updates:
            document.apply(update)
        assert not document.parked
        assert yjs.show({name: document.state()})[name] == whole.shown


@pytest.mark.parametrize("kind", KINDS)
def test_reading_changes_no_file_and_makes_none(
    kind: str, files: dict[str, Path]
) -> None:
    before = contents(files[kind].parent)
    read(kind, files[kind])
    assert contents(files[kind].parent) == before


@pytest.mark.parametrize("kind", ["hocuspocus-sqlite", "y-leveldb"])
@pytest.mark.parametrize("killed", [False, True], ids=["running", "killed"])
def test_its_server_may_be_running_or_have_been_killed(
    kind: str, killed: bool, tmp_path: Path, yjs: Writer
) -> None:
    with Writer(kind, tmp_path / "file") as writer:
        if killed:
            writer.kill()
            writer.process.wait()
        found = read(kind, tmp_path / "file")
    assert found.keys() == yjs.documents.keys()
    for name in ("漢字 😀/é", "squashed", "large"):
        assert text(opened(found[name])) == yjs.documents[name].text


@pytest.mark.parametrize(
    ("kind", "make", "says"),
    [
        ("hocuspocus-sqlite", None, "No such file or directory; name a file"),
        ("pycrdt-store", None, "No such file or directory; name a file"),
        ("y-leveldb", None, "No such file or directory; name the directory"),
        ("hocuspocus-sqlite", Path.mkdir, "Is a directory; name a file"),
        ("pycrdt-store", Path.mkdir, "Is a directory; name a file"),
        ("y-leveldb", Path.touch, "Not a directory; name the directory"),
        ("y-leveldb", Path.mkdir, "has no file CURRENT, so it is no LevelDB; name the"),
        ("hocuspocus-sqlite", Path.touch, "is not an SQLite database; name another"),
        ("pycrdt-store", Path.touch, "is not an SQLite database; name another file"),
    ],
)
def test_another_file_is_named_as_such(
    kind: str, make: Callable[[Path], None] | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if make is not None:
        make(path)
    with pytest.raises(ImportFailed, match=says), KINDS[kind](path):
        pass


@pytest.mark.parametrize(
    ("kind", "other", "says"),
    [
        (
            "hocuspocus-sqlite",
            "pycrdt-store",
            "has no table documents: @hocuspocus/ext",
        ),
        (
            "pycrdt-store",
            "hocuspocus-sqlite",
            "has no table yupdates: pycrdt-store did",
        ),
    ],
)
def test_another_kind_of_database_is_named_as_such(
    kind: str, other: str, says: str, files: dict[str, Path]
) -> None:
    with pytest.raises(ImportFailed, match=says), KINDS[kind](files[other]):
        pass


# SQLite.

INTERRUPTED = """
import os, signal, sqlite3, sys
path, mode = sys.argv[1:]
connection = sqlite3.connect(path, isolation_level=None)
connection.execute(f"PRAGMA journal_mode = {mode}")
connection.execute("UPDATE documents SET name = 'committed' WHERE name = 'note 1'")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN")
connection.execute("UPDATE documents SET data = zeroblob(9000), name = 'x' || name")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_what_a_killed_server_had_begun_is_not_read(
    mode: str, tmp_path: Path, files: dict[str, Path], yjs: Writer
) -> None:
    path = copied(files["hocuspocus-sqlite"], tmp_path / "a file?#%.db")
    script = [sys.executable, "-c", INTERRUPTED, str(path), mode]
    assert subprocess.run(script).returncode == -signal.SIGKILL
    before = contents(tmp_path)
    assert len(before) > 1
    found = read("hocuspocus-sqlite", path)
    assert contents(tmp_path) == before
    assert found.keys() == {"committed", *yjs.documents} - {"note 1"}
    assert text(opened(found["committed"])) == yjs.documents["note 1"].text
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read("hocuspocus-sqlite", link) == found


def test_a_database_with_a_write_ahead_log_may_be_at_rest(
    tmp_path: Path, files: dict[str, Path], yjs: Writer
) -> None:
    path = copied(files["hocuspocus-sqlite"], tmp_path / "file")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert os.listdir(tmp_path) == ["file"]
    assert read("hocuspocus-sqlite", path).keys() == yjs.documents.keys()
    assert os.listdir(tmp_path) == ["file"]


def test_a_document_on_a_damaged_page_does_not_stop_the_rest(
    tmp_path: Path, files: dict[str, Path], yjs: Writer
) -> None:
    path = copied(files["hocuspocus-sqlite"], tmp_path / "file")
    middle = path.stat().st_size // 2 // 4096 * 4096
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(b"\xff" * 4096)
    found = read("hocuspocus-sqlite", path)
    assert isinstance(found["large"], Unreadable)
    assert "malformed; restore a backup, or try what" in found["large"].reason
    del found["large"]
    for name, one in found.items():
        if name != "half an emoji":
            assert text(opened(one)) == yjs.documents[name].text


def test_a_damaged_database_is_named_as_such(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    path = copied(files["hocuspocus-sqlite"], tmp_path / "file")
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4096)
    with (
        pytest.raises(ImportFailed, match="restore a backup, or try what"),
        KINDS["hocuspocus-sqlite"](path),
    ):
        pass


def test_of_two_rows_with_a_name_the_newer_counts(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "file") as connection:
        # The option `schema` of the extension lets people leave UNIQUE out.
        connection.execute("CREATE TABLE documents (name varchar(255), data blob, x)")
        connection.execute("INSERT INTO documents VALUES ('a', x'00', 1)")
        connection.execute("INSERT INTO documents VALUES ('a', x'0000', 2)")
        connection.execute("INSERT INTO documents VALUES ('b', NULL, 3)")
    connection.close()
    assert read("hocuspocus-sqlite", tmp_path / "file") == {
        "a": Found("a", [EMPTY]),
        "b": Unreadable("b", "where an update should be, there is None"),
    }


def test_a_locked_database_is_left_to_its_server(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(files["hocuspocus-sqlite"], tmp_path / "file")
    monkeypatch.setattr("collab.importing.BUSY_TIMEOUT", 0.0)
    server = sqlite3.connect(path, isolation_level=None)
    server.execute("BEGIN EXCLUSIVE")
    with (
        pytest.raises(ImportFailed, match="locked; stop the server that uses it and"),
        KINDS["hocuspocus-sqlite"](path),
    ):
        pass
    server.close()


# y-leveldb.


def level(folder: Path, key: bytes | None) -> Path:
    """A LevelDB with one key, or none, which y-leveldb had nothing to do with."""
    put = f"put(Buffer.from('{key.hex()}', 'hex'), 'value')" if key else "open()"
    script = f"""
        const {{ Level }} = require('level')
        const db = new Level(process.argv[1], {{ keyEncoding: 'buffer' }})
        db.{put}.then(() => db.close())
    """
    subprocess.run([node_path(), "-e", script, folder], cwd=HERE, check=True)
    return folder


def test_an_empty_leveldb_has_no_documents(tmp_path: Path, yjs: Writer) -> None:
    assert read("y-leveldb", level(tmp_path / "file", None)) == {}


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (b"key", "y-leveldb keeps no documents in it; name another directory"),
        (b"\0\x05v1_sv\0\x02a", "has a key that is not y-leveldb's"),
    ],
)
def test_a_leveldb_of_something_else_is_named_as_such(
    key: bytes, says: str, tmp_path: Path, yjs: Writer
) -> None:
    folder = level(tmp_path / "file", key)
    with pytest.raises(ImportFailed, match=says), KINDS["y-leveldb"](folder):
        pass


def test_documents_in_a_damaged_table_do_not_stop_the_rest(
    tmp_path: Path, files: dict[str, Path], yjs: Writer
) -> None:
    folder = copied(files["y-leveldb"], tmp_path / "file")
    path = max(folder.glob("*.ldb"), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff")
    found = read("y-leveldb", folder)
    assert isinstance(found["large"], Unreadable)
    assert "wrong checksum; restore a backup" in found["large"].reason
    assert text(opened(found["note 79"])) == yjs.documents["note 79"].text


# pycrdt-store.


def test_its_documents_have_a_time(files: dict[str, Path]) -> None:
    now = time.time() * 1000
    for found in read("pycrdt-store", files["pycrdt-store"]).values():
        assert isinstance(found, Found)
        assert found.saved_at is not None
        assert now - 3_600_000 < found.saved_at <= now


@pytest.mark.parametrize("codec", [zlib, gzip])
async def test_compressed_updates_are_decompressed(
    codec: ModuleType, tmp_path: Path, yjs: Writer
) -> None:
    for name in ("empty", "squashed", "漢字 😀/é"):
        await store(
            tmp_path / "file",
            name,
            yjs.documents[name].updates or [EMPTY],
            (codec.compress, codec.decompress),
            checkpoint_interval=20,
            squash_after_inactivity_of=0,
        )
    for name, found in read("pycrdt-store", tmp_path / "file").items():
        shown = yjs.show({name: opened(found).state()})
        assert shown[name] == yjs.documents[name].shown


async def test_a_checkpoint_has_what_squashing_lost(
    tmp_path: Path, yjs: Writer
) -> None:
    document = yjs.documents["squashed"]
    path = tmp_path / "file"
    # The update that makes a checkpoint due is not in it.
    await store(
        path, document.name, [*document.updates[:40], EMPTY], checkpoint_interval=41
    )
    await store(
        path, document.name, document.updates[40:], squash_after_inactivity_of=0
    )
    with sqlite3.connect(path) as connection:
        (left,) = connection.execute("SELECT count(*) FROM yupdates").fetchone()
    connection.close()
    assert left == 1 + len(document.updates[40:])
    found = opened(read("pycrdt-store", path)[document.name])
    assert not found.parked
    assert text(found) == document.text


async def test_what_squashing_broke_is_rejected(tmp_path: Path, yjs: Writer) -> None:
    # pycrdt counts half an emoji as none, so that something without length is left.
    document = yjs.documents["half an emoji"]
    await store(tmp_path / "file", document.name, document.updates)
    await store(
        tmp_path / "file", document.name, [EMPTY], cleanup_when_db_size_above=1e-9
    )
    found = read("pycrdt-store", tmp_path / "file")[document.name]
    with pytest.raises(UpdateRejected, match="empty-struct"):
        opened(found)


# `create_db` of ypy-websocket 0.1 to 0.4, and of 0.5 (ystore.py). Later versions move
# such files aside, as `ystore(1).db`.
OLDEST = "CREATE TABLE IF NOT EXISTS yupdates (path TEXT, yupdate BLOB)"
OLD = "CREATE TABLE IF NOT EXISTS yupdates (path TEXT, yupdate BLOB, metadata BLOB)"


def test_a_database_without_times_is_read_in_its_order(
    tmp_path: Path, yjs: Writer
) -> None:
    document = yjs.documents["note 1"]
    with sqlite3.connect(tmp_path / "file") as connection:
        connection.execute(OLD)
        connection.executemany(
            "INSERT INTO yupdates VALUES (?, ?, ?)",
            [("a", update, b"") for update in document.updates],
        )
    connection.close()
    assert read("pycrdt-store", tmp_path / "file") == {
        "a": Found("a", document.updates)
    }


def test_a_database_of_the_first_versions_is_named_as_such(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "file") as connection:
        connection.execute(OLDEST)
    connection.close()
    with (
        pytest.raises(ImportFailed, match="no column metadata in its table yupdates"),
        KINDS["pycrdt-store"](tmp_path / "file"),
    ):
        pass


async def file_store(path: Path, updates: Sequence[bytes]) -> None:
    async with FileYStore(str(path), lambda: b"metadata") as ystore:
        for update in updates:
            await ystore.write(update)


async def test_a_file_is_a_document(tmp_path: Path, yjs: Writer) -> None:
    document = yjs.documents["note 1"]
    await file_store(tmp_path / "name.y", document.updates)
    (found,) = read("pycrdt-store", tmp_path / "name.y").values()
    assert isinstance(found, Found)
    assert found.name == "name.y"
    assert found.updates == document.updates
    assert found.saved_at is not None
    assert abs(found.saved_at - time.time() * 1000) < 3_600_000


async def test_a_file_whose_writer_was_killed_holds_what_is_whole(
    tmp_path: Path, yjs: Writer
) -> None:
    updates = yjs.documents["note 1"].updates
    await file_store(tmp_path / "file", updates)
    whole = (tmp_path / "file").read_bytes()
    lengths = set()
    for end in range(len(b"VERSION:2\n"), len(whole)):
        (tmp_path / "file").write_bytes(whole[:end])
        (found,) = read("pycrdt-store", tmp_path / "file").values()
        assert isinstance(found, Found)
        assert found.updates == updates[: len(found.updates)]
        lengths.add(len(found.updates))
    assert lengths == set(range(len(updates)))


def test_a_file_whose_writer_was_killed_at_once_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"VERSION:2\n\x08")
    assert read("pycrdt-store", tmp_path / "file") == {"file": Found("file", [])}


@pytest.mark.parametrize("torn", [1, 9, 11, 18])
async def test_a_file_on_which_another_went_on_is_unreadable(
    torn: int, tmp_path: Path, yjs: Writer
) -> None:
    updates = yjs.documents["note 1"].updates
    await file_store(tmp_path / "file", updates)
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[:-torn])
    await file_store(tmp_path / "file", updates)
    (found,) = read("pycrdt-store", tmp_path / "file").values()
    assert isinstance(found, Unreadable)
    assert "another went on; restore a backup" in found.reason


def test_a_file_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"VERSION:3\nwhatever")
    (found,) = read("pycrdt-store", tmp_path / "file").values()
    assert isinstance(found, Unreadable)
    assert "of another version than 2; move it over with" in found.reason


# Files that somebody made to look like a database.

ENDLESS = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t)"


def database(path: Path, *statements: str, values: Sequence[object] = ()) -> Path:
    """An SQLite file, of statements of which the last has values."""
    with sqlite3.connect(path) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        connection.execute(statements[-1], values)
    connection.close()
    return path


@pytest.mark.parametrize(
    ("kind", "view"),
    [
        (
            "hocuspocus-sqlite",
            f"documents AS {ENDLESS} SELECT n AS name, x'0000' AS data FROM t",
        ),
        (
            "hocuspocus-sqlite",
            f"documents AS {ENDLESS} SELECT 'a' AS name, n AS data FROM t",
        ),
        (
            "hocuspocus-sqlite",
            "documents AS SELECT 'a' AS name, zeroblob(900000000) AS data",
        ),
        (
            "pycrdt-store",
            f"yupdates AS {ENDLESS} SELECT 'a' AS path, zeroblob(9000) AS yupdate,"
            " NULL AS metadata, n AS timestamp FROM t LIMIT 90000",
        ),
    ],
)
def test_a_table_that_is_a_view_does_not_go_on_for_ever(
    kind: str, view: str, tmp_path: Path
) -> None:
    path = database(tmp_path / "file", f"CREATE VIEW {view}")
    reasons = []
    try:
        reasons += [getattr(one, "reason", "") for one in read(kind, path).values()]
    except ImportFailed as exc:
        reasons.append(str(exc))
    for reason in reasons:
        assert re.search("more in it than a file of its|too big", reason)
    assert reasons


@pytest.mark.parametrize("name", [None, 5, b"\xff"])
def test_a_document_whose_name_is_no_text_does_not_stop_the_rest(
    name: object, tmp_path: Path
) -> None:
    path = database(
        tmp_path / "file",
        "CREATE TABLE documents (name, data)",
        "INSERT INTO documents VALUES ('a', x'0000'), (?, x'0000')",
        values=[name],
    )
    assert read("hocuspocus-sqlite", path) == {
        "a": Found("a", [EMPTY]),
        str(name): Unreadable(str(name), "its name is not a text"),
    }
    command = [sys.executable, "-m", "collab", "import-from", "hocuspocus-sqlite"]
    command += [str(path), "--database", f"sqlite:///{tmp_path / 'collab.db'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{name}: not imported: its name is not a text" in done.stderr
    assert "1 documents imported, 0 left as they are." in done.stdout


@pytest.mark.parametrize("time", [1e308, -1.0, "now"])
def test_a_time_that_is_none_is_left_out(time: object, tmp_path: Path) -> None:
    path = database(
        tmp_path / "file",
        "CREATE TABLE yupdates (path, yupdate, metadata, timestamp)",
        "INSERT INTO yupdates VALUES ('a', x'0000', x'', ?)",
        values=[time],
    )
    assert read("pycrdt-store", path) == {"a": Found("a", [EMPTY])}


def test_a_schema_that_is_no_text_is_damaged(tmp_path: Path) -> None:
    path = database(
        tmp_path / "file",
        "CREATE TABLE documents (name, data)",
        "CREATE INDEX some ON documents (data)",
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"documents (data)", b"documents (da\xffa)"))
    with (
        pytest.raises(ImportFailed, match="its schema is damaged; restore a backup"),
        KINDS["hocuspocus-sqlite"](path),
    ):
        pass


def test_what_inflates_beyond_measure_is_not_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collab.importing.INFLATED", 2**20)
    path = database(
        tmp_path / "file",
        "CREATE TABLE yupdates (path, yupdate, metadata, timestamp)",
        "INSERT INTO yupdates VALUES ('a', ?1, x'', 1.0), ('b', x'0000', x'', 1.0),"
        " ('a', ?1, x'', 1.0)",
        values=[zlib.compress(bytes(600_000))],
    )
    found = read("pycrdt-store", path)
    assert isinstance(found["a"], Unreadable)
    assert found["a"].reason == "its updates have more than 1048576 bytes"
    assert isinstance(found["b"], Found)


def test_clients_who_wait_for_each_other_are_followed_once() -> None:
    # Each of them begins behind the next, and the last behind nobody. Looking at all
    # of them for each of them takes minutes.
    count = 20_000
    items = [
        b"\x01" + uint(client) + b"\x00\x84" + uint(client + 1) + b"\x00\x01a"
        for client in range(1, count + 1)
    ]
    state = uint(count) + b"".join(items) + b"\x00"
    assert apart(state) == [state]


@pytest.mark.parametrize("kind", ["hocuspocus-sqlite", "pycrdt-store"])
def test_a_pipe_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file")
    with (
        pytest.raises(ImportFailed, match="is no file; name another"),
        KINDS[kind](tmp_path / "file"),
    ):
        pass


def test_a_key_with_something_behind_the_name_is_none(tmp_path: Path) -> None:
    writer = Level(random.Random(0), 0.0)
    key = b"\x00\x05v1_sv\x00\x01a"
    changes = [Change(key, 1, b"\x00"), Change(key + b"b", 2, b"\x00")]
    log = writer.log(writer.batches(changes))
    (tmp_path / "000004.log").write_bytes(log)
    (tmp_path / "MANIFEST-000002").write_bytes(writer.log([b"\x02\x04"]))
    (tmp_path / "CURRENT").write_bytes(b"MANIFEST-000002\n")
    with (
        pytest.raises(ImportFailed, match="has a key that is not y-leveldb's"),
        KINDS["y-leveldb"](tmp_path),
    ):
        pass


# The command.


def test_a_name_is_only_letters_on_a_terminal(tmp_path: Path) -> None:
    path = database(
        tmp_path / "file",
        "CREATE TABLE documents (name, data)",
        "INSERT INTO documents VALUES (?, x'0000'), (?, x'0000')",
        values=["\x1b[2Ja\nError: all is well", "x" * 5000],
    )
    command = [sys.executable, "-m", "collab", "import-from", "hocuspocus-sqlite"]
    command += [str(path), "--database", f"sqlite:///{tmp_path / 'collab.db'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    first, second, last = done.stderr.splitlines()
    assert first.startswith(
        r"\x1b[2Ja\nError: all is well: not imported: document name"
    )
    assert second.startswith("x" * 300 + "...: not imported: document name")
    assert last == "Error: 2 documents could not be imported, 0 only in part."


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_command_brings_all_of_it_in(
    kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'collab.db'}"
    command = [sys.executable, "-m", "collab", "import-from", kind, str(files[kind])]
    command += ["--database", url, "--prefix", "old/"]
    with KINDS[kind](files[kind]) as source:
        found = {found.name: found for found in source if isinstance(found, Found)}
    # No client of ours could ask for a name with a relative path in it.
    expected = {name: document for name, document in found.items() if ".." not in name}
    assert len(found) - len(expected) == 1
    planned = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
    assert f"{len(expected)} documents would be imported" in planned.stdout
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "not imported: document name holds a relative path" in done.stderr
    assert f"{len(expected)} documents imported, 0 left as they are." in done.stdout
    store = Store(url)
    for name, document in expected.items():
        theirs = Document()
        for update in document.updates:
            with suppress(UpdateRejected):
                theirs.apply(update)
        ours = fold(store.load(f"old/{name}"))
        assert ours.gate == theirs.gate, name
        assert set(ours.parked) == set(theirs.parked)
    store.close()
    again = subprocess.run(command, capture_output=True, text=True)
    assert f"0 documents imported, {len(expected)} left as they are." in again.stdout


def test_a_file_of_another_kind_is_a_failure(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = files["pycrdt-store"]
    command = [sys.executable, "-m", "collab", "import-from", "hocuspocus-sqlite"]
    command += [str(path), "--database", f"sqlite:///{tmp_path / 'collab.db'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
