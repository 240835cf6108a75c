"""What databases and their surroundings do to a server under load.

In all of it: no acknowledged edit is lost, nothing is acknowledged that was not stored,
clients go on together meanwhile, and when the fault is over the server goes on by
itself. ``/readyz`` says how it is, and the log has a line when it begins and another
when it is over.

Random moments are drawn from ``FAULTS_SEED``, which is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from collab.limits import Limits
from tests import servers
from tests.conftest import StartServer
from tests.databases import DatabaseServer, MariaDB, Postgres, through
from tests.peers import BINARY, Raw, edit, enter, insert
from tests.proxy import Proxy
from tests.servers import Server
from tests.typists import PATIENCE, Desk, read_log, until

SEED = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(2**32)))

MEMORY = 64 * 2**20
"""Bytes that a server may need in addition while nothing can be saved."""

both = pytest.mark.parametrize("name", ["postgres", "mariadb"])
each = pytest.mark.parametrize("name", ["sqlite", "postgres", "mariadb"])

NewDatabase = Callable[[str], str]


@pytest.fixture
def new_database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[str], str]:
    """Make an empty database of a kind: ``new_database("sqlite")``."""

    def make(name: str) -> str:
        if name == "sqlite":
            return f"sqlite:///{tmp_path / 'collab.db'}"
        server: DatabaseServer = request.getfixturevalue(name)
        return server.create_database()

    return make


@pytest.fixture
def chance() -> random.Random:
    print(f"FAULTS_SEED={SEED}")
    return random.Random(SEED)


def status(server: Server, path: str = "/readyz") -> int:
    """The HTTP status with which it answers."""
    try:
        with urllib.request.urlopen(
            f"{server.url}{path}", timeout=PATIENCE
        ) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def ready(server: Server) -> None:
    until(lambda: status(server) == 200, "it is ready")


def unready(server: Server) -> None:
    until(lambda: status(server) == 503, "it is not ready")


def said(server: Server, pattern: str) -> int:
    """How many lines of its log hold a pattern."""
    return len(re.findall(pattern, server.log()))


INCIDENTS = {
    "a commit has been taking longer than 5 s": "late",
    "cannot save (": "failed",
    "saved again, after": "over",
}
"""Lines of the journal, and what they say."""


def check_incidents(server: Server, begun: str, count: int = 1) -> None:
    """Each was announced in one line when it began, and in one when it was over.

    What took long may fail in the end; then there is a line that says why.
    """
    until(lambda: said(server, "saved again, after") == count, "it says that it's over")
    log = server.log()
    course = [
        what
        for line in log.splitlines()
        for beginning, what in INCIDENTS.items()
        if f"collab.journal: {beginning}" in line
    ]
    assert re.fullmatch("((late )?failed over |late over )*", " ".join([*course, ""]))
    assert log.count(" ERROR ") == len(course) - count, log
    assert said(server, begun) >= count, log
    assert "Traceback" not in log, log


def refused(server: Server) -> bool:
    """Whether somebody new is told to come back later."""
    with Raw(server.port) as raw:
        return raw.ask("/ws/new").status == 503


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A connection of one's own."""
    with sa.create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def execute(url: str, *statements: str) -> None:
    """Run statements, each by itself."""
    with connected(url) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            connection.exec_driver_sql(statement)


def command(server: Server, *arguments: str) -> str:
    """Run ``collab`` beside a server."""
    done = subprocess.run(
        [sys.executable, "-m", "collab", *arguments],
        env={
            **os.environ,
            **server.environment,
            "COLLAB_DATABASE": server.database_url,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stay_away(server: Server, desk: Desk, seconds: float) -> None:
    """Let nothing be saved for some time, and look at what that does."""
    began = monotonic()
    unready(server)
    desk.hear_each_other()  # All acknowledgements from before have arrived.
    acked, memory = desk.count, server.memory()
    assert refused(server)
    while monotonic() < began + seconds:
        desk.hear_each_other()
    assert status(server) == 503, server.log()
    assert desk.count == acked
    assert server.memory() < memory + MEMORY


# Database servers that are gone, or cut us off.


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seconds"), [(Postgres, 30), (MariaDB, 8)])
def test_a_database_that_is_stopped_for_a_while_is_waited_for(
    kind: type[DatabaseServer],
    seconds: float,
    start_server: StartServer,
    tmp_path: Path,
) -> None:
    database = start_server(kind)
    url = database.create_database()
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        desk.advance()
        database.stop()
        stay_away(server, desk, seconds)
        database.start()
        desk.advance()
        ready(server)
        desk.settle()
        desk.verify()
        check_incidents(server, r"journal: cannot save \(")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Postgres, MariaDB])
def test_a_database_that_is_killed_loses_nothing(
    kind: type[DatabaseServer],
    start_server: StartServer,
    tmp_path: Path,
    chance: random.Random,
) -> None:
    database = start_server(kind)
    url = database.create_database()
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        for _ in range(2):
            desk.advance()
            sleep(chance.random())
            database.kill()
            unready(server)
            database.start()
            desk.verify_acked()
            desk.advance()
            ready(server)
        desk.settle()
        desk.verify()
        check_incidents(server, r"journal: cannot save \(", 2)


CUT_OFF = {
    "postgres": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mariadb": "SELECT id FROM information_schema.processlist"
    " WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}


def cut_off(url: str, name: str) -> None:
    """Let a database server close all connections to a database but this one."""
    with connected(url) as connection:
        found = connection.exec_driver_sql(CUT_OFF[name]).scalars().all()
        if name == "mariadb":
            for number in found:
                with suppress(OperationalError):  # It may have gone by itself.
                    connection.exec_driver_sql(f"KILL {number}")


@pytest.mark.slow
@both
def test_connections_that_the_database_closes_are_made_anew(
    name: str, new_database: NewDatabase, tmp_path: Path, chance: random.Random
) -> None:
    url = new_database(name)
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        for _ in range(10):
            desk.advance()
            sleep(chance.random() / 4)
            cut_off(url, name)
        desk.advance()
        ready(server)
        desk.settle()
        desk.verify()
        begun = said(server, r"journal: cannot save \(")
        check_incidents(server, r"journal: cannot save \(", begun)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Postgres, MariaDB])
def test_a_database_that_does_not_answer_is_waited_for(
    kind: type[DatabaseServer], start_server: StartServer, tmp_path: Path
) -> None:
    database = start_server(kind)
    url = database.create_database()
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        desk.advance()
        database.pause()
        stay_away(server, desk, 8)
        database.resume()
        desk.advance()
        ready(server)
        desk.settle()
        desk.verify()
        check_incidents(server, "a commit has been taking longer than 5 s")


# Locks.


LOCKS = {
    "sqlite": ("BEGIN IMMEDIATE", "ROLLBACK"),
    "postgres": ("LOCK TABLE updates IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
    "mariadb": ("LOCK TABLES updates WRITE", "UNLOCK TABLES"),
}

TROUBLE = r"journal: (cannot save \(|a commit has been taking)"


@pytest.mark.slow
@each
def test_a_table_that_is_locked_is_waited_for(
    name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database(name)
    lock, unlock = LOCKS[name]
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        desk.advance()
        with connected(url) as connection:
            connection.exec_driver_sql(lock)
            stay_away(server, desk, 10)
            connection.exec_driver_sql(unlock)
        desk.advance()
        ready(server)
        desk.settle()
        desk.verify()
        check_incidents(server, TROUBLE)


@pytest.mark.slow
@both
def test_a_document_that_is_locked_holds_up_no_other(
    name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database(name)
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        desk.advance()
        with connected(url) as connection:
            began = monotonic()
            connection.exec_driver_sql(
                "SELECT id FROM documents WHERE name = 'one' FOR UPDATE"
            )
            until(lambda: said(server, r"journal: one: cannot save \("))
            desk.hear_each_other()
            before = len(desk.acked("one"))
            while monotonic() < began + 10:
                desk.advance("two", "three")
            assert status(server) == 200
            desk.hear_each_other()
            assert len(desk.acked("one")) == before
            connection.rollback()
        desk.advance()
        desk.settle()
        desk.verify()
        assert said(server, "cannot save") == said(server, "one: saved again") == 1


# Slowness.


SLOW = {
    "postgres": (
        """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF current_setting('test.slow', true) IS DISTINCT FROM txid_current()::text
          THEN
            PERFORM set_config('test.slow', txid_current()::text, true);
            PERFORM pg_sleep(0.5);
          END IF;
          RETURN NULL;
        END $$
        """,
        """
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON updates
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
        """,
    ),
    "mariadb": (
        """
        CREATE TRIGGER slow AFTER INSERT ON updates FOR EACH ROW
          IF SYSDATE(6) > COALESCE(@rested, '2000-01-01') THEN
            SET @slept = SLEEP(0.5), @rested = SYSDATE(6) + INTERVAL 0.2 SECOND;
          END IF
        """,
    ),
}
"""Half a second in each transaction: at its end, or in a statement."""


@contextmanager
def slowness(name: str, server: Server, folder: Path) -> Iterator[None]:
    """Let each commit take half a second."""
    if name == "sqlite":
        with meddling(server, "fdatasync", "delay_enter=500000", folder):
            yield
    else:
        execute(server.database_url, *SLOW[name])
        yield
        execute(
            server.database_url,
            "DROP TRIGGER slow" + (" ON updates" if name == "postgres" else ""),
        )


@contextmanager
def meddling(server: Server, call: str, what: str, folder: Path) -> Iterator[None]:
    """Let something happen to system calls of a server (see ``strace -e inject``)."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:{what}"]
    command = ["strace", "-f", *inject, "-o", str(folder / "strace")]
    with attached([*command, "-p", str(server.pid)], 1):
        yield


@contextmanager
def attached(command: list[str], processes: int) -> Iterator[None]:
    """Have processes looked at by ``strace``."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    for _ in range(processes):
        said = tracer.stderr.readline()
        if "ttach" not in said or "Operation not permitted" in said:
            tracer.kill()
            tracer.wait()
            pytest.skip(f"strace may not look: {said.strip()}")
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        tracer.stderr.close()


@pytest.mark.slow
@each
def test_a_slow_database_makes_only_acknowledgements_late(
    name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database(name)
    with servers.running(tmp_path, database=url) as server, Desk(server) as desk:
        desk.advance()
        memory = server.memory()
        with slowness(name, server, tmp_path):
            for _ in range(5):
                desk.hear_each_other()
                desk.advance()
                assert status(server) == 200
            assert server.memory() < memory + MEMORY
        desk.settle()
        desk.verify()
        assert said(server, "ERROR") == 0


# The network.


@pytest.mark.slow
@both
def test_a_network_may_hang_refuse_and_be_slow(
    name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    direct = new_database(name)
    port = sa.make_url(direct).port
    assert port is not None
    with Proxy(port) as proxy:
        url = through(direct, proxy.port)
        with (
            servers.running(tmp_path, database=url) as server,
            Desk(server, database=direct) as desk,
        ):
            desk.advance()
            proxy.hang()
            stay_away(server, desk, 8)
            desk.verify_acked()
            proxy.mend()
            desk.advance()
            ready(server)
            proxy.refuse()
            proxy.cut()
            stay_away(server, desk, 8)
            desk.verify_acked()
            proxy.mend()
            desk.advance()
            ready(server)
            proxy.delay(to_server=0.2, to_client=0.2)
            for _ in range(2):
                desk.hear_each_other()
                desk.advance()
            proxy.mend()
            desk.settle()
            desk.verify()
            check_incidents(server, TROUBLE, 2)


@pytest.mark.slow
@both
def test_a_commit_whose_answer_is_lost_is_stored_once(
    name: str, new_database: NewDatabase, tmp_path: Path, chance: random.Random
) -> None:
    direct = new_database(name)
    request = {"postgres": Postgres, "mariadb": MariaDB}[name].commit
    port = sa.make_url(direct).port
    assert port is not None
    with Proxy(port) as proxy:
        url = through(direct, proxy.port)
        with (
            servers.running(tmp_path, database=url) as server,
            Desk(server, database=direct) as desk,
        ):
            begun = r"journal: cannot save \("
            while said(server, begun) < 5:
                desk.advance()
                sleep(chance.random() / 2)
                cuts = proxy.cuts
                proxy.cut_answer_to(request)
                until(lambda n=cuts: proxy.cuts > n, "a commit")  # type: ignore[misc]
                desk.advance()
                desk.verify_acked()
            desk.settle()
            desk.verify()
            check_incidents(server, begun, 5)


# Disks.


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of some MiB, in memory."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write a file until nothing more fits on its disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.slow
def test_a_full_disk_is_waited_for_and_can_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path, 32) as disk:
        url = f"sqlite:///{disk / 'collab.db'}"
        with (
            servers.running(tmp_path, database=url) as server,
            Desk(server, padding=500) as desk,
        ):
            desk.advance()
            fill(disk / "filling")
            stay_away(server, desk, 3)
            export = tmp_path / "export"
            command(server, "docs", "export", "one", "-o", str(export))
            assert desk.acked("one") <= {
                word.decode() for word in re.findall(rb"\d+-\d+", export.read_bytes())
            }
            desk.verify_acked()
            (disk / "filling").unlink()
            desk.advance()
            ready(server)
            desk.settle()
            desk.verify()
            check_incidents(server, r"cannot save \(.*make room on its disk\)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "error"), [("pwrite64", "EROFS"), ("fdatasync", "EIO")]
)
def test_a_disk_that_takes_nothing_is_waited_for(
    call: str, error: str, tmp_path: Path
) -> None:
    """A file system cannot be made read-only while it is written to; calls can fail."""
    with servers.running(tmp_path) as server, Desk(server) as desk:
        desk.advance()
        with meddling(server, call, f"error={error}", tmp_path):
            stay_away(server, desk, 3)
            desk.verify_acked()
        desk.advance()
        ready(server)
        desk.settle()
        desk.verify()
        check_incidents(server, r"cannot save \(.*see to its disk\)")
        server.kill()
        server.start()
        desk.verify()


# The clock.


CLOCK = """
import time

def shifted(real=time.time):
    with open({path!r}) as file:
        return real() + float(file.read())

time.time = shifted
"""
"""A module that each Python imports when it starts; it reads the clock wrongly."""


def test_a_clock_that_jumps_changes_no_order(tmp_path: Path) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(CLOCK.format(path=str(shift)))
    environment = {"PYTHONPATH": str(modules)}
    with (
        servers.running(tmp_path, environment=environment) as server,
        Desk(server) as desk,
    ):
        for hours in (0, -1, 2, 1):
            (tmp_path / "new").write_text(str(3600 * hours))
            (tmp_path / "new").rename(shift)
            desk.advance()
        desk.settle()
        desk.verify()
        with closing(sqlite3.connect(server.database)) as database:
            found = database.execute("SELECT at FROM updates ORDER BY position")
            times = [at for (at,) in found]
        assert max(times) - min(times) > 2 * 3600_000
        command(server, "compact")
        assert json.loads(command(server, "docs", "show", "one", "--json"))["snapshots"]
        desk.verify()
        server.restart()
        desk.verify()
        assert said(server, "ERROR") == 0


# Too much.


@pytest.mark.slow
async def test_who_writes_more_than_can_be_kept_has_to_wait(
    new_database: NewDatabase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    direct = new_database("postgres")
    port = sa.make_url(direct).port
    assert port is not None
    limit = 256 * 1024
    with Proxy(port) as proxy:
        async with servers.serving(
            tmp_path,
            limits=Limits(unsaved_size=limit),
            database=through(direct, proxy.port),
        ) as server:

            def live() -> None:
                with Desk(
                    ports=[server.port], database=direct, padding=2000, pause=0.002
                ) as desk:
                    desk.advance()
                    proxy.refuse()
                    proxy.cut()
                    until(
                        lambda: all(typist.waiting for typist in desk.typists),
                        "nobody is read from",
                    )
                    rooms = list(server.hub.rooms.values())
                    assert server.hub.overloaded
                    unsaved = sum(room.ledger.size for room in rooms)
                    assert unsaved < limit + 2**20
                    proxy.mend()
                    desk.settle()
                    desk.verify()

            await asyncio.to_thread(live)
            assert not server.hub.overloaded
        assert "no longer reading" in caplog.text


SICK = {
    "sqlite": (
        "CREATE TRIGGER sick BEFORE INSERT ON updates WHEN NEW.document_id = {id}"
        " BEGIN SELECT RAISE(ABORT, 'not this one'); END",
    ),
    "postgres": (
        "CREATE FUNCTION sick() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'not this one'; END $$",
        "CREATE TRIGGER sick BEFORE INSERT ON updates FOR EACH ROW"
        " WHEN (NEW.document_id = {id}) EXECUTE FUNCTION sick()",
    ),
    "mariadb": (
        "CREATE TRIGGER sick BEFORE INSERT ON updates FOR EACH ROW"
        " IF NEW.document_id = {id} THEN"
        " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF",
    ),
}


@pytest.mark.slow
@each
async def test_a_document_that_cannot_be_saved_stops_no_other(
    name: str,
    new_database: NewDatabase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    url = new_database(name)
    limit = 1 << 20
    async with servers.serving(
        tmp_path, limits=Limits(unsaved_size=limit), database=url
    ) as server:

        def live() -> None:
            with Desk(ports=[server.port], database=url, padding=1000) as desk:
                desk.advance()
                room = server.hub.rooms["one"]
                number = room.document_id
                execute(url, *[line.format(id=number) for line in SICK[name]])
                until(lambda: room in server.hub.journal.ill)
                desk.hear_each_other()
                until(lambda: room.blocked, "only its clients wait")
                assert server.hub.ready
                assert not server.hub.overloaded
                assert limit / 4 < room.ledger.size < limit / 2
                desk.hear_each_other("two", "three")
                desk.advance("two", "three")
                desk.verify_acked()
                on = " ON updates" if name == "postgres" else ""
                execute(url, f"DROP TRIGGER sick{on}")
                desk.advance()
                desk.settle()
                desk.verify()

        await asyncio.to_thread(live)
        assert caplog.text.count("one: cannot save (") == 1
        assert caplog.text.count("one: saved again") == 1


# Deleted documents.


def sent_away(desk: Desk, room: str) -> None:
    """Wait until all typists in a room were told that it is gone, again and again."""
    before = [(typist, len(typist.closes)) for typist in desk.of(room)]
    for typist, known in before:
        until(
            lambda t=typist, n=known: len(t.closes) >= n + 2,  # type: ignore[misc]
            f"{typist.client} is sent away",
        )
        assert {code for code, _ in typist.closes} == {4404}


@pytest.mark.slow
@each
def test_a_document_that_is_deleted_while_it_is_open_is_gone(
    name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database(name)
    with (
        servers.running(tmp_path, database=url) as server,
        Desk(server, each=1) as desk,
        Desk(server, rooms=["idle"], each=1) as idle,
    ):
        desk.advance()
        idle.settle()
        with enter(server.port, "/ws/idle") as seat:
            command(server, "docs", "delete", "one", "idle")
            assert seat.read_close()[0] == 4404
        sent_away(desk, "one")
        sent_away(idle, "idle")
        logged = read_log(url, "one")
        assert desk.acked("one") <= logged.words
        desk.advance("two", "three")
        sent_away(desk, "one")
        assert read_log(url, "one") == logged
        command(server, "docs", "restore", "one")
        desk.advance()
        command(server, "docs", "purge", "--yes", "two", "idle")
        sent_away(desk, "two")
        desk.advance("one", "three")
        sent_away(desk, "two")
        with connected(url) as connection:
            count = "SELECT COUNT(*) FROM documents"
            assert connection.exec_driver_sql(count).scalar() == 4
        assert read_log(url, "two") == read_log(url, "idle") == (0, [], [])
        for typist in desk.of("two"):
            typist.leave()
        desk.rooms = ["one", "three"]
        desk.typists = desk.of("one", "three")
        desk.settle()
        desk.verify()
        assert said(server, "ERROR") == 0


# Several servers.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_two_servers_on_one_database_show_the_same(
    name: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    url = new_database(name)
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        folder.mkdir()
    with (
        servers.running(folders[0], database=url) as here,
        servers.running(folders[1], database=url) as there,
        Desk(there, here) as desk,
    ):
        desk.hear_each_other()
        desk.settle()
        desk.verify()
        for typist in desk.typists:
            typist.typing = True
        desk.hear_each_other()
        for typist in desk.typists:
            typist.port = there.port
        assert here.terminate() == 0
        desk.verify_acked()
        desk.hear_each_other()
        desk.settle()
        desk.verify(repeats=True)
        for server in (here, there):
            assert said(server, "ERROR") == 0, server.log()


# The end.


@pytest.mark.slow
def test_two_hundred_clients_are_told_to_come_back(tmp_path: Path) -> None:
    rooms = [f"room-{number}" for number in range(10)]
    with (
        servers.running(tmp_path) as server,
        Desk(server, rooms=["deaf"], each=1, padding=20_000, pause=0.005) as loud,
        Desk(server, rooms=rooms, each=1, pause=0.1) as desk,
    ):
        deaf = enter(server.port, "/ws/deaf", small=True)
        seats = [enter(server.port, f"/ws/{room}") for room in rooms for _ in range(19)]
        until(lambda: loud.count > 300, "more is sent than fits between us")
        loud.rest()
        desk.advance()
        began = monotonic()
        assert server.terminate() == 0
        assert monotonic() - began < 10
        for seat in seats:
            assert seat.read_close() == (1012, "service restart")
            seat.socket.close()
        deaf.socket.close()
        for crowd in (desk, loud):
            crowd.verify_acked()
        server.start()
        for crowd in (desk, loud):
            crowd.settle()
            crowd.verify()
            assert {close for typist in crowd.typists for close in typist.closes} == {
                (1012, "service restart")
            }


# What an acknowledgement waits for.


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_postgresql_has_an_edit_on_disk_before_its_author_is_told(
    postgres: DatabaseServer, tmp_path: Path
) -> None:
    url = postgres.create_database()
    with servers.running(tmp_path, database=url) as server:
        raw = enter(server.port, "/ws/a")
        words = [f"marked-{number}-edit" for number in range(10)]
        output = tmp_path / "strace"
        with traced([server.pid, *postgres.pids()], output):
            clock = 0
            for word in words:
                message = edit(insert(1, word, clock))
                clock += len(word)
                # With a mask of zeros the word can be found in the trace.
                raw.send_frame(BINARY, message, mask=bytes(4))
                raw.hear_until(message)
        raw.socket.close()
    lines = output.read_text().splitlines()
    # Of a call that others come in between, the end is a line of its own.
    ended = re.compile(r"sync(\(| resumed>).*= 0$")
    synced = [n for n, line in enumerate(lines) if ended.search(line)]
    for word in words:
        seen = [n for n, line in enumerate(lines) if word in line]
        # From the client to us, to PostgreSQL (sent and received), and to the client.
        heard = [n for n in seen if re.search(r" (read|recv\w+)[( ]", lines[n])]
        assert len(heard) == 2, [lines[n] for n in seen]
        told = seen[-1]
        assert re.search(r" (write\w*|send\w+)\(", lines[told])
        assert any(heard[1] < number < told for number in synced), word


@contextmanager
def traced(pids: list[int], output: Path) -> Iterator[None]:
    """Write down what processes read, write and have on disk."""
    calls = "trace=fsync,fdatasync,read,recvfrom,recvmsg,write,sendto,sendmsg,writev"
    command = ["strace", "-f", "-e", calls, "-s", "4096", "-o", str(output)]
    with attached([*command, *(f"-p{pid}" for pid in pids)], len(pids)):
        yield
