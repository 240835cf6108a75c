"""How databases are named and reached, and what is said when they are not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from collab.databases.servers import Server
from collab.errors import DatabaseUnreachable, StoreError
from collab.store import Append, Store
from tests.databases import DatabaseServer, MariaDB, Postgres, free_port
from tests.stores import append, behind_its_back, opened, url_of

SERVERS = pytest.mark.parametrize("kind", ["postgres", "mariadb"])
EACH = pytest.mark.parametrize("start", [Postgres, MariaDB])
"""With a server of one's own."""


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> DatabaseServer:
    server: DatabaseServer = request.getfixturevalue(kind)
    return server


def refused(url: str, secret: str = "") -> str:
    """What is said about a URL with which nothing can be opened."""
    with pytest.raises(DatabaseUnreachable) as caught:
        Store(url).open()
    said = str(caught.value)
    secret = secret or str(make_url(url).password or "secret")
    assert secret not in said
    assert url_of(url, drivername="x").partition("@")[0][4:] not in said
    return said


# URLs.


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("postgres", ["postgres", "postgresql", "postgresql+psycopg"]),
        ("mariadb", ["mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"]),
    ],
)
def test_a_server_has_several_names(server: DatabaseServer, names: list[str]) -> None:
    url = server.create_database()
    for head, name in enumerate(names, 1):
        store = opened(url_of(url, drivername=name))
        assert append(store, "doc", b"x") == head
        assert store.url == url_of(url, drivername=name)
        assert str(make_url(url).password) not in str(store)
        assert store.path is None
        assert not store.in_memory
        store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "collab.db",
        "nosuch://x",
        "oracle://u:secret@h/d",
        "://",
        "/var/lib/collab.db",
        "postgresql//u:secret@h/d",
        "u:secret@h/d",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnreachable, match=r"write sqlite:///collab\.db") as no:
        Store(url)
    assert "secret" not in str(no.value)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgresql+psycopg2://u:secret@h/d", "write postgresql://"),
        ("postgresql+asyncpg://u:secret@h/d", "for the driver psycopg"),
        ("mysql+mysqldb://u:secret@h/d", "write mysql://... for the driver pymysql"),
        ("mariadb+mariadbconnector://u:secret@h/d", "write mariadb://"),
        ("sqlite+aiosqlite:///x", "for the driver pysqlite"),
        ("sqlite+nosuch:///x", "for the driver pysqlite"),
        ("postgresql://u:secret@h", "names no database; write postgresql://.../NAME"),
        ("postgres://u:secret@h/", "names no database"),
        ("mysql://u:secret@h", "names no database; write mysql://.../NAME"),
        ("sqlite://host/file", "names no file; write sqlite:///FILE"),
        ("postgresql://u:secret@h:port/d", "is no database"),
        ("postgresql://u:secret@h:0.5/d", "is no database"),
        ("postgresql://u:se@secret@h/d", "write %40 for each @ in the password"),
        ("mysql://u:se@secret@h/d", "write %40 for each @ in the password"),
        ("postgresql://u:secret@h/d?pool_size=many", "pool_size in .* is not a number"),
        ("mysql://u:secret@h/d?pool_timeout=x", "pool_timeout in .* is not a number"),
        (
            "postgresql://u:secret@h/d?prepare_threshold=x",
            "prepare_threshold in the URL is not a number",
        ),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, advice: str) -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        Store(url).open()
    assert re.search(advice, str(caught.value)), caught.value
    assert "secret" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    for url in (
        "postgresql://u:secret@h/d",
        "postgresql://h/d?user=u&password=secret",
        "postgresql://h/d?user=u&sslpassword=secret",
        "mysql://u:secret@h/d",
        "mysql://h/d?user=u&passwd=secret",
        "mysql://h/d?user=u&password=secret",
    ):
        store = Store(url)
        assert "secret" not in str(store)
        assert "user=u" in str(store) or "//u:" in str(store)
        assert store.url == url


@SERVERS
def test_a_pool_is_as_large_as_the_url_says(server: DatabaseServer) -> None:
    url = server.create_database()
    settings = {
        "pool_size": "2",
        "max_overflow": "1",
        "pool_timeout": "0.05",
        "pool_recycle": "3600",
    }
    store = opened(url_of(url, query=settings))

    def nested(depth: int) -> None:
        with store.database.reading():
            if depth > 1:
                nested(depth - 1)

    nested(3)
    with pytest.raises(DatabaseUnreachable, match="QueuePool limit of size 2 overflow"):
        nested(4)
    # Writing doesn't wait for those who read.
    with store.database.reading(), store.database.reading(), store.database.reading():
        assert append(store, "doc", b"x") == 1
    store.close()


def test_a_pooler_may_do_without_prepared_statements(postgres: DatabaseServer) -> None:
    url = postgres.create_database()
    for threshold in ("none", "0", "7"):
        store = opened(url_of(url, query={"prepare_threshold": threshold}))
        for _ in range(10):
            append(store, "doc", b"x")
        prepared = "SELECT count(*) FROM pg_prepared_statements"
        with store.database.writing() as connection:
            found = connection.exec_driver_sql(prepared).scalar()
        assert bool(found) == (threshold != "none")
        store.close()


# Servers that don't let us in.


@SERVERS
def test_a_wrong_password_is_said_and_not_shown(server: DatabaseServer) -> None:
    url = url_of(server.create_database(), password="pssst")
    assert "see to the user and the password in the URL" in refused(url)


@SERVERS
def test_an_unknown_user_is_said(server: DatabaseServer) -> None:
    url = url_of(server.create_database(), username="nobody")
    assert "see to the user and the password in the URL" in refused(url)


@SERVERS
def test_an_unknown_database_is_to_be_created(
    server: DatabaseServer, kind: str
) -> None:
    said = refused(server.url("nosuch"))
    how = "createdb nosuch" if kind == "postgres" else "CREATE DATABASE nosuch"
    assert said.endswith(f"; create it: {how}")


@SERVERS
def test_a_port_where_nobody_listens_is_said(server: DatabaseServer, kind: str) -> None:
    port = free_port()
    said = refused(url_of(server.create_database(), port=port))
    what = "PostgreSQL" if kind == "postgres" else "MySQL"
    assert said.endswith(f"; is {what} running at 127.0.0.1:{port}?")


@SERVERS
def test_a_host_that_is_not_there_is_said(server: DatabaseServer, kind: str) -> None:
    said = refused(url_of(server.create_database(), host="nosuch.invalid"))
    what = "PostgreSQL" if kind == "postgres" else "MySQL"
    assert said.endswith(f"; is {what} running at nosuch.invalid:{server.port}?")


@SERVERS
def test_a_parameter_that_no_driver_knows_is_said(server: DatabaseServer) -> None:
    said = refused(url_of(server.create_database(), query={"nosuch": "1"}))
    assert re.search("invalid.* option .nosuch|unexpected.* argument 'nosuch'", said)


@SERVERS
def test_a_user_without_rights_is_said(server: DatabaseServer, kind: str) -> None:
    url = server.create_database()
    opened(url).close()
    password = "a-guests"
    role = (
        "ROLE guest LOGIN PASSWORD"
        if kind == "postgres"
        else "USER guest IDENTIFIED BY"
    )
    behind_its_back(url, f"CREATE {role} '{password}'")
    url = url_of(url, username="guest", password=password)
    assert refused(url).endswith(
        "; this user needs all rights on the database's tables"
    )


@SERVERS
def test_a_driver_that_is_not_installed_is_named(kind: str) -> None:
    name, package, extra = {
        "postgres": ("postgresql", "psycopg", "postgres"),
        "mariadb": ("mysql", "pymysql", "mysql"),
    }[kind]
    code = (
        "import sys; sys.modules[sys.argv[2]] = None\n"
        "from collab.store import Store\n"
        "try: Store(sys.argv[1])\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    url = f"{name}://u:secret@h/d"
    command = [sys.executable, "-c", code, url, package]
    output = subprocess.check_output(command, text=True)
    assert output == (
        f"DatabaseUnreachable {name}+{package}://u:***@h/d needs the Python package"
        f" {package}; install it with pip install 'collab-server[{extra}]'\n"
    )


# Settings of servers.


def setting(store: Store, query: str) -> Any:
    with store.database.writing() as connection:
        return connection.exec_driver_sql(query).scalar()


@pytest.mark.parametrize("where", ["DATABASE {database}", "ROLE {user}"])
def test_postgresql_answers_a_commit_when_it_is_on_disk(
    postgres: DatabaseServer, where: str
) -> None:
    url = postgres.create_database()
    parsed = make_url(url)
    where = where.format(database=parsed.database, user=parsed.username)
    query = "SHOW synchronous_commit"
    try:
        behind_its_back(url, f"ALTER {where} SET synchronous_commit = off")
        assert behind_its_back(url, query) == ["off"]
        store = opened(url)
        assert setting(store, query) == "on"
        store.close()
        # It is on disk then, and an operator may have reasons for more or less.
        behind_its_back(url, f"ALTER {where} SET synchronous_commit = local")
        store = opened(url)
        assert setting(store, query) == "local"
        store.close()
    finally:
        behind_its_back(url, f"ALTER {where} RESET synchronous_commit")


def test_a_postgresql_that_does_not_wait_for_the_disk_is_warned_of(
    postgres: DatabaseServer,
) -> None:
    url = postgres.create_database()
    with altered(url, "fsync", "off"):
        store = Store(url)
        [warning] = store.open()
        store.close()
    assert warning.endswith(
        " runs with fsync = off: what it says is committed may be lost when its machine"
        " fails; set fsync = on"
    )
    assert str(store) in warning
    assert store.open() == []
    store.close()


@contextmanager
def altered(url: str, name: str, value: str) -> Iterator[None]:
    """Run PostgreSQL with another setting."""

    def alter(statement: str, value: str) -> None:
        behind_its_back(url, statement)
        behind_its_back(url, "SELECT pg_reload_conf()")
        while behind_its_back(url, f"SHOW {name}") != [value]:
            pass  # The server has been told.

    [before] = behind_its_back(url, f"SHOW {name}")
    alter(f"ALTER SYSTEM SET {name} = {value}", value)
    try:
        yield
    finally:
        alter(f"ALTER SYSTEM RESET {name}", before)


def test_postgresql_must_speak_unicode(postgres: DatabaseServer) -> None:
    options = "ENCODING 'LATIN1' TEMPLATE template0"
    said = refused(postgres.create_database(options))
    assert "keeps text as LATIN1" in said
    assert said.endswith("; create it with ENCODING 'UTF8'")


def test_a_mariadb_that_does_not_wait_for_the_disk_is_warned_of(
    mariadb: DatabaseServer,
) -> None:
    url = mariadb.create_database()
    name = "innodb_flush_log_at_trx_commit"
    behind_its_back(url, f"SET GLOBAL {name} = 2")
    try:
        store = Store(url)
        [warning] = store.open()
        store.close()
    finally:
        behind_its_back(url, f"SET GLOBAL {name} = 1")
    assert warning.endswith(
        f" runs with {name} = 2: what it says is committed may be lost when its machine"
        " fails; set it to 1"
    )
    assert store.open() == []
    store.close()


def test_a_mariadb_that_takes_too_little_is_refused(mariadb: DatabaseServer) -> None:
    url = mariadb.create_database()
    [before] = behind_its_back(url, "SELECT @@max_allowed_packet")
    behind_its_back(url, "SET GLOBAL max_allowed_packet = 16777216")
    try:
        said = refused(url)
    finally:
        behind_its_back(url, f"SET GLOBAL max_allowed_packet = {before}")
    assert "takes 16777216 bytes in one statement" in said
    assert said.endswith(
        "; set max_allowed_packet = 256M in the [mysqld] section of its configuration"
    )


def test_what_mariadb_does_not_take_is_refused_before_it_hangs_up(
    mariadb: DatabaseServer,
) -> None:
    url = mariadb.create_database()
    [before] = behind_its_back(url, "SELECT @@max_allowed_packet")
    behind_its_back(url, "SET GLOBAL max_allowed_packet = 67108864")
    try:
        store = opened(url)
        append(store, "doc", b"x")
        for size in (33, 70):
            with pytest.raises(StoreError, match="raise its max_allowed_packet") as no:
                append(store, "doc", bytes(size * 2**20))
            assert not isinstance(no.value, DatabaseUnreachable)
        document_id = store.load("doc").document_id
        assert document_id is not None
        with pytest.raises(StoreError, match="raise its max_allowed_packet"):
            store.write_snapshot(document_id, 1, bytes(32 * 2**20), b"")
        batch = [Append(f"doc{n}", [(bytes(16 * 2**20), None)]) for n in range(5)]
        assert [appended.head for appended in store.append(batch)] == [1] * 5
        assert store.write_snapshot(document_id, 1, bytes(31 * 2**20), b"")
        store.close()
    finally:
        behind_its_back(url, f"SET GLOBAL max_allowed_packet = {before}")


def test_mariadb_keeps_all_of_a_value_or_refuses(mariadb: DatabaseServer) -> None:
    url = mariadb.create_database()
    store = opened(url)
    with pytest.raises(StoreError, match="too long"):
        append(store, "x" * 256, b"x")
    with pytest.raises(StoreError, match="too long"):
        store.append([Append("doc", [(b"x", "a" * 70_000)])])
    assert store.load("doc").document_id is None
    store.close()


# TLS.


@EACH
def test_a_connection_may_be_encrypted_and_verified(
    start: type[DatabaseServer],
    start_server: Callable[..., DatabaseServer],
    certificate: tuple[Path, Path],
    strange_certificate: tuple[Path, Path],
) -> None:
    server = start_server(start, tls=certificate)
    url = server.create_database()
    if start is Postgres:
        cipher = "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        advice = "see to sslmode and sslrootcert in the URL"

        def options(authority: Path) -> dict[str, str]:
            return {"sslmode": "verify-ca", "sslrootcert": str(authority)}
    else:
        cipher = (
            "SELECT variable_value FROM information_schema.session_status"
            " WHERE variable_name = 'Ssl_cipher'"
        )
        advice = "see to ssl_ca in the URL"

        def options(authority: Path) -> dict[str, str]:
            return {"ssl_ca": str(authority)}

    store = opened(url_of(url, query=options(certificate[0])))
    assert setting(store, cipher)
    with store.database.reading() as connection:
        assert connection.exec_driver_sql(cipher).scalar()
    store.close()
    said = refused(url_of(url, query=options(strange_certificate[0])))
    assert "certificate verify failed" in said
    assert said.endswith(advice)
    missing = certificate[0].with_name("missing.pem")
    said = refused(url_of(url, query=options(missing)))
    assert said.endswith(advice)


@SERVERS
def test_a_server_without_tls_is_said(
    server: DatabaseServer, kind: str, certificate: tuple[Path, Path]
) -> None:
    if kind == "postgres":
        query = {"sslmode": "require"}
        advice = "see to sslmode and sslrootcert in the URL"
    else:
        query = {"ssl_ca": str(certificate[0])}
        advice = "see to ssl_ca in the URL"
    said = refused(url_of(server.create_database(), query=query))
    assert said.endswith(advice)


def test_the_database_keeps_its_isolation(store: Store) -> None:
    """Readers see one state, and writers what others have committed."""
    if not isinstance(store.database, Server):
        return
    append(store, "doc", b"x")
    query = "SELECT head FROM documents"
    with (
        store.database.reading() as reader,
        store.database.writing() as writer,
    ):
        assert reader.exec_driver_sql(query).scalar() == 1
        assert writer.exec_driver_sql(query).scalar() == 1
        behind_its_back(store.url, "UPDATE documents SET head = 2")
        assert reader.exec_driver_sql(query).scalar() == 1
        assert writer.exec_driver_sql(query).scalar() == 2
