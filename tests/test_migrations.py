"""The migrations lead to the tables of the store, and back; in each database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from sqlalchemy.schema import CreateTable

from collab.databases import open_database
from collab.errors import DatabaseTooNew, DatabaseTooOld, StoreError
from collab.migrating import REVISION, current, differences, downgrade, upgrade
from collab.schema import metadata
from collab.store import Row, Snapshot, Store, checksum
from tests.stores import append, behind_its_back, opened, somebody_else

ROOT = Path(__file__).parent.parent


def config(url: str) -> Config:
    config = Config(cmd_opts=Namespace(x=[f"url={url}"]))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    return config


def shape(url: str) -> dict[str, Any]:
    """The tables of a database, with all that can be read of them."""
    with somebody_else(url) as connection:
        inspector = sa.inspect(connection)
        return {
            table: (
                [str(column) for column in inspector.get_columns(table)],
                inspector.get_pk_constraint(table),
                inspector.get_foreign_keys(table),
                sorted(str(index) for index in inspector.get_indexes(table)),
                inspector.get_unique_constraints(table),
            )
            for table in inspector.get_table_names()
        }


def revision(url: str) -> list[str]:
    return behind_its_back(url, "SELECT version_num FROM alembic_version")


# There and back.


def test_the_migrations_are_linear_and_end_where_the_store_expects() -> None:
    scripts = ScriptDirectory.from_config(config("sqlite://"))
    assert scripts.get_heads() == [REVISION]
    assert scripts.get_bases() == ["0001"]
    revisions = list(scripts.walk_revisions())
    assert [len(script.nextrev) <= 1 for script in revisions] == [True] * len(revisions)


def test_the_migrations_lead_to_the_tables_of_the_store(store: Store) -> None:
    assert differences(store.database) == []


def test_the_constraints_have_the_names_of_the_convention(
    store: Store, kind: str
) -> None:
    there = shape(store.url)
    for table in metadata.tables.values():
        _, primary, foreign, indexes, unique = there[table.name]
        # MariaDB calls every primary key so, and SQLite cannot name one that counts.
        if kind == "postgres" or (kind == "sqlite" and table.name == "runs"):
            assert primary["name"] == table.primary_key.name
        names = {each.name for each in table.foreign_key_constraints}
        assert {each["name"] for each in foreign} == names
        assert all(str(index.name) in str(indexes) for index in table.indexes)
        if table.name == "documents":
            assert [each["name"] for each in unique] == ["uq_documents_name"]


def test_the_migrations_can_be_reverted_and_repeated(url: str) -> None:
    database = open_database(url)
    assert upgrade(database) == (None, REVISION)
    there = shape(url)
    assert downgrade(database, "-1") == (REVISION, "0002")
    assert "revocations" not in shape(url)
    assert downgrade(database, "-1") == ("0002", "0001")
    assert "runs" not in shape(url)
    assert upgrade(database) == ("0001", REVISION)
    assert shape(url) == there
    assert downgrade(database, "base") == (REVISION, None)
    assert set(shape(url)) == {"alembic_version"}
    assert upgrade(database) == (None, REVISION)
    assert shape(url) == there
    assert upgrade(database) == (REVISION, REVISION)
    assert differences(database) == []
    database.close()


def test_a_developer_migrates_on_the_command_line(url: str) -> None:
    alembic = [sys.executable, "-m", "alembic", "-x", f"url={url}"]
    for arguments in (["upgrade", "head"], ["check"]):
        subprocess.run([*alembic, *arguments], cwd=ROOT, check=True)
    assert revision(url) == [REVISION]


# Opening.


def test_opening_an_old_database_migrates_it(url: str) -> None:
    command.upgrade(config(url), "head")
    command.downgrade(config(url), "base")
    store = opened(url)
    assert append(store, "doc", b"x") == 1
    store.close()


def test_opening_again_changes_nothing(url: str) -> None:
    for head in (1, 2):
        store = opened(url)
        assert append(store, "doc", b"x") == head
        store.close()


def test_a_database_of_the_first_version_keeps_its_documents(url: str) -> None:
    command.upgrade(config(url), "0001")
    name = "dóc 😀"
    for document in (1, 2):
        behind_its_back(
            url,
            "INSERT INTO documents (name, head, epoch, created_at, updated_at,"
            " deleted_at) VALUES (:name, 3, 'e', 10, 20, :deleted)",
            name=name if document == 1 else "deleted",
            deleted=None if document == 1 else 30,
        )
    query = "SELECT id FROM documents WHERE deleted_at IS NULL"
    [document_id] = behind_its_back(url, query)
    for position in (1, 2, 3):
        data = b"%d" % position * 3000
        behind_its_back(
            url,
            "INSERT INTO updates (document_id, position, data, author, at, crc)"
            " VALUES (:id, :position, :data, 'ann 😀', :position * 100, :crc)",
            id=document_id,
            position=position,
            data=data,
            crc=checksum(document_id, position, data),
        )
    behind_its_back(
        url,
        "INSERT INTO snapshots (document_id, position, state, gate, at, crc)"
        " VALUES (:id, 2, :state, :gate, 250, :crc)",
        id=document_id,
        state=b"state",
        gate=b"gate",
        crc=checksum(document_id, 2, b"state", b"gate"),
    )
    behind_its_back(
        url,
        "INSERT INTO versions (document_id, position, name, at)"
        " VALUES (:id, 1, 'draft', 150)",
        id=document_id,
    )

    store = opened(url)
    assert differences(store.database) == []
    stored = store.load(name)
    assert (stored.document_id, stored.epoch, stored.head) == (document_id, "e", 3)
    assert stored.snapshot == Snapshot(2, b"state", b"gate")
    assert stored.rows == [Row(3, b"3" * 3000)]
    assert stored.damaged == []
    assert [row.position for row in store.read_at(name, 1).rows] == [1]
    query = "SELECT base, tidied_at, attempts, purged_at, updated_at FROM documents"
    assert behind_its_back(url, query) == [(0, 0, 0, None, 20)] * 2
    query = "SELECT span, author, at FROM updates ORDER BY position"
    assert behind_its_back(url, query) == [(1, "ann 😀", n * 100) for n in (1, 2, 3)]
    assert behind_its_back(url, "SELECT name FROM versions") == ["draft"]
    assert append(store, name, b"4") == 4
    store.close()


def test_an_older_version_finds_what_it_knew(url: str) -> None:
    store = opened(url)
    append(store, "doc", b"x", b"y")
    append(store, "purged", b"x")
    behind_its_back(url, "UPDATE documents SET purged_at = 1 WHERE name = 'purged'")
    assert downgrade(store.database, "0001") == (REVISION, "0001")
    assert behind_its_back(url, "SELECT head FROM documents") == [2]
    assert behind_its_back(url, "SELECT COUNT(*) FROM updates") == [2]
    store.open()
    assert store.load("doc").rows == [Row(1, b"x"), Row(2, b"y")]
    store.close()


def test_an_up_to_date_database_is_opened_without_alembic(store: Store) -> None:
    code = (
        "import sys; from collab.store import Store; Store(sys.argv[1]).open();"
        "print('alembic' in sys.modules)"
    )
    assert run(code, store.url) == "False\n"


def test_a_database_that_is_not_to_be_migrated_is_left_alone(url: str) -> None:
    store = Store(url)
    with pytest.raises(DatabaseTooOld) as caught:
        store.open(migrate=False)
    assert str(caught.value) == (
        f"the tables of {store} are not there, and this version of collab-server needs"
        f" {REVISION}; run `collab db upgrade`"
    )
    assert shape(url) == {}
    command.upgrade(config(url), "0001")
    there = shape(url)
    with pytest.raises(DatabaseTooOld, match="are at revision 0001, and this version"):
        store.open(migrate=False)
    assert shape(url) == there
    store.open()
    assert store.open(migrate=False) == []
    store.close()


def test_a_database_from_the_future_is_refused_and_left_alone(url: str) -> None:
    store = opened(url)
    append(store, "doc", b"x")
    behind_its_back(url, "UPDATE alembic_version SET version_num = '9999'")
    there = shape(url)
    newer = rf"at revision 9999, .* knows {REVISION}\); install that, or restore"
    with pytest.raises(DatabaseTooNew, match=newer):
        store.open()
    with pytest.raises(DatabaseTooNew, match=newer):
        upgrade(store.database)
    with pytest.raises(DatabaseTooNew, match=newer):
        downgrade(store.database, "base")
    assert shape(url) == there
    assert revision(url) == ["9999"]
    assert store.load("doc").rows == [Row(1, b"x")]
    store.close()


def test_a_database_from_the_future_is_not_too_old(url: str) -> None:
    store = opened(url)
    behind_its_back(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseTooNew, match="at revision 9999"):
        store.open(migrate=False)
    store.close()


def test_many_processes_may_open_a_new_database_at_once(url: str) -> None:
    code = (
        "import sys; from collab.store import Append, Store\n"
        "import alembic.command\n"
        "store = Store(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "store.open()\n"
        "print(store.append([Append('doc', [(b'x', None)])])[0].head)\n"
        "store.close()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    heads = sorted(int(child.communicate()[0]) for child in children)
    assert [child.returncode for child in children] == [0] * 4
    assert heads == [1, 2, 3, 4]
    assert revision(url) == [REVISION]


# Going back, and being elsewhere.


def test_there_is_no_way_to_a_revision_that_does_not_exist(store: Store) -> None:
    there = shape(store.url)
    for unknown in ("nosuch", "9999", "-7"):
        with pytest.raises(StoreError, match=f"there is no way back to '{unknown}'"):
            downgrade(store.database, unknown)
    assert shape(store.url) == there
    assert differences(store.database) == []


def test_a_newer_revision_is_not_back(url: str) -> None:
    command.upgrade(config(url), "0001")
    database = open_database(url)
    with pytest.raises(StoreError, match=f"there is no way back to '{REVISION}'"):
        downgrade(database, REVISION)
    assert revision(url) == ["0001"]
    database.close()


def test_there_is_nothing_to_take_back_from_an_empty_database(url: str) -> None:
    database = open_database(url)
    assert downgrade(database, "base") == (None, None)
    with database.reading() as connection:
        assert current(connection) is None
    assert differences(database) == [
        f"The tables are not there; this version needs {REVISION}."
    ]
    command.upgrade(config(url), "0001")
    assert differences(database) == [
        f"The tables are at revision 0001; this version needs {REVISION}."
    ]
    database.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE documents ADD COLUMN mine INTEGER", "remove column: documents"),
        ("ALTER TABLE documents DROP COLUMN tidied_at", "missing column: documents"),
        ("DROP TABLE versions", "missing table: versions"),
        ("CREATE INDEX mine ON updates (author(9))", "remove index: Index('mine'"),
        ("DROP INDEX ix_quarantine_document_id", "missing index: Index('ix_quara"),
    ],
)
def test_what_an_operator_changed_is_named(
    url: str, kind: str, change: str, said: str
) -> None:
    store = opened(url)
    if kind != "mariadb":
        change = change.replace("(author(9))", "(author)")
    elif change.startswith("DROP INDEX"):
        behind_its_back(
            url, "ALTER TABLE quarantine DROP CONSTRAINT fk_quarantine_document_id"
        )
        change += " ON quarantine"
    behind_its_back(url, change)
    found = differences(store.database)
    assert any(each.startswith(said) for each in found), found
    assert len(found) <= 2
    store.close()


# SQLite alone.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "collab.db"


def test_a_developer_names_a_database_in_the_environment(path: Path) -> None:
    alembic = [sys.executable, "-m", "alembic"]
    environment = os.environ | {"COLLAB_DATABASE": f"sqlite:///{path}"}
    for arguments in (["upgrade", "head"], ["downgrade", "base"]):
        subprocess.run([*alembic, *arguments], cwd=ROOT, env=environment, check=True)
    assert set(shape(f"sqlite:///{path}")) == {"alembic_version"}


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    url = f"sqlite:///{path}"
    behind_its_back(url, "CREATE TABLE versions (mine TEXT)")
    store = Store(url)
    with pytest.raises(StoreError, match="table versions already exists"):
        store.open()
    store.close()
    assert set(shape(url)) == {"versions"}


def test_the_keys_have_the_names_of_the_convention(path: Path) -> None:
    opened(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        query = "SELECT sql FROM sqlite_master WHERE type = 'table'"
        migrated = " ".join(sql for (sql,) in connection.execute(query))
    connection.close()
    for table in metadata.tables.values():
        for constraint in table.constraints:
            if constraint.name not in ("pk_documents", "pk_quarantine"):
                assert f"CONSTRAINT {constraint.name} " in migrated


def test_the_tables_suit_mysql() -> None:
    """MySQL itself, that is: the tests run with MariaDB."""
    dialect = make_url("mysql://").get_dialect()()
    statements = [CreateTable(table) for table in metadata.sorted_tables]
    ddl = "".join(str(each.compile(dialect=dialect)) for each in statements)
    assert "name VARBINARY(255) NOT NULL" in ddl
    assert "data LONGBLOB NOT NULL" in ddl
    assert "id BIGINT NOT NULL AUTO_INCREMENT" in ddl
    assert ddl.count("ENGINE=InnoDB") == ddl.count("utf8mb4") == len(statements)


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.check_output(command, text=True)


DYING = """
import os, signal, sys
from sqlalchemy import Engine, event
from collab.databases import open_database
from collab.migrating import differences, downgrade, upgrade

url, back = sys.argv[1:]
step = 0
while True:
    step += 1
    pid = os.fork()
    if pid == 0:
        left = step
        def count(*_):
            global left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        event.listen(Engine, "after_cursor_execute", count)
        event.listen(Engine, "commit", count)
        if back == "upgrade":
            upgrade(open_database(url))
        else:
            downgrade(open_database(url), "base")
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    database = open_database(url)
    if back == "upgrade":
        upgrade(database)
        assert differences(database) == []
        downgrade(database, "base")
    else:
        downgrade(database, "base")
        upgrade(database)
        assert differences(database) == []
    database.close()
    if not status:
        print(step)
        break
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["upgrade", "downgrade"])
def test_a_migration_that_is_interrupted_goes_on_where_it_was(
    url: str, way: str
) -> None:
    """MySQL commits each step of one; the others take back what was not finished."""
    if way == "downgrade":
        upgrade(open_database(url))
    done = subprocess.run(
        [sys.executable, "-c", DYING, url, way],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_tables_of_another_program_are_not_taken_for_ours(url: str) -> None:
    with somebody_else(url) as connection:
        connection.execute(sa.text("CREATE TABLE versions (mine INTEGER)"))
        connection.commit()
    with pytest.raises(StoreError, match="versions"):
        upgrade(open_database(url))
    assert revision_or_none(url) != REVISION


def revision_or_none(url: str) -> str | None:
    with open_database(url).reading() as connection:
        return current(connection)
