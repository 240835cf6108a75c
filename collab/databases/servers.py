"""Databases behind a network: connections come from pools, and may be lost."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError

from ..errors import DatabaseUnreachable
from .base import Database

CONNECT_TIMEOUT = 10
"""Seconds that a server may take to accept a connection."""

LOCK_TIMEOUT = 2
"""Seconds to wait for a row that somebody else has locked: others wait with us."""

SILENCE = 30
"""Seconds after which a connection that was not used is tried before it is."""

_POOL_SETTINGS = {
    "pool_size": int,
    "max_overflow": int,
    "pool_timeout": float,
    "pool_recycle": int,
}
"""Parameters of a URL that are SQLAlchemy's, and not the driver's."""


class Server(Database):
    """A database that is a server, with an engine for reading and one for writing."""

    extra: ClassVar[str]
    port: ClassVar[int]
    tls: ClassVar[str]
    """What to do when a connection can't be encrypted, or the server is a stranger."""

    def __init__(self, url: str, parsed: sa.URL, arguments: dict[str, Any]) -> None:
        super().__init__(url, parsed)
        if not parsed.database:
            advice = f"write {parsed.drivername.partition('+')[0]}://.../NAME"
            raise DatabaseUnreachable(f"{self} names no database; {advice}")
        self._parsed = parsed
        query = dict(parsed.query)
        pool: dict[str, Any] = {"pool_size": 5, "max_overflow": 5}
        try:
            for setting, convert in _POOL_SETTINGS.items():
                if setting in query:
                    pool[setting] = convert(str(query.pop(setting)))
        except ValueError:
            raise DatabaseUnreachable(f"{setting} in {self} is not a number") from None
        parsed = parsed.set(query=query)
        arguments = {k: v for k, v in arguments.items() if k not in query}
        try:
            self._readers = self._engine(parsed, arguments, "REPEATABLE READ", pool)
            self._writers = self._engine(parsed, arguments, "READ COMMITTED", pool)
        except ImportError as exc:  # Or it is there, and a library that it needs isn't.
            raise DatabaseUnreachable(
                f"{self} needs the Python package {exc.name or exc}; install it with"
                f" pip install 'collab-server[{self.extra}]'"
            ) from None
        except (NoSuchModuleError, ArgumentError, TypeError, ValueError) as exc:
            raise DatabaseUnreachable(f"cannot use {self}: {exc}") from None
        event.listen(self._writers, "connect", self._configure)

    def _engine(
        self,
        parsed: sa.URL,
        arguments: dict[str, Any],
        isolation: Any,
        pool: dict[str, Any],
    ) -> sa.Engine:
        engine = sa.create_engine(
            parsed,
            connect_args=arguments,
            isolation_level=isolation,
            hide_parameters=True,  # What somebody wrote is not for logs.
            # Each transaction is ended, so that there is nothing to be rolled back. It
            # would be a round trip in MySQL, and if that failed, a line in the log.
            pool_reset_on_return=None,
            **pool,
        )
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "checkout", self._try)
        event.listen(engine, "checkin", _note_use)
        return engine

    def _connect(
        self,
        dialect: sa.Dialect,
        record: object,
        arguments: Sequence[Any],
        options: dict[str, Any],
    ) -> Any:
        """Connect; not all that drivers say of a URL is an error of a database."""
        assert dialect.loaded_dbapi is not None
        refused = dialect.loaded_dbapi.ProgrammingError
        try:
            return dialect.connect(*arguments, **options)
        except OSError as exc:  # A file that the URL names.
            message = f"cannot use the database {self}: {exc}; {self.tls}"
            raise DatabaseUnreachable(message) from exc
        except (TypeError, ValueError, RuntimeError, refused) as exc:
            message = f"cannot connect with {self}: {exc}"
            raise DatabaseUnreachable(message) from exc

    def _try(self, connection: Any, record: Any, _: object) -> None:
        """Try a connection that was not used for a while: it may be dead.

        SQLAlchemy would try it before each transaction: one more wait in each commit.
        """
        used = record.info.get("used")
        if used is None or time.monotonic() - used < SILENCE:
            return
        try:
            alive = self._writers.dialect.do_ping(connection)
        except Exception as exc:
            raise DisconnectionError from exc
        if not alive:
            raise DisconnectionError

    @abstractmethod
    def _configure(self, connection: Any, record: object) -> None:
        """Prepare a connection that is going to write."""

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self.translated(), self._writers.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.translated(), self._readers.begin() as connection:
            yield connection

    def close(self) -> None:
        self._readers.dispose()
        self._writers.dispose()

    def settle(self) -> None:
        """A server looks after its log by itself."""

    @property
    def _place(self) -> str:
        host = self._parsed.host or "localhost"
        return f"{host}:{self._parsed.port or self.port}"


def _note_use(_: object, record: Any) -> None:
    record.info["used"] = time.monotonic()
