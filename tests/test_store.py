"""The log keeps what it acknowledged, in order, and says what it lost."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from collab.errors import DatabaseUnreachable, StoreError
from collab.store import Append, Damaged, Row, Snapshot, Store, Stored


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "collab.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = opened(path)
    yield store
    store.close()


def opened(path: Path) -> Store:
    store = Store(f"sqlite:///{path}")
    store.open()
    return store


def append(store: Store, name: str, *updates: bytes) -> int:
    return store.append([Append(name, [(update, None) for update in updates])])[0]


def behind_its_back(path: Path, statement: str, *values: object) -> None:
    """Do to the database what a disk, an operator or another program might do."""
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


# Appending and loading.


def test_what_was_appended_is_loaded_in_order(store: Store) -> None:
    heads = store.append([Append("doc", [(b"one", "alice"), (b"two", None)])])
    stored = store.load("doc")
    assert heads == [2]
    assert stored.head == 2
    assert stored.rows == [Row(1, b"one"), Row(2, b"two")]
    assert (stored.snapshot, stored.damaged) == (None, [])


def test_loading_creates_nothing(store: Store) -> None:
    assert store.load("doc") == Stored(None, None, 0, None, [], [])
    assert not store.exists("doc")
    assert store.names() == []


def test_positions_go_on_where_they_were_when_the_store_is_reopened(path: Path) -> None:
    for expected in (2, 4, 6):
        store = opened(path)
        assert append(store, "doc", b"x", b"y") == expected
        store.close()
    store = opened(path)
    stored = store.load("doc")
    assert [row.position for row in stored.rows] == [1, 2, 3, 4, 5, 6]
    store.close()


def test_a_document_keeps_its_id_and_epoch(store: Store) -> None:
    append(store, "doc", b"x")
    before = store.load("doc")
    append(store, "doc", b"y")
    after = store.load("doc")
    assert (before.document_id, before.epoch) == (after.document_id, after.epoch)
    append(store, "other", b"x")
    assert store.load("other").epoch != before.epoch


def test_a_document_may_occur_twice_in_a_commit(store: Store) -> None:
    batch = [
        Append("a", [(b"1", None), (b"2", None)]),
        Append("b", [(b"1", None)]),
        Append("a", [(b"3", None)]),
        Append("a", []),
    ]
    assert store.append(batch) == [2, 1, 3, 3]
    assert [row.update for row in store.load("a").rows] == [b"1", b"2", b"3"]


def test_a_commit_may_have_more_rows_and_documents_than_a_statement(
    store: Store,
) -> None:
    batch = [Append(f"doc{n}", [(b"%d" % n, None)] * 5) for n in range(300)]
    assert store.append(batch) == [5] * 300
    assert store.append(batch) == [10] * 300
    assert len(store.names()) == 300
    assert store.load("doc299").rows == [Row(n, b"299") for n in range(1, 11)]


def test_an_empty_commit_is_nothing(store: Store) -> None:
    assert store.append([]) == []


def test_two_processes_may_append_to_the_same_document(path: Path) -> None:
    here, there = opened(path), opened(path)
    heads = [append(store, "doc", b"x", b"y") for store in (here, there) * 3]
    assert heads == [2, 4, 6, 8, 10, 12]
    stored = here.load("doc")
    assert [row.position for row in stored.rows] == list(range(1, 13))
    assert stored.damaged == []
    here.close()
    there.close()


def test_a_document_that_another_process_deleted_starts_anew(
    store: Store, path: Path
) -> None:
    append(store, "doc", b"old", b"older")
    old = store.load("doc")
    behind_its_back(path, "PRAGMA foreign_keys = ON")
    behind_its_back(path, "DELETE FROM updates")
    behind_its_back(path, "DELETE FROM documents")
    assert append(store, "doc", b"new") == 1
    new = store.load("doc")
    assert new.rows == [Row(1, b"new")]
    assert new.document_id != old.document_id
    assert new.epoch != old.epoch


def test_a_commit_that_fails_in_the_middle_stores_nothing(
    store: Store, path: Path
) -> None:
    append(store, "a", b"before")
    behind_its_back(
        path,
        "CREATE TRIGGER poison BEFORE INSERT ON updates WHEN NEW.author = 'mallory'"
        " BEGIN SELECT RAISE(ABORT, 'poison'); END",
    )
    batch = [
        Append("a", [(b"good", None)]),
        Append("b", [(b"good", None), (b"bad", "mallory")]),
        Append("c", [(b"good", None)]),
    ]
    with pytest.raises(StoreError, match="poison") as caught:
        store.append(batch)
    assert not isinstance(caught.value, DatabaseUnreachable)
    assert store.load("a").rows == [Row(1, b"before")]
    assert store.names() == ["a"]

    assert store.append([batch[0]]) == [2]
    with pytest.raises(StoreError, match="poison"):
        store.append([batch[1]])
    assert store.append([batch[2]]) == [1]
    assert store.names() == ["a", "c"]
    assert store.load("a").damaged == []


def test_a_slice_of_the_log_is_read(store: Store) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 11)])
    assert store.read("doc", 3, 2) == [Row(4, b"4"), Row(5, b"5")]
    assert store.read("doc", 9, 100) == [Row(10, b"10")]
    assert store.read("doc", 10, 100) == []
    assert store.read("nobody", 0, 100) == []


def test_large_updates_are_kept(store: Store) -> None:
    large = random.Random(1).randbytes(5 * 2**20)
    append(store, "doc", large)
    assert store.load("doc").rows == [Row(1, large)]


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "é" * 127 + "x",
        "😀" * 63 + "abc",
        "'; DROP TABLE updates; --",
        '"quoted" %s ? :name %(name)s',
        "a/b/../c",
        "100%_\\",
        " ",
    ],
)
def test_any_name_is_a_name(store: Store, name: str) -> None:
    append(store, name, b"x")
    append(store, name, b"y")
    assert store.names() == [name]
    assert store.load(name).head == 2


def test_names_that_differ_in_a_byte_are_different_documents(store: Store) -> None:
    names = ["Doc", "doc", "doc ", "dóc", "do\u0301c", "ﬀ", "ff", "ß", "ss"]
    for name in names:
        append(store, name, name.encode())
    assert store.names() == sorted(names, key=str.encode)
    assert [store.load(name).rows for name in names] == [
        [Row(1, name.encode())] for name in names
    ]


def test_names_are_listed_in_pages(store: Store) -> None:
    for name in "cabd":
        append(store, name, b"x")
    assert store.names(limit=2) == ["a", "b"]
    assert store.names(after="b", limit=2) == ["c", "d"]
    assert store.names(after="d") == []


def test_a_name_that_is_no_unicode_is_refused(store: Store) -> None:
    with pytest.raises(StoreError):
        append(store, "\ud800", b"x")
    assert append(store, "doc", b"x") == 1
    assert store.names() == ["doc"]


# Snapshots.


def test_a_document_is_its_snapshot_and_the_rows_behind(store: Store) -> None:
    append(store, "doc", b"1", b"2", b"3")
    assert write_snapshot(store, 2)
    stored = store.load("doc")
    assert stored.snapshot == Snapshot(2, b"state 2", b"index 2")
    assert stored.rows == [Row(3, b"3")]


def test_the_newest_two_snapshots_are_kept(store: Store, path: Path) -> None:
    append(store, "doc", *[b"x"] * 9)
    for position in (2, 4, 6, 8):
        assert write_snapshot(store, position)
    assert positions_of_snapshots(path) == [6, 8]


def test_a_snapshot_may_be_written_twice(store: Store, path: Path) -> None:
    append(store, "doc", *[b"x"] * 9)
    for position in (2, 4, 4):
        assert write_snapshot(store, position)
    assert positions_of_snapshots(path) == [2, 4]


def test_a_snapshot_does_not_replace_a_newer_one(store: Store, path: Path) -> None:
    append(store, "doc", *[b"x"] * 9)
    assert write_snapshot(store, 8)
    assert not write_snapshot(store, 4)
    assert positions_of_snapshots(path) == [8]


def test_no_snapshot_is_taken_of_what_is_not_there(store: Store, path: Path) -> None:
    append(store, "doc", b"x")
    assert not write_snapshot(store, 2)
    assert not store.write_snapshot(99, 1, b"", b"")
    assert positions_of_snapshots(path) == []


def write_snapshot(store: Store, position: int, name: str = "doc") -> bool:
    document_id = store.load(name).document_id
    assert document_id is not None
    state, index = b"state %d" % position, b"index %d" % position
    return store.write_snapshot(document_id, position, state, index)


def positions_of_snapshots(path: Path) -> list[int]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT position FROM snapshots ORDER BY position")
        return [position for (position,) in rows]


# Damage.


def test_a_row_with_a_flipped_bit_is_named_and_the_rest_is_loaded(
    store: Store, path: Path
) -> None:
    append(store, "doc", b"one", b"two", b"three")
    behind_its_back(path, "UPDATE updates SET data = ? WHERE position = 2", b"twn")
    stored = store.load("doc")
    assert stored.rows == [Row(1, b"one"), Row(3, b"three")]
    assert stored.damaged == [Damaged("update", 2, 2, "has a wrong CRC-32")]
    assert str(stored.damaged[0]) == "update 2 has a wrong CRC-32"
    assert stored.head == 3


def test_rows_that_changed_places_are_damaged(store: Store, path: Path) -> None:
    append(store, "doc", b"one", b"two")
    for old, new in ((1, 3), (2, 1), (3, 2)):
        behind_its_back(
            path, "UPDATE updates SET position = ? WHERE position = ?", new, old
        )
    stored = store.load("doc")
    assert stored.rows == []
    assert [damage.first for damage in stored.damaged] == [1, 2]


def test_missing_rows_are_damage(store: Store, path: Path) -> None:
    append(store, "doc", *[b"%d" % n for n in range(1, 8)])
    behind_its_back(path, "DELETE FROM updates WHERE position IN (1, 3, 4, 7)")
    stored = store.load("doc")
    assert [row.position for row in stored.rows] == [2, 5, 6]
    assert [str(damage) for damage in stored.damaged] == [
        "update 1 is missing",
        "update 3 to 4 is missing",
        "update 7 is missing",
    ]


def test_behind_a_damaged_snapshot_stands_the_previous_one(
    store: Store, path: Path
) -> None:
    append(store, "doc", b"1", b"2", b"3", b"4", b"5")
    write_snapshot(store, 2)
    write_snapshot(store, 4)
    behind_its_back(path, "UPDATE snapshots SET gate = x'00' WHERE position = 4")
    stored = store.load("doc")
    assert stored.snapshot == Snapshot(2, b"state 2", b"index 2")
    assert stored.rows == [Row(3, b"3"), Row(4, b"4"), Row(5, b"5")]
    assert stored.damaged == [Damaged("snapshot", 4, 4, "has a wrong CRC-32")]

    assert write_snapshot(store, 4)
    assert store.load("doc").damaged == []


def test_behind_damaged_snapshots_stands_the_whole_log(
    store: Store, path: Path
) -> None:
    append(store, "doc", b"1", b"2", b"3")
    write_snapshot(store, 1)
    write_snapshot(store, 2)
    behind_its_back(path, "UPDATE snapshots SET state = x'00'")
    stored = store.load("doc")
    assert stored.snapshot is None
    assert stored.rows == [Row(1, b"1"), Row(2, b"2"), Row(3, b"3")]
    assert [damage.first for damage in stored.damaged] == [2, 1]


# Many at once.


def test_a_reader_does_not_wait_for_the_writer(store: Store) -> None:
    append(store, "doc", b"x")
    with store.exclusively() as connection:
        connection.exec_driver_sql("DELETE FROM updates")
        read: list[Stored] = []
        reader = threading.Thread(target=lambda: read.append(store.load("doc")))
        reader.start()
        reader.join(10)
    assert [stored.rows for stored in read] == [[Row(1, b"x")]]


@pytest.mark.parametrize("where", ["file", "memory"])
def test_readers_see_whole_commits_while_a_writer_writes(
    where: str, path: Path
) -> None:
    store = Store("sqlite://") if where == "memory" else Store(f"sqlite:///{path}")
    store.open()
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
    store.close()


def test_a_database_in_memory_is_shared_by_threads() -> None:
    store = Store("sqlite://")
    store.open()
    threads = [
        threading.Thread(target=append, args=(store, "doc", b"x")) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.position for row in store.load("doc").rows] == list(range(1, 11))
    with pytest.raises(StoreError):
        append(store, "\ud800", b"x")
    assert append(store, "doc", b"x") == 11
    assert store.in_memory
    store.close()


APPENDER = """
import os, sys
from collab.store import Append, Store
store = Store(sys.argv[1])
store.open()
position = store.load("doc").head
while True:
    batch = [Append("doc", [(b"%d" % (position + n), None) for n in range(1, 4)])]
    position = store.append(batch)[0]
    os.write(1, b"%d\\n" % position)
"""


def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    url = f"sqlite:///{path}"
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(10):
        command = [sys.executable, "-c", APPENDER, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(chance.randrange(1, 300)):
                acknowledged = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().split(b"\n")
        if complete := rest[:-1]:
            acknowledged = int(complete[-1])
        store = opened(path)
        stored = store.load("doc")
        store.close()
        assert stored.head >= acknowledged
        assert stored.head % 3 == 0
        assert stored.damaged == []
        assert stored.rows == [Row(n, b"%d" % n) for n in range(1, stored.head + 1)]


# What can go wrong with a database.


def test_every_commit_reaches_the_disk(store: Store) -> None:
    with store.exclusively() as connection:
        full = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        assert (full, journal) == (2, "wal")


def test_ping_answers(store: Store) -> None:
    store.ping()


def test_closing_twice_is_harmless(store: Store) -> None:
    store.close()
    store.close()


def test_an_open_database_that_is_lost_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "data" / "collab.db"
    path.parent.mkdir()
    store = opened(path)
    store.close()
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(DatabaseUnreachable, match="must be a directory"):
        store.ping()


def test_a_full_disk_stores_nothing_and_recovers(store: Store) -> None:
    append(store, "doc", b"x")
    with store.exclusively() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DatabaseUnreachable, match="make room on its disk"):
        append(store, "doc", b"y" * 100_000)
    assert store.load("doc").rows == [Row(1, b"x")]
    assert append(store, "doc", b"z") == 2


def test_a_lock_that_is_held_too_long_is_an_outage(path: Path) -> None:
    opened(path).close()
    store = Store(f"sqlite:///{path}?timeout=0.05")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnreachable, match="another process has been writing"):
        append(store, "doc", b"x")
    other.execute("ROLLBACK")
    other.close()
    assert append(store, "doc", b"x") == 1
    store.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "collab.db"
    with pytest.raises(DatabaseUnreachable) as caught:
        opened(path)
    assert str(path) in str(caught.value)
    assert f"{path.parent} must be a directory" in str(caught.value)


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match="name a file in that directory"):
        opened(tmp_path)


def test_another_file_is_no_database_and_is_left_alone(path: Path) -> None:
    path.write_text("Dear diary, " * 100)
    with pytest.raises(DatabaseUnreachable, match="is not a database; it is some"):
        opened(path)
    assert path.read_text() == "Dear diary, " * 100


@pytest.mark.parametrize("locked", ["file", "directory"])
def test_missing_permissions_are_named(locked: str) -> None:
    code = (
        "import os, sys; from collab.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "if os.getuid() == 0: os.setuid(65534)\n"  # root may write anywhere
        "try: store.open()\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    # Not in tmp_path, which is private to who runs the tests.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "collab.db"
        opened(path).close()
        path.chmod(0o444 if locked == "file" else 0o666)
        path.parent.chmod(0o777 if locked == "file" else 0o555)
        command = [sys.executable, "-c", code, f"sqlite:///{path}"]
        output = subprocess.check_output(command, text=True)
        path.parent.chmod(0o777)
    assert output.startswith(
        f"DatabaseUnreachable cannot use the database sqlite:///{path}"
    )
    assert "this user must be able to write to the file and its directory" in output


@pytest.mark.parametrize(
    "url",
    ["", "collab.db", "nosuch://x", "sqlite+nosuch:///x", "://", "/var/lib/collab.db"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"write sqlite:///collab\.db"):
        Store(url)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:secret@h/d", "mysql://u:secret@h/d", "sqlite+aiosqlite:///x"],
)
def test_a_database_that_we_cannot_use_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        Store(url)
    assert "this version cannot keep its log in" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_relative_path_is_relative_to_where_the_server_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///collab.db")
    os.chdir("/")
    assert store.path == tmp_path / "collab.db"
    store.open()
    store.close()
    assert (tmp_path / "collab.db").exists()
