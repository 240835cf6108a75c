"""The tables of a database, brought up to date or back: Alembic, behind a lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection, text

from .databases import Database
from .errors import DatabaseTooNew, DatabaseTooOld, StoreError

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0003"
"""The newest migration: a database that has it is opened without importing Alembic."""


def prepare(database: Database, migrate: bool = True) -> list[str]:
    """Bring the tables up to date, or only look whether they are.

    Returns sentences about settings of the database that endanger what it is for.

    Raises:
        DatabaseUnreachable: If the database cannot be read and written.
        DatabaseTooNew: If a newer version of this package has changed the tables.
        DatabaseTooOld: If they are older, and shall stay so.
    """
    with _alone(database) as connection:
        warnings = database.check(connection)
        found = current(connection)
        if found == REVISION:
            # A file that may only be read is opened all the same: try to write.
            touch = text("UPDATE alembic_version SET version_num = version_num")
            connection.execute(touch)
        elif migrate:
            _upgrade(database, connection, found)
        else:
            if found is not None:
                _config(database, connection, found)  # Is it a newer one?
            raise _too_old(database, found)
    return warnings


def look(database: Database) -> None:
    """Look whether the tables are up to date, without writing anything.

    Raises:
        DatabaseUnreachable: If the database cannot be read.
        DatabaseTooOld: If they are not.
    """
    with database.reading() as connection:
        found = current(connection)
    if found != REVISION:
        raise _too_old(database, found)


def _too_old(database: Database, found: str | None) -> DatabaseTooOld:
    there = f"at revision {found}" if found else "not there"
    return DatabaseTooOld(
        f"the tables of {database} are {there}, and this version of collab-server"
        f" needs {REVISION}; run `collab db upgrade`"
    )


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the tables up to date; return the revision before and now.

    Raises:
        DatabaseTooNew: As :func:`prepare`.
    """
    with _alone(database) as connection:
        database.check(connection)
        found = current(connection)
        if found != REVISION:
            _upgrade(database, connection, found)
    return found, REVISION


def downgrade(database: Database, revision: str) -> tuple[str | None, str | None]:
    """Bring the tables back to a revision; return the one before and now.

    ``base`` takes all away, ``-1`` goes one back.

    Raises:
        DatabaseTooNew: As :func:`prepare`.
        StoreError: If there is no such revision, or it is a newer one.
    """
    from alembic import command
    from alembic.util import CommandError

    with _alone(database) as connection:
        found = current(connection)
        if found is None:
            return None, None
        config = _config(database, connection, found)
        try:
            command.downgrade(config, revision)
        except CommandError as exc:
            raise StoreError(f"there is no way back to {revision!r}: {exc}") from exc
        return found, current(connection)


def current(connection: Connection) -> str | None:
    """The revision of the tables; ``None`` without any."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    query = text("SELECT version_num FROM alembic_version")
    found = connection.execute(query).scalar()
    return None if found is None else str(found)


def differences(database: Database) -> list[str]:
    """What of the tables is not as this version has them, a sentence each."""
    with database.writing() as connection:
        found = current(connection)
        if found != REVISION:
            there = f"at revision {found}" if found else "not there"
            return [f"The tables are {there}; this version needs {REVISION}."]
        return _compare(connection)


def _compare(connection: Connection) -> list[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from .schema import metadata

    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    return [_say(change) for change in compare_metadata(context, metadata)]


def _say(change: object) -> str:
    flat = change[0] if isinstance(change, list) else change
    assert isinstance(flat, tuple)
    what = str(flat[0]).replace("_", " ").replace("add", "missing", 1)
    return f"{what}: {', '.join(str(part) for part in flat[1:] if part is not None)}"


@contextmanager
def _alone(database: Database) -> Iterator[Connection]:
    """A transaction in which nobody else changes the tables."""
    with database.writing() as connection, database.tables_locked(connection):
        yield connection


def _upgrade(database: Database, connection: Connection, found: str | None) -> None:
    from alembic import command

    command.upgrade(_config(database, connection, found), "head")
    if not database.transactional_ddl:
        # What was there already was taken for the work of one that was interrupted.
        wrong = _compare(connection)
        if wrong:
            raise StoreError(
                f"the tables of {database} are not as they should be; does another"
                f" program use it? {'; '.join(wrong)}"
            )


def _config(database: Database, connection: Connection, found: str | None) -> Config:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["transactional_ddl"] = database.transactional_ddl
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    if found is not None and found not in {script.revision for script in scripts}:
        raise DatabaseTooNew(
            f"a newer version of collab-server wrote {database} (its tables are at"
            f" revision {found}, and this one knows {REVISION}); install that, or"
            " restore a backup"
        )
    return config


def _migrations() -> Path:
    """Where the migrations are: in the installed package, or beside it."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"
