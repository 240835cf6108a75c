"""The migrations lead to the tables of the store, and back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url
from sqlalchemy.schema import CreateTable

from collab.errors import DatabaseTooNew, StoreError
from collab.schema import metadata
from collab.store import REVISION, Append, Row, Store

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "collab.db"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def config(path: Path) -> Config:
    config = Config(cmd_opts=Namespace(x=[f"url={url(path)}"]))
    config.set_main_option("script_location", str(ROOT / "migrations"))
    return config


def tables(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        return dict(
            connection.execute(
                "SELECT name, sql FROM sqlite_master"
                " WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        )


def test_the_migrations_are_linear_and_end_where_the_store_expects(path: Path) -> None:
    scripts = ScriptDirectory.from_config(config(path))
    assert scripts.get_heads() == [REVISION]
    assert scripts.get_bases() == ["0001"]
    revisions = list(scripts.walk_revisions())
    assert [len(script.nextrev) <= 1 for script in revisions] == [True] * len(revisions)


def test_the_migrations_lead_to_the_tables_of_the_store(path: Path) -> None:
    store = Store(url(path))
    store.open()
    with store.exclusively() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    store.close()


def test_the_constraints_have_the_names_of_the_convention(path: Path) -> None:
    store = Store(url(path))
    store.open()
    store.close()
    migrated = " ".join(tables(path).values())
    for table in metadata.tables.values():
        for constraint in table.constraints:
            if table.name != "documents" or constraint.name != "pk_documents":
                assert f"CONSTRAINT {constraint.name} " in migrated


def test_the_migrations_can_be_reverted_and_repeated(path: Path) -> None:
    command.upgrade(config(path), "head")
    there = tables(path)
    command.downgrade(config(path), "base")
    assert set(tables(path)) == {"alembic_version"}
    command.upgrade(config(path), "head")
    assert tables(path) == there


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_developer_migrates_on_the_command_line(path: Path, how: str) -> None:
    alembic = [sys.executable, "-m", "alembic"]
    environment = dict(os.environ)
    if how == "argument":
        alembic += ["-x", f"url={url(path)}"]
    else:
        environment["COLLAB_DATABASE"] = url(path)
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"]):
        subprocess.run([*alembic, *arguments], cwd=ROOT, env=environment, check=True)
    assert set(tables(path)) == {"alembic_version"}


def test_opening_an_old_database_migrates_it(path: Path) -> None:
    command.upgrade(config(path), "head")
    command.downgrade(config(path), "base")
    store = Store(url(path))
    store.open()
    assert store.append([Append("doc", [(b"x", None)])]) == [1]
    store.close()


def test_opening_again_changes_nothing(path: Path) -> None:
    for head in (1, 2):
        store = Store(url(path))
        store.open()
        assert store.append([Append("doc", [(b"x", None)])]) == [head]
        store.close()


def test_an_up_to_date_database_is_opened_without_alembic(path: Path) -> None:
    store = Store(url(path))
    store.open()
    store.close()
    code = (
        "import sys; from collab.store import Store; Store(sys.argv[1]).open();"
        "print('alembic' in sys.modules)"
    )
    output = run(code, url(path))
    assert output == "False\n"


def test_a_database_from_the_future_is_refused_and_left_alone(path: Path) -> None:
    store = Store(url(path))
    store.open()
    store.append([Append("doc", [(b"x", None)])])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(DatabaseTooNew, match=r"at revision 9999, .* knows 0001\)"):
        store.open()
    assert store.load("doc").rows == [Row(1, b"x")]
    store.close()


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE versions (mine TEXT)")
    connection.close()
    store = Store(url(path))
    with pytest.raises(StoreError, match="table versions already exists"):
        store.open()
    store.close()
    assert set(tables(path)) == {"versions"}


def test_many_processes_may_open_a_new_database_at_once(path: Path) -> None:
    code = (
        "import sys; from collab.store import Append, Store\n"
        "import alembic.command\n"
        "store = Store(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "store.open()\n"
        "print(store.append([Append('doc', [(b'x', None)])])[0])\n"
        "store.close()"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, url(path)],
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


def test_the_tables_suit_other_databases() -> None:
    on_mysql = ddl("mysql://")
    assert "name VARBINARY(255) NOT NULL" in on_mysql
    assert "data BLOB(4294967295) NOT NULL" in on_mysql  # MySQL makes it a LONGBLOB.
    assert "id BIGINT NOT NULL AUTO_INCREMENT" in on_mysql
    on_postgresql = ddl("postgresql://")
    assert 'name VARCHAR(255) COLLATE "C" NOT NULL' in on_postgresql
    assert "data BYTEA NOT NULL" in on_postgresql
    assert "id BIGSERIAL NOT NULL" in on_postgresql


def ddl(url: str) -> str:
    dialect = make_url(url).get_dialect()()
    statements = [CreateTable(table) for table in metadata.sorted_tables]
    return "".join(str(each.compile(dialect=dialect)) for each in statements)


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.check_output(command, text=True)
