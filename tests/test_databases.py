"""The database servers of the tests do what the tests rely on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

import scripts.databases
from scripts.databases import MARIADB, POSTGRES, version
from tests.conftest import StartServer, start
from tests.databases import (
    DatabaseServer,
    MariaDB,
    Postgres,
    ServerMissing,
    state,
    through,
)
from tests.proxy import Proxy

each_kind = pytest.mark.parametrize("kind", [Postgres, MariaDB])

SILENCE = 0.2
"""Seconds in which what is stopped would have answered."""

BLOB = {Postgres: "bytea", MariaDB: "longblob"}
"""The type for many bytes."""


VICTIM = """
import signal
from tests.databases import MariaDB, Postgres
servers = [Postgres(), MariaDB(), Postgres()]
servers[0].pause()
print(*[server.folder for server in servers])
print(*[pid for server in servers for pid in server.pids()], flush=True)
signal.pause()
"""
"""A program that is killed while it has servers, one of them paused."""


@pytest.fixture(params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, DatabaseServer)
    return found


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection that is closed at the end."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def keep(url: str, number: int) -> None:
    """Commit a number."""
    with connected(url) as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS kept (number int)"))
        connection.execute(
            text("INSERT INTO kept VALUES (:number)"), {"number": number}
        )
        connection.commit()


def kept(url: str) -> list[int]:
    """The numbers that were committed."""
    with connected(url) as connection:
        rows = connection.execute(text("SELECT number FROM kept ORDER BY number"))
        return list(rows.scalars())


def gone(pids: list[int]) -> bool:
    return all(state(pid) in "Z" for pid in pids)


def test_each_database_is_empty(server: DatabaseServer) -> None:
    one, other = server.create_database(), server.create_database()
    keep(one, 1)
    keep(other, 2)
    assert (kept(one), kept(other)) == ([1], [2])


def test_a_database_may_have_options(mariadb: MariaDB) -> None:
    question = text("SELECT @@character_set_database")
    with connected(mariadb.create_database()) as connection:
        assert connection.scalar(question) == "utf8mb4"
    with connected(mariadb.create_database("CHARACTER SET latin1")) as connection:
        assert connection.scalar(question) == "latin1"


def test_a_wrong_password_is_refused(server: DatabaseServer) -> None:
    url = make_url(server.create_database()).set(password="guessed")
    with (
        pytest.raises(OperationalError, match=r"(?i)password|denied"),
        connected(url.render_as_string(hide_password=False)),
    ):
        pass


def test_passwords_are_checked_as_they_are_by_default(
    postgres: Postgres, mariadb: MariaDB
) -> None:
    with connected(postgres.create_database()) as connection:
        question = "SELECT rolpassword FROM pg_authid WHERE rolname = current_user"
        assert connection.scalar(text(question)).startswith("SCRAM-SHA-256$")
    with connected(mariadb.create_database()) as connection:
        question = "SELECT plugin FROM mysql.user WHERE user = 'collab'"
        assert connection.scalar(text(question)) == "mysql_native_password"


def test_a_commit_waits_for_the_disk(postgres: Postgres, mariadb: MariaDB) -> None:
    with connected(postgres.create_database()) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.scalar(text(f"SHOW {name}")) == "on"
    with connected(mariadb.create_database()) as connection:
        assert connection.scalar(text("SELECT @@innodb_flush_log_at_trx_commit")) == 1
        assert connection.scalar(text("SELECT @@innodb_doublewrite")) in (1, "ON")


def test_64_mib_fit_into_a_row(server: DatabaseServer) -> None:
    data = bytes(range(256)) * (1 << 18)
    with connected(server.create_database()) as connection:
        connection.execute(text(f"CREATE TABLE large (data {BLOB[type(server)]})"))
        insert = text("INSERT INTO large VALUES (:data)")
        connection.execute(insert, {"data": data})
        connection.commit()
        assert bytes(connection.scalar(text("SELECT data FROM large"))) == data


@each_kind
def test_what_was_committed_outlives_a_kill_and_a_restart(
    start_server: StartServer, kind: type[DatabaseServer]
) -> None:
    server = start_server(kind)
    url = server.create_database()
    keep(url, 1)
    pids = server.pids()
    server.kill()
    assert gone(pids)
    assert server.pids() == []
    with pytest.raises(OperationalError), connected(url):
        pass
    server.start()
    keep(url, 2)
    server.stop()
    with pytest.raises(OperationalError), connected(url):
        pass
    server.start()
    server.restart()
    assert kept(url) == [1, 2]


@each_kind
def test_a_paused_server_answers_when_it_is_resumed(
    start_server: StartServer, kind: type[DatabaseServer]
) -> None:
    server = start_server(kind)
    url = server.create_database()
    keep(url, 1)
    server.pause()
    assert {state(pid) for pid in server.pids()} == {"T"}
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.extend(kept(url)))
    asking.start()
    asking.join(SILENCE)
    assert found == []
    server.resume()
    asking.join()
    assert found == [1]


@each_kind
def test_a_paused_server_can_be_killed_and_stopped(
    start_server: StartServer, kind: type[DatabaseServer]
) -> None:
    server = start_server(kind)
    url = server.create_database()
    keep(url, 1)
    server.pause()
    server.kill()
    server.start()
    server.pause()
    server.stop()
    server.start()
    assert kept(url) == [1]


# TLS.


def with_options(url: str, **options: str) -> str:
    changed = make_url(url).update_query_dict(options)
    return changed.render_as_string(hide_password=False)


def answer(url: str, question: str) -> str:
    """The last column of the one row."""
    with connected(url) as connection:
        return str(connection.execute(text(question)).one()[-1])


def test_postgres_is_trusted_by_its_certificate(
    start_server: StartServer,
    certificate: tuple[Path, Path],
    strange_certificate: tuple[Path, Path],
) -> None:
    server = start_server(Postgres, tls=certificate)
    url = server.create_database()
    question = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    for mode in ("verify-ca", "verify-full"):
        trusting = with_options(url, sslmode=mode, sslrootcert=str(certificate[0]))
        assert answer(trusting, question).startswith("TLS")
        other = with_options(url, sslmode=mode, sslrootcert=str(strange_certificate[0]))
        with pytest.raises(OperationalError, match="certificate verify failed"):
            answer(other, question)


def test_mariadb_is_trusted_by_its_certificate(
    start_server: StartServer,
    certificate: tuple[Path, Path],
    strange_certificate: tuple[Path, Path],
) -> None:
    server = start_server(MariaDB, tls=certificate)
    url = server.create_database()
    question = "SHOW STATUS LIKE 'Ssl_version'"
    trusting = with_options(url, ssl_ca=str(certificate[0]))
    assert answer(trusting, question).startswith("TLS")
    with pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        answer(with_options(url, ssl_ca=str(strange_certificate[0])), question)


# Behind the proxy.


def test_a_commit_succeeds_although_its_answer_is_lost(server: DatabaseServer) -> None:
    url = server.create_database()
    keep(url, 1)
    with Proxy(server.port) as proxy:
        proxy.cut_answer_to(server.commit)
        with pytest.raises(OperationalError):
            keep(through(url, proxy.port), 2)
        assert proxy.cuts == 1
        keep(through(url, proxy.port), 3)
    assert kept(url) == [1, 2, 3]


def test_the_answer_to_a_commit_of_postgres_is_known(postgres: Postgres) -> None:
    url = postgres.create_database()
    keep(url, 1)
    with Proxy(postgres.port) as proxy:
        proxy.cut_after(b"COMMIT\0")
        with pytest.raises(OperationalError):
            keep(through(url, proxy.port), 2)
    assert kept(url) == [1, 2]


# The end, and a machine without servers.


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM], stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        folders = [Path(name) for name in tests.stdout.readline().split()]
        pids = [int(pid) for pid in tests.stdout.readline().split()]
        assert all(folder.exists() for folder in folders)
        tests.kill()
    while any(folder.exists() for folder in folders) or not gone(pids):
        time.sleep(0.05)


def test_the_server_is_not_root(server: DatabaseServer) -> None:
    for pid in server.pids():
        assert Path(f"/proc/{pid}").stat().st_uid != 0


@each_kind
def test_a_server_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[DatabaseServer]
) -> None:
    monkeypatch.setenv(kind.programs.variable, str(tmp_path))
    with pytest.raises(ServerMissing, match=f"{kind.programs.variable} is {tmp_path}"):
        kind()
    with pytest.raises(pytest.skip.Exception, match=str(tmp_path)):
        start(kind)
    assert scripts.databases.main() == 1


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POSTGRES.variable, raising=False)
    monkeypatch.delenv(MARIADB.variable, raising=False)
    assert "apt-get install postgresql)" in POSTGRES.missing()
    assert "apt-get install mariadb-server-core)" in MARIADB.missing()


def test_the_newest_version_comes_first() -> None:
    folders = [Path(f"/usr/lib/postgresql/{number}/bin") for number in (9, 15, 13)]
    assert max(folders, key=version) == folders[1]
