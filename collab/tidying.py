"""Old edits, merged and discarded: how much of a document's past is kept.

All of it is, unless somebody says otherwise. What is older than a day is thinned: the
rows of one author and one minute become one. What is older than the history shall be is
discarded, once a snapshot stands for it that was read back from the database.

Whatever is done here may be stopped at any moment, be done twice, or by two nodes at
once: each step is a transaction that leaves the document as it is.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import NamedTuple

from .compaction import compact, summarize
from .databases import Database
from .errors import CollabError, StoreError
from .history import History, Retention, State
from .store import Store
from .thinning import thin

DAY = 24 * 3600 * 1000
"""Milliseconds between two times that a document is tidied."""

THIN_AGE = DAY
"""Milliseconds after which rows are merged: until then every edit stands alone."""

MERGED = 50
"""Rows that are written in one transaction, in place of many."""

PAGES = 500
"""Pages of a file that are given back in one transaction: 2 MB."""

SWEEP = 100
"""Documents that are looked at in one step of a sweep..."""

SWEEP_TIME = 1.0
"""...and seconds that it takes, and the document that it is at."""


class Tidied(NamedTuple):
    """What became of a document's rows."""

    merged: int
    """Positions that have no row of their own any more."""
    rows: int
    """Rows that stand for them."""
    discarded: int
    """Rows that are gone."""


def tidy(
    store: Store, name: str, retention: Retention, now: int, age: int = THIN_AGE
) -> Tidied:
    """Merge and discard the rows of a document that came of age by a time.

    ``now`` and ``age`` are milliseconds. A document that is gone is left alone.

    Raises:
        StoreError: If something is damaged, or the database fails. What was done until
            then stays.
    """
    history = History(store.database)
    state = history.state(name)
    if state is None:
        return Tidied(0, 0, 0)
    horizon = _horizon(history, state, retention, now)
    if horizon is not None:
        _stand_for(store, history, name, state.document_id, horizon)
        state = history.state(name)
        if state is None:
            return Tidied(0, 0, 0)
    history.prune(state.document_id)
    merged = rows = 0
    if retention.age != 0:
        merged, rows = _thin(store, history, name, state, now - age)
    discarded = 0
    while count := history.discard(state.document_id, state.base):
        discarded += count
    if merged or discarded:
        give_back(store.database)
    history.tidied(state.document_id, now)
    return Tidied(merged, rows, discarded)


def _horizon(
    history: History, state: State, retention: Retention, now: int
) -> int | None:
    """The position up to which rows are to be discarded, if any are."""
    if retention.age is None:
        return None
    if retention.age == 0:
        horizon: int | None = state.newest
    else:
        cutoff = now - retention.age
        horizon = history.horizon(state.document_id, state.base, cutoff)
        if horizon is None:
            horizon = state.head
    return horizon if horizon is not None and horizon > state.base else None


def _stand_for(
    store: Store, history: History, name: str, document_id: int, horizon: int
) -> None:
    """Let a snapshot stand for all that is older; make it, if there is none."""
    if not store.verify_snapshot(document_id, horizon):
        stored = store.read_at(name, horizon)
        if stored.document_id != document_id:
            return
        snapshot = summarize(stored)
        if not store.write_snapshot(document_id, horizon, *snapshot):
            return
        if not store.verify_snapshot(document_id, horizon):
            raise StoreError(f"snapshot {horizon} cannot be read back")
    history.raise_base(document_id, horizon)


def _thin(
    store: Store, history: History, name: str, state: State, cutoff: int
) -> tuple[int, int]:
    """Merge rows that are behind a snapshot, and old; return positions and rows."""
    if state.newest is None:
        return 0, 0
    document_id = state.document_id
    until = history.horizon(document_id, state.base, cutoff)
    until = state.newest if until is None else min(until, state.newest)
    if until <= state.base:
        return 0, 0
    base = store.read_at(name, state.base).snapshot
    found = thin(
        history.rows(document_id, state.base, until),
        snapshot=None if base is None else (base.state, base.index),
        keep=history.landmarks(document_id),
    )
    merged = written = 0
    while batch := list(islice(found, MERGED)):
        if not history.merge(document_id, batch):
            break  # Another node is at it.
        merged += sum(row.rows - 1 for row in batch)
        written += len(batch)
    return merged, written


def give_back(database: Database) -> None:
    """Give disk space that is not used any more back to the system, in small steps."""
    left = None
    while True:
        with database.writing() as connection:
            before, left = left, database.reclaim(connection, PAGES)
        if not left or left == before:
            break
    database.settle()


def freshen(store: Store, name: str, retention: Retention, now: int) -> None:
    """Do what must not wait behind a new snapshot, and the rest once a day.

    Raises:
        StoreError: As :func:`tidy`.
    """
    history = History(store.database)
    state = history.state(name)
    if state is None:
        return
    if retention.age == 0 or state.tidied_at < now - DAY:
        tidy(store, name, retention, now)
    else:
        history.prune(state.document_id)


def sweep(
    store: Store, after: str, retention: Retention, now: int
) -> tuple[str | None, list[str]]:
    """Tidy some of the documents in which rows came of age, by name.

    Returns the name to go on behind, ``None`` at the end, and what went wrong.
    """
    history = History(store.database)
    age = THIN_AGE if retention.age is None else max(THIN_AGE, retention.age)
    found = history.untidy(after, now - DAY, age, SWEEP)
    until = time.monotonic() + SWEEP_TIME
    failures = []
    for name in found:
        try:
            if retention.age == 0:
                compact(store, name)
            tidy(store, name, retention, now)
        except CollabError as exc:
            failures.append(f"{name}: {exc}")
        after = name
        if time.monotonic() > until:
            return after, failures
    return (after if len(found) == SWEEP else None), failures
