"""What is true of SQLite alone: a file, or memory, and one lock for all."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from collab.catalog import Catalog
from collab.errors import DatabaseUnreachable, StoreError
from collab.store import Append, Row, Store
from tests.stores import (
    append,
    behind_its_back,
    check_whole_commits,
    id_of,
    names,
    opened,
    write_snapshot,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "collab.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = opened(f"sqlite:///{path}")
    yield store
    store.close()


def test_every_commit_reaches_the_disk(store: Store) -> None:
    with store.database.writing() as connection:
        full = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        assert (full, journal) == (2, "wal")


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


def test_an_absolute_path_is_where_it_says(path: Path) -> None:
    assert Store(f"sqlite:///{path}").path == path
    assert Store(f"sqlite+pysqlite:///{path}?timeout=5").path == path


def test_a_build_of_sqlite_may_take_few_parameters(store: Store) -> None:
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    store.close()
    event.listen(Engine, "connect", limit)
    batch = [Append(f"doc{n}", [(b"x", None)] * 2) for n in range(1100)]
    for head in (2, 4):
        here = opened(store.url)
        assert {appended.head for appended in here.append(batch)} == {head}
        assert len(names(here)) == 1100
        here.close()
    event.remove(Engine, "connect", limit)


def test_threads_may_append_to_the_same_document(store: Store) -> None:
    def write() -> None:
        for _ in range(50):
            append(store, "doc", b"x")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.position for row in store.load("doc").rows] == list(range(1, 201))


# In memory.


@pytest.fixture
def memory() -> Iterator[Store]:
    store = opened("sqlite://")
    yield store
    store.close()


def test_a_database_in_memory_is_shared_by_threads(memory: Store) -> None:
    threads = [
        threading.Thread(target=append, args=(memory, "doc", b"x")) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.position for row in memory.load("doc").rows] == list(range(1, 11))
    with pytest.raises(StoreError):
        append(memory, "\ud800", b"x")
    assert append(memory, "doc", b"x") == 11
    assert memory.in_memory
    assert memory.path is None


def test_readers_see_whole_commits_of_a_database_in_memory(memory: Store) -> None:
    check_whole_commits(memory)


# What can go wrong.


def test_an_open_database_that_is_lost_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "data" / "collab.db"
    path.parent.mkdir()
    store = opened(f"sqlite:///{path}")
    store.close()
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(DatabaseUnreachable, match="must be a directory"):
        store.ping()


def test_a_full_disk_stores_nothing_and_recovers(store: Store) -> None:
    append(store, "doc", b"x")
    with store.database.writing() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DatabaseUnreachable, match="make room on its disk"):
        append(store, "doc", b"y" * 100_000)
    assert store.load("doc").rows == [Row(1, b"x")]
    assert append(store, "doc", b"z") == 2


def test_a_lock_that_is_held_too_long_is_an_outage(path: Path) -> None:
    opened(f"sqlite:///{path}").close()
    store = Store(f"sqlite:///{path}?timeout=0.05")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnreachable, match="another process has been writing"):
        append(store, "doc", b"x")
    other.execute("ROLLBACK")
    other.close()
    assert append(store, "doc", b"x") == 1
    store.close()


def test_who_begins_to_read_does_not_wait_for_who_writes(path: Path) -> None:
    opened(f"sqlite:///{path}").close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = Store(f"sqlite:///{path}?timeout=0")
    store.ping()
    store.close()
    other.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "collab.db"
    with pytest.raises(DatabaseUnreachable) as caught:
        opened(f"sqlite:///{path}")
    assert str(path) in str(caught.value)
    assert f"{path.parent} must be a directory" in str(caught.value)


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match="name a file in that directory"):
        opened(f"sqlite:///{tmp_path}")


def test_another_file_is_no_database_and_is_left_alone(path: Path) -> None:
    path.write_text("Dear diary, " * 100)
    with pytest.raises(DatabaseUnreachable, match="is not a database; it is some"):
        opened(f"sqlite:///{path}")
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
        opened(f"sqlite:///{path}").close()
        path.chmod(0o444 if locked == "file" else 0o666)
        path.parent.chmod(0o777 if locked == "file" else 0o555)
        command = [sys.executable, "-c", code, f"sqlite:///{path}"]
        output = subprocess.check_output(command, text=True)
        path.parent.chmod(0o777)
    assert output.startswith(
        f"DatabaseUnreachable cannot use the database sqlite:///{path}"
    )
    assert "this user must be able to write to the file and its directory" in output


# Space.


def test_what_is_deleted_is_overwritten(store: Store) -> None:
    with store.database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 1


def test_what_is_purged_is_not_in_the_file(store: Store, path: Path) -> None:
    marker = os.urandom(16)
    append(store, "keep", *[b"kept"] * 200)
    append(store, "doc", *[marker * 2000] * 50, marker, *[marker * 2] * 50)
    for _ in range(3):
        store.write_snapshot(id_of(store), 50, marker * 1000, marker)
    store.write_snapshot(id_of(store), 60, marker * 9000, marker)
    catalog = Catalog(store.database)
    catalog.annotate("doc", {"title": marker.hex()})
    behind_its_back(
        store.url,
        "UPDATE updates SET crc = 0 WHERE position IN (1, 60) AND document_id = :id",
        id=id_of(store),
    )
    catalog.isolate(id_of(store), store.load("doc", below=1).damaged)
    assert marker in on_disk(path)
    catalog.purge("doc")
    assert marker not in on_disk(path)
    assert marker.hex().encode() not in on_disk(path)
    assert len(store.load("keep").rows) == 200


def on_disk(path: Path) -> bytes:
    """All that is in the file, and in the logs beside it."""
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def test_space_is_given_back_in_steps(store: Store, path: Path) -> None:
    append(store, "doc", *[bytes(50_000)] * 20)
    store.database.settle()
    size = path.stat().st_size
    Catalog(store.database).purge("doc")
    left = 1
    steps = 0
    while left:
        with store.database.writing() as connection:
            left = store.database.reclaim(connection, 50)
        steps += 1
    store.database.settle()
    assert steps > 3
    assert path.stat().st_size < size / 10
    assert append(store, "other", b"x") == 1


def test_an_older_file_is_rebuilt_to_give_space_back(path: Path) -> None:
    behind_its_back(f"sqlite:///{path}", "CREATE TABLE mine (data TEXT)")
    store = opened(f"sqlite:///{path}")
    append(store, "doc", *[bytes(50_000)] * 20)
    write_snapshot(store, 20)
    store.database.settle()
    size = path.stat().st_size
    Catalog(store.database).purge("doc", forget=True)
    with store.database.writing() as connection:
        assert store.database.reclaim(connection, 1000) == 0
    assert path.stat().st_size >= size
    store.database.rebuild()
    assert path.stat().st_size < size / 10
    assert append(store, "doc", *[bytes(50_000)] * 20) == 20
    Catalog(store.database).purge("doc")
    with store.database.writing() as connection:
        assert store.database.reclaim(connection, 1) > 0
    store.close()
