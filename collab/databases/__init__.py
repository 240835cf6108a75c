"""Databases: their URLs, connections and transactions, and where they differ.

One of three kinds is chosen by the URL. What is above speaks SQL that all of them
understand; the few statements on the way of every edit are written for each, and so are
locks, and what to say when something fails.

Python gives the GIL away for each step of a statement, and a busy event loop may keep
it for 5 ms: so a commit is few statements, however many documents and updates are in
it.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from ..errors import DatabaseUnreachable
from .base import ROWS_PER_STATEMENT, Database, Entry, shown, slices
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite

__all__ = ["ROWS_PER_STATEMENT", "Database", "Entry", "open_database", "slices"]

FORMS = (
    "write sqlite:///collab.db, sqlite:////absolute/path/collab.db,"
    " postgresql://user:password@host/database or mysql://user:password@host/database"
)


def open_database(url: str) -> Database:
    """The database of a URL; nothing is opened yet.

    Raises:
        DatabaseUnreachable: If there is no such database, or no driver for it.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        # Whatever it is, there may be a password before the @ or behind the ?.
        _, hidden, rest = url.partition("?")[0].rpartition("@")
        unread = f"***@{rest}" if hidden else rest
        raise DatabaseUnreachable(f"{unread!r} is no database; {FORMS}") from None
    if "@" in (parsed.host or ""):
        raise DatabaseUnreachable(
            f"the URL of the {parsed.drivername} database has too many @; write %40 for"
            " each @ in the password"
        )
    name, _, driver = parsed.drivername.partition("+")
    kinds: dict[str, tuple[type[Database], str]] = {
        "sqlite": (SQLite, "pysqlite"),
        "postgresql": (PostgreSQL, "psycopg"),
        "postgres": (PostgreSQL, "psycopg"),
        "mysql": (MySQL, "pymysql"),
        "mariadb": (MySQL, "pymysql"),
    }
    if name not in kinds:
        said = f"{shown(parsed)} is no database that we know"
        raise DatabaseUnreachable(f"{said}; {FORMS}")
    kind, ours = kinds[name]
    if driver not in ("", ours):
        advice = f"write {name}://... for the driver {ours}"
        said = f"{shown(parsed)} names a driver that we don't use"
        raise DatabaseUnreachable(f"{said}; {advice}")
    dialect = {"postgres": "postgresql"}.get(name, name)
    return kind(url, parsed.set(drivername=f"{dialect}+{ours}"))
