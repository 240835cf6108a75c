"""Revocations in the database: one row after the other, for all processes that serve.

A row is given the number behind the last one that has committed, so they commit in the
order of their numbers: who has read up to a number has missed none before it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from math import ceil, isfinite
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row, text

from .auth import MAX_WHO, is_who
from .databases import Database
from .errors import DatabaseUnreachable, NotRevoked, StoreError
from .patterns import check_pattern
from .revoked import Revocation
from .schema import Name

PAGE = 1000
"""Rows that are read in one statement."""

ATTEMPTS = 20
"""How often a number is tried to be had, that others want at the same time."""

PAUSE = 0.05
"""Seconds between two of these attempts, at most."""

KEPT = 30 * 24 * 3600 * 1000
"""Milliseconds for which rows are kept that are over: a process that had no database
for a while must still hear that something was undone."""

LAST = 253402300799.0
"""The end of the year 9999: later times are mistakes."""

_COLUMNS = "id, kind, account, token, document, issued_before, until, undoes, at"
_SINCE = text(
    f"SELECT {_COLUMNS} FROM revocations WHERE id >= :first ORDER BY id LIMIT :limit"
).columns(document=Name)
_LAST = text("SELECT MAX(id) FROM revocations")
_INSERT = text(
    f"INSERT INTO revocations ({_COLUMNS}) VALUES"
    " (:id, :kind, :account, :token, :document, :issued_before, :until, :undoes, :at)"
).bindparams(sa.bindparam("document", type_=Name))
_OVER = text("DELETE FROM revocations WHERE until < :old AND id < :last")
_END = text(
    "UPDATE revocations SET until = :now WHERE id = :id AND kind = 'revoke'"
    " AND (until IS NULL OR until > :now)"
)


def revocation(
    user: str | None = None,
    token: str | None = None,
    document: str | None = None,
    issued_before: float | None = None,
    until: float | None = None,
    kick: bool = False,
) -> Revocation:
    """A revocation that can be made.

    Raises:
        ValueError: If it says nothing of who is meant, or something that cannot be.
        BadName: If the document is no name, and no pattern.
    """
    if user is None and token is None and document is None and issued_before is None:
        raise ValueError("say who is meant: a user, a token, a document, or a time")
    for what, value in (("user", user), ("token", token)):
        if value is not None and not (value and is_who(value)):
            raise ValueError(f"a {what} is a text of 1 to {MAX_WHO} characters")
    if document is not None:
        check_pattern(document)
    for at in (issued_before, until):
        if at is not None and not (isfinite(at) and 0 < at <= LAST):
            raise ValueError(f"{at!r} is not a time in seconds since 1970")
    return Revocation(0, user, token, document, issued_before, until, kick=kick)


class Revocations:
    """The revocations of a database.

    Every method may raise a :class:`~collab.errors.StoreError`; it has changed nothing
    then. They block, and may be called from any thread.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, revocation: Revocation) -> int:
        """Make a revocation for all processes; return its number."""
        now = _milliseconds(time.time())
        before = revocation.issued_before
        over = now if revocation.kick else _milliseconds(revocation.until)
        return self._append(
            {
                "kind": "kick" if revocation.kick else "revoke",
                "account": revocation.user,
                "token": revocation.token_id,
                "document": revocation.document,
                "issued_before": None if before is None else ceil(before * 1000),
                "until": over,
                "undoes": None,
                "at": now,
            }
        )

    def undo(self, number: int) -> None:
        """Take a revocation back.

        Raises:
            NotRevoked: If there is none of that number, or it is over.
        """
        now = _milliseconds(time.time())
        values = dict.fromkeys(("account", "token", "document", "issued_before"))
        self._append(
            {**values, "kind": "undo", "until": now, "undoes": number, "at": now}
        )

    def _append(self, values: dict[str, Any]) -> int:
        for attempt in range(ATTEMPTS):
            try:
                return self._try(values)
            except (DatabaseUnreachable, NotRevoked):
                raise
            except StoreError:  # Somebody else has taken the number.
                if attempt == ATTEMPTS - 1:
                    raise
                # At random moments, or the slowest would never have one.
                time.sleep(random.uniform(0, PAUSE))
        raise AssertionError("unreachable")

    def _try(self, values: dict[str, Any]) -> int:
        now, undoes = values["at"], values["undoes"]
        with self.database.writing() as connection:
            last = connection.execute(_LAST).scalar() or 0
            if undoes is not None:
                ended = connection.execute(_END, {"id": undoes, "now": now})
                if not ended.rowcount:
                    raise NotRevoked(undoes)
            connection.execute(_INSERT, {**values, "id": last + 1})
            # Never the newest: its number would be given away again.
            connection.execute(_OVER, {"old": now - KEPT, "last": last})
            return int(last) + 1

    def since(self, number: int) -> list[Revocation]:
        """That of a number and those behind it, in order; not all if it is many."""
        where = {"first": number, "limit": PAGE}
        with self.database.reading() as connection:
            return [_read(row) for row in connection.execute(_SINCE, where)]

    def listing(self) -> Iterator[Revocation]:
        """All that are not over, in order."""
        now, number = time.time(), 0
        while found := self.since(number):
            for each in found:
                if each.undoes is None and (each.until is None or each.until > now):
                    yield each
            number = found[-1].number + 1


def _read(row: Row[Any]) -> Revocation:
    return Revocation(
        row.id,
        row.account,
        row.token,
        row.document,
        _seconds(row.issued_before),
        _seconds(row.until),
        row.at / 1000,
        row.kind == "kick",
        row.undoes,
    )


def _milliseconds(at: float | None) -> int | None:
    return None if at is None else round(at * 1000)


def _seconds(at: int | None) -> float | None:
    return None if at is None else at / 1000
