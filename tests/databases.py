"""Database servers to test against: real ones, started here and ended here.

::

    with databases.Postgres() as server:        # or MariaDB
        url = server.create_database()          # for SQLAlchemy; fresh and empty
        server.kill()                           # kill -9
        server.start()                          # same port, same data
        databases.through(url, proxy.port)      # the same, through a proxy

They listen on loopback, want a password, write to a disk and wait for it (fsync).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import psycopg
import pymysql
from sqlalchemy import URL, make_url

from scripts.databases import MARIADB, POSTGRES, Programs

START_TIME = 60.0
"""Seconds that a server has to answer: a busy machine is slow, not wrong."""

STOP_TIME = 30.0
"""Seconds that it has to end by itself."""

USER = "collab"

PORTS = range(20_000, 32_000)
"""Where a port is free and stays so while its server is down: below those that the
kernel gives to connections."""

IPC_RMID = 0
"""``shmctl``: remove it."""

GUARD = """
while read -r line; do pids=$line; done
if [ -n "$pids" ]; then
  kill -QUIT $pids; kill -CONT $pids; sleep 1; kill -KILL $pids
fi 2>/dev/null
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""
"""A shell that removes a server's directory when we close its input, or are gone, and
ends the processes in the last line that it was told."""


class ServerMissing(Exception):
    """Raised when the programs of a server are not there; says what to install."""


class DatabaseServer(ABC):
    """A database server on a free port of loopback, with a directory of its own.

    With ``tls``, the files of a certificate and its key, it offers TLS too.

    Raises:
        ServerMissing: If this machine has no such server.
        RuntimeError: If it does not start; with its log.
    """

    programs: ClassVar[Programs]
    driver: ClassVar[str]
    """What its URLs begin with."""
    commit: ClassVar[bytes]
    """What its driver sends to commit, and only then."""
    stopping: ClassVar[signal.Signals]
    """Makes it write everything down and end, whoever is connected."""
    abandoning: ClassVar[signal.Signals]
    """Ends it at once."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        programs = self.programs.folder()
        if programs is None:
            raise ServerMissing(self.programs.missing())
        self.bin = programs
        self.port = free_port()
        # As a user may choose it: with what must be escaped in a URL.
        self.password = f"p@ss/w%rd:{secrets.token_hex(4)}"
        self.numbers = count(1)
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen: list[int] = []
        # Not below pytest's directories, which are private: the owner is another user.
        disk = "/var/tmp" if os.path.isdir("/var/tmp") else None
        self.folder = Path(tempfile.mkdtemp(prefix="collab-", dir=disk))
        self.data = self.folder / "data"
        self.log_file = self.folder / "log"
        self.guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", self.folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._own(self.folder)
            self.tls = tls and (
                self._write("cert.pem", tls[0].read_text()),
                self._write("key.pem", tls[1].read_text()),
            )
            self._create()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what differs between them

    @abstractmethod
    def _create(self) -> None:
        """Make the files of an empty server."""

    @abstractmethod
    def _command(self) -> list[str | Path]:
        """The server's command line."""

    @abstractmethod
    def _execute(self, statement: str) -> None:
        """Run a statement over a connection of its own.

        Raises:
            ConnectionError: If the server does not let us in (yet).
        """

    # --- databases

    def create_database(self, options: str = "") -> str:
        """Make an empty database and return its URL.

        ``options`` is the end of the statement: ``"CHARACTER SET latin1"``.
        """
        name = f"test_{next(self.numbers)}"
        self._execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        url = URL.create(self.driver, USER, self.password, "127.0.0.1", self.port, name)
        return url.render_as_string(hide_password=False)

    # --- its life

    def start(self) -> None:
        """Start it and wait until it answers; later times on the same port.

        Raises:
            RuntimeError: If it ends, or takes too long.
        """
        assert self.process is None, "it runs"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_owner(),
            )
        self._watch([self.process.pid])
        deadline = time.monotonic() + START_TIME
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                self._execute("SELECT 1")
            except ConnectionError:
                time.sleep(0.02)
            else:
                return
        self.kill()
        raise RuntimeError(f"{self.programs.name} did not start:\n{self.log()}")

    def stop(self) -> None:
        """Let it write everything down and end; connections are closed."""
        self._end(self.stopping)

    def kill(self) -> None:
        """SIGKILL to all of its processes, and wait until they are gone."""
        if self.process is None:
            return
        self.pause()
        for pid in self.frozen:
            send(pid, signal.SIGKILL)
        self.process.wait()
        for pid in self.frozen:
            wait_for(pid, "Z")
        self._ended()

    def restart(self) -> None:
        """Stop it, unless it is stopped, and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP to all of its processes: connections stay, and nothing answers."""
        # The first one first, and while there are new ones: who is stopped makes none.
        while new := [pid for pid in self.pids() if pid not in self.frozen]:
            for pid in new:
                send(pid, signal.SIGSTOP)
                wait_for(pid, "TZ")
            self.frozen += new
        self._watch(self.frozen)

    def resume(self) -> None:
        """SIGCONT to all of its processes."""
        for pid in self.frozen:
            send(pid, signal.SIGCONT)
        self.frozen = []
        self._watch([self.process.pid] if self.process else [])

    def close(self) -> None:
        """End it and remove its directory."""
        self._end(self.abandoning)
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait()

    def pids(self) -> list[int]:
        """Its processes, that which started the others first; ``[]`` if it is down."""
        if self.process is None or self.process.poll() is not None:
            return []
        parents = {int(path.name): parent(int(path.name)) for path in processes()}
        found = [self.process.pid]
        for pid in found:
            found += [child for child in parents if parents[child] == pid]
        return [pid for pid in found if state(pid) not in "Z"]

    def log(self) -> str:
        """All that it wrote, since the first start."""
        return self.log_file.read_text(errors="replace")

    def _end(self, how: signal.Signals) -> None:
        """Ask it to end, and kill it if it does not."""
        if self.process is None:
            return
        self.resume()
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._ended()

    def _ended(self) -> None:
        self.process = None
        self.frozen = []
        self._watch([])

    def _watch(self, pids: list[int]) -> None:
        """Tell the guard which processes must not outlive us."""
        assert self.guard.stdin is not None
        self.guard.stdin.write(f"{' '.join(map(str, pids))}\n".encode())
        self.guard.stdin.flush()

    # --- its owner, who is not root: PostgreSQL refuses to run as root

    def _as_owner(self) -> dict[str, Any]:
        """How ``subprocess`` runs something as the owner, out of reach of Ctrl-C."""
        options: dict[str, Any] = {"cwd": self.folder, "start_new_session": True}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid}
            options |= {"extra_groups": []}
        return options

    def _run(self, command: list[str | Path], stdin: str = "") -> None:
        """Run a program as the owner.

        Raises:
            RuntimeError: If it fails; with what it said.
        """
        done = subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._as_owner(),
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}")

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)

    def _write(self, name: str, text: str) -> Path:
        """Make a file that only the owner can read."""
        path = self.folder / name
        path.touch(0o600)
        path.write_text(text)
        self._own(path)
        return path


class Postgres(DatabaseServer):
    """A PostgreSQL server; passwords by SCRAM."""

    programs = POSTGRES
    driver = "postgresql+psycopg"
    commit = b"COMMIT"
    stopping = signal.SIGINT
    abandoning = signal.SIGQUIT

    def _create(self) -> None:
        password = self._write("password", self.password)
        self._run(
            [
                self.bin / "initdb",
                f"--pgdata={self.data}",
                f"--username={USER}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ]
        )

    def _command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            # In its directory and not in /dev/shm, where kill -9 would leave it.
            "dynamic_shared_memory_type": "mmap",
        }
        if self.tls:
            settings |= {"ssl": "on", "ssl_cert_file": str(self.tls[0])}
            settings |= {"ssl_key_file": str(self.tls[1])}
        return [
            *(self.bin / "postgres", "-D", self.data, "-p", str(self.port)),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def _execute(self, statement: str) -> None:
        try:
            connection = psycopg.connect(
                host="127.0.0.1",
                port=self.port,
                user=USER,
                password=self.password,
                dbname="postgres",
                autocommit=True,
            )
        except psycopg.OperationalError as exc:
            raise ConnectionError(str(exc)) from exc
        with closing(connection):
            connection.execute(statement.encode())

    def kill(self) -> None:
        super().kill()
        # Until it starts again, perhaps never, a shared memory segment would be left.
        lock = self.data / "postmaster.pid"
        lines = lock.read_text().splitlines() if lock.exists() else []
        if len(lines) > 6 and (ids := lines[6].split()):
            ctypes.CDLL(None).shmctl(int(ids[1]), IPC_RMID, None)


class MariaDB(DatabaseServer):
    """A MariaDB server; passwords by ``mysql_native_password``, its default."""

    programs = MARIADB
    driver = "mysql+pymysql"
    # A query. AUTOCOMMIT, which is set for each connection, is another.
    commit = b"\x03COMMIT"
    stopping = signal.SIGTERM
    abandoning = signal.SIGKILL

    @property
    def scripts(self) -> Path:
        """The directory of its messages, and of the SQL that makes its own tables."""
        share = self.bin.parent / "share"
        for folder in (share / "mariadb", share / "mysql", share):
            if list(folder.glob("m*_system_tables.sql")):
                return folder
        raise ServerMissing(f"there is no m*_system_tables.sql in {share}")

    def _create(self) -> None:
        # What mariadb-install-db does, which needs programs from other packages. The
        # tables with help, time zones and statistics are left out.
        self.data.mkdir()
        self._own(self.data)
        (tables,) = self.scripts.glob("m*_system_tables.sql")
        self._run(
            [*self._options(), "--bootstrap", "--innodb-flush-method=nosync"],
            f"CREATE DATABASE mysql;\nUSE mysql;\n{tables.read_text()}",
        )
        self._write(
            "init.sql",
            f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {USER}@'%';\n",
        )

    def _options(self) -> list[str | Path]:
        return [
            self.bin / "mariadbd",
            "--no-defaults",
            f"--datadir={self.data}",
            f"--tmpdir={self.folder}",
            f"--lc-messages-dir={self.scripts}",
            "--innodb-data-file-path=ibdata1:12M:autoextend",
            "--innodb-autoextend-increment=8",
            "--innodb-buffer-pool-size=64M",
        ]

    def _command(self) -> list[str | Path]:
        command = [
            *self._options(),
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--init-file={self.folder / 'init.sql'}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-allowed-packet=256M",
            "--innodb-flush-log-at-trx-commit=1",
        ]
        if self.tls:
            command += [f"--ssl-cert={self.tls[0]}", f"--ssl-key={self.tls[1]}"]
        else:
            # Since 11.4 it would make a certificate itself.
            command.append("--skip-ssl")
        return command

    def _execute(self, statement: str) -> None:
        try:
            connection = pymysql.connect(
                host="127.0.0.1", port=self.port, user=USER, password=self.password
            )
        except pymysql.err.OperationalError as exc:
            raise ConnectionError(str(exc)) from exc
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)


def through(url: str, port: int) -> str:
    """The same database, at another port of this machine: that of a proxy."""
    return make_url(url).set(port=port).render_as_string(hide_password=False)


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with closing(socket.socket()) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


# --- processes (Linux)


def processes() -> list[Path]:
    """Where the kernel tells of each process."""
    return list(Path("/proc").glob("[0-9]*"))


def status(pid: int) -> list[str]:
    """What is known of a process after its name: its state, its parent and so on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # It is gone.
        return []


def state(pid: int) -> str:
    """``T``: stopped; ``Z``: dead, its parent has not noticed; empty: gone."""
    return (status(pid) or [""])[0]


def parent(pid: int) -> int:
    """The process that started this one; 0 if it is gone."""
    return int((status(pid) or ["", "0"])[1])


def send(pid: int, what: signal.Signals) -> None:
    """Send a signal, unless the process is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, what)


def wait_for(pid: int, states: str) -> None:
    """Wait until a process is in one of these states, or gone."""
    deadline = time.monotonic() + STOP_TIME
    while state(pid) not in states:
        assert time.monotonic() < deadline, f"process {pid} is still {state(pid)}"
        time.sleep(0.001)
