"""Old edits are merged and discarded, and what is kept can be read exactly."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pycrdt import Doc, Text
from sqlalchemy import text

from collab.catalog import Catalog, Description
from collab.compaction import compact
from collab.document import Document
from collab.errors import CollabError, NotKept, StoreError
from collab.folding import fold
from collab.history import History, Retention
from collab.joining import same
from collab.store import Append, Store
from collab.tidying import DAY, Tidied, freshen, sweep, tidy
from collab.upkeep import check
from tests import traces
from tests.databases import DatabaseServer
from tests.traces import generate

NOW = 2_000_000_000_000
"""Milliseconds: the time at which tests look after documents."""

FOREVER, MONTH, NONE = Retention(), Retention(30 * DAY), Retention(0)
SEED = int(os.environ.get("TIDY_SEED", random.SystemRandom().randrange(2**32)))
DATABASES = ["sqlite", "postgres", "mariadb"]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    server: DatabaseServer = request.getfixturevalue(kind)
    return server.create_database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = opened(url)
    yield store
    store.close()


def opened(url: str) -> Store:
    store = Store(url)
    store.open()
    return store


class Writing:
    """A document that somebody wrote, at a time that can be chosen."""

    def __init__(self, store: Store, name: str = "d") -> None:
        self.store = store
        self.name = name
        self.updates: list[bytes] = []

    def write(
        self, updates: list[bytes], start: int, pace: int = 1000, author: str = "ann"
    ) -> None:
        """Append updates, the first at a time, and one every ``pace`` ms."""
        first = len(self.updates) + 1
        for at in range(0, len(updates), 500):
            part = [(update, author) for update in updates[at : at + 500]]
            self.store.append([Append(self.name, part)])
        self.updates += updates
        with self.store.database.writing() as connection:
            connection.execute(
                text(
                    "UPDATE updates SET at = :start + (position - :first) * :pace"
                    " WHERE position >= :first AND document_id = :id"
                ),
                {"start": start, "first": first, "pace": pace, "id": self.id},
            )

    @property
    def id(self) -> int:
        document_id = self.store.load(self.name).document_id
        assert document_id is not None
        return document_id

    def described(self) -> Description:
        found = Catalog(self.store.database).describe(self.name)
        assert found is not None
        return found

    def kept(self) -> list[int]:
        """The positions at which it can be read."""
        described = self.described()
        rows = History(self.store.database).rows(self.id, 0, described.head)
        return [described.base, *(row.position for row in rows)]

    def check(self, positions: list[int] | None = None) -> None:
        """Read it as it is and was, and compare with what was written."""
        wanted = set(self.kept() if positions is None else positions)
        truth = Document()
        for position in range(len(self.updates) + 1):
            if position:
                truth.apply(self.updates[position - 1])
            if position in wanted:
                past = fold(self.store.read_at(self.name, position))
                assert past.gate == truth.gate, position
                assert same(past.state(), truth.state()), position
                assert set(past.parked) == set(truth.parked)
        assert fold(self.store.load(self.name)).gate == truth.gate
        assert check(self.store, self.name, isolate=False).damaged == []


def made(seed: int, edits: int, writers: int = 1) -> list[bytes]:
    print(f"seed {seed}")
    return [update for _, update in generate(seed, edits, writers)[0]]


# How long.


@pytest.mark.parametrize("written", ["forever", "none", "30d", "12h", "1d", "36h"])
def test_a_retention_is_written_as_it_is_read(written: str) -> None:
    assert str(Retention.parse(written)) == written


@pytest.mark.parametrize("written", ["", "30", "d", "-1d", "1.5d", "2w", "9999999d"])
def test_what_is_no_retention_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="neither forever, none, 30d nor 12h"):
        Retention.parse(written)


def test_forever_keeps_a_row_per_author_and_minute(store: Store) -> None:
    writing = Writing(store)
    updates = made(1, 1200)
    writing.write(updates[:600], NOW - 3 * DAY)
    writing.write(updates[600:], NOW - 2 * DAY, author="bob")
    compact(store, "d")
    done = tidy(store, "d", FOREVER, NOW)
    assert done.merged > 1000
    assert done.discarded == 0
    assert writing.described().rows == 1200 - done.merged
    writing.check()
    assert tidy(store, "d", FOREVER, NOW) == Tidied(0, 0, 0)


def test_what_is_younger_than_a_day_stays_as_it_is(store: Store) -> None:
    writing = Writing(store)
    updates = made(2, 300)
    writing.write(updates[:100], NOW - 2 * DAY)
    writing.write(updates[100:], NOW - DAY + 1)
    compact(store, "d")
    tidy(store, "d", FOREVER, NOW)
    assert set(range(101, 301)) <= set(writing.kept())
    assert len(writing.kept()) < 210
    writing.check()


def test_what_no_snapshot_stands_for_is_not_merged(store: Store) -> None:
    writing = Writing(store)
    writing.write(made(3, 100), NOW - 2 * DAY)
    assert tidy(store, "d", FOREVER, NOW) == Tidied(0, 0, 0)


def test_versions_and_snapshots_stay_where_they_are(store: Store) -> None:
    writing = Writing(store)
    updates = made(4, 100)
    writing.write(updates[:50], NOW - 2 * DAY, pace=1)
    compact(store, "d")
    writing.write(updates[50:], NOW - 2 * DAY, pace=1)
    compact(store, "d")
    with store.database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO versions (document_id, position, name, at)"
                " VALUES (:id, 17, 'Draft', 0)"
            ),
            {"id": writing.id},
        )
    tidy(store, "d", FOREVER, NOW)
    assert {17, 50, 100} <= set(writing.kept())
    assert len(writing.kept()) < 20
    writing.check()


def test_a_position_within_a_merged_row_is_no_longer_kept(store: Store) -> None:
    writing = Writing(store)
    writing.write(made(5, 100), NOW - 2 * DAY, pace=1)
    compact(store, "d")
    tidy(store, "d", FOREVER, NOW)
    kept = writing.kept()
    lost = next(position for position in range(100) if position not in kept)
    before = max(position for position in kept if position < lost)
    after = min(position for position in kept if position > lost)
    with pytest.raises(NotKept, match=f"kept are {before} and {after}"):
        store.read_at("d", lost)


def test_none_keeps_a_snapshot_and_nothing_else(store: Store) -> None:
    writing = Writing(store)
    updates = made(6, 700)
    writing.write(updates[:600], NOW)
    compact(store, "d")
    assert tidy(store, "d", NONE, NOW).discarded == 600
    writing.write(updates[600:], NOW)
    described = writing.described()
    assert (described.rows, described.snapshots, described.base) == (100, 1, 600)
    writing.check([600, 650, 700])
    with pytest.raises(NotKept, match="the history begins at 600"):
        store.read_at("d", 599)
    compact(store, "d")
    tidy(store, "d", NONE, NOW)
    described = writing.described()
    assert (described.rows, described.snapshots, described.base) == (0, 1, 700)
    writing.check([700])


def test_an_age_keeps_what_is_younger(store: Store) -> None:
    writing = Writing(store)
    updates = made(7, 900, 3)
    for number, days in enumerate((60, 31, 2)):
        part = updates[300 * number : 300 * number + 300]
        writing.write(part, NOW - days * DAY)
    compact(store, "d")
    done = tidy(store, "d", MONTH, NOW)
    described = writing.described()
    assert done.discarded == 600
    assert described.base == 600
    assert min(writing.kept()) == 600
    writing.check()
    # A month later all of it is old.
    tidy(store, "d", MONTH, NOW + 30 * DAY)
    described = writing.described()
    assert (described.rows, described.snapshots, described.base) == (0, 1, 900)
    writing.check()


def test_a_clock_that_was_set_back_loses_nothing(store: Store) -> None:
    writing = Writing(store)
    updates = made(8, 400)
    writing.write(updates[:100], NOW - 40 * DAY)
    writing.write(updates[100:200], NOW - 5 * DAY)
    writing.write(updates[200:300], NOW - 40 * DAY)  # It was an hour, and more.
    writing.write(updates[300:], NOW - 40 * DAY - 3_600_000)
    compact(store, "d")
    tidy(store, "d", MONTH, NOW)
    assert writing.described().base == 100
    writing.check()


def test_parked_updates_outlive_their_rows(store: Store) -> None:
    writing = Writing(store)
    updates = made(9, 200)
    early = [*updates[:50], *updates[51:]]
    writing.write(early, NOW - 40 * DAY)
    compact(store, "d")
    tidy(store, "d", NONE, NOW)
    assert writing.described().rows == 0
    assert fold(store.load("d")).parked
    writing.write([updates[50]], NOW)
    assert not fold(store.load("d")).parked
    truth = Document()
    for update in updates:
        truth.apply(update)
    assert fold(store.load("d")).gate == truth.gate


def test_damaged_rows_are_not_merged_away(store: Store) -> None:
    writing = Writing(store)
    writing.write(made(10, 200), NOW - 2 * DAY, pace=1)
    compact(store, "d")
    with store.database.writing() as connection:
        connection.execute(text("UPDATE updates SET crc = 0 WHERE position = 70"))
    tidy(store, "d", FOREVER, NOW)
    found = check(store, "d")
    assert [str(damage) for damage in found.damaged] == ["update 70 has a wrong CRC-32"]
    assert fold(store.load("d")).gate.clocks


def test_nothing_is_discarded_that_no_snapshot_can_stand_for(store: Store) -> None:
    writing = Writing(store)
    writing.write(made(11, 200), NOW - 40 * DAY)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE updates SET crc = 0 WHERE position = 70"))
    with pytest.raises(StoreError, match="update 70"):
        tidy(store, "d", MONTH, NOW)
    assert writing.described().rows == 200
    assert writing.described().base == 0


def test_a_snapshot_that_was_damaged_stands_for_nothing(store: Store) -> None:
    writing = Writing(store)
    writing.write(made(12, 200), NOW - 40 * DAY)
    compact(store, "d")
    with store.database.writing() as connection:
        connection.execute(text("UPDATE snapshots SET crc = 0"))
    tidy(store, "d", NONE, NOW)  # It is made again, and read back.
    assert writing.described().rows == 0
    writing.check([200])


def test_after_a_snapshot_only_what_is_due_is_done(store: Store) -> None:
    writing = Writing(store)
    updates = made(13, 400)
    writing.write(updates[:200], NOW - 3 * DAY, pace=1)
    compact(store, "d")
    freshen(store, "d", FOREVER, NOW)
    rows = writing.described().rows
    assert rows < 50
    writing.write(updates[200:], NOW - 2 * DAY, pace=1)
    compact(store, "d")
    freshen(store, "d", FOREVER, NOW + DAY - 1)
    assert writing.described().rows == rows + 200
    freshen(store, "d", FOREVER, NOW + DAY + 1)
    assert writing.described().rows < rows + 50
    writing.check()


def test_what_is_not_there_is_left_alone(store: Store) -> None:
    assert tidy(store, "nobody's", NONE, NOW) == Tidied(0, 0, 0)
    writing = Writing(store)
    writing.write(made(14, 50), NOW - 40 * DAY)
    Catalog(store.database).delete("d")
    assert tidy(store, "d", NONE, NOW) == Tidied(0, 0, 0)
    Catalog(store.database).restore("d")
    assert writing.described().rows == 50


# Documents that nobody has open.


def test_a_sweep_goes_through_all_of_them_once_a_day(store: Store) -> None:
    writings = [Writing(store, f"d{number:03}") for number in range(130)]
    for writing in writings:
        writing.write(made(15, 3), NOW - 40 * DAY)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE documents SET updated_at = :t"), {"t": NOW})
        connection.execute(
            text("UPDATE updates SET crc = 0 WHERE document_id = :id AND position = 2"),
            {"id": writings[7].id},
        )
    after: str | None = ""
    failures: list[str] = []
    while after is not None:
        after, failed = sweep(store, after, MONTH, NOW)
        failures += failed
    assert failures == ["d007: update 2 has a wrong CRC-32"]
    rows = [writing.described().rows for writing in writings]
    assert rows == [3 if number == 7 else 0 for number in range(130)]
    # What failed is tried again, and nothing else.
    again = sweep(store, "", MONTH, NOW + DAY - 1)
    assert again == (None, failures)


def test_a_document_at_rest_is_not_swept_again(store: Store) -> None:
    writing = Writing(store)
    writing.write(made(16, 3), NOW - 90 * DAY)
    with store.database.writing() as connection:
        connection.execute(
            text("UPDATE documents SET updated_at = :t"), {"t": NOW - 90 * DAY}
        )
    assert sweep(store, "", MONTH, NOW) == (None, [])
    assert writing.described().tidied_at == NOW
    assert sweep(store, "", MONTH, NOW + 2 * DAY) == (None, [])
    assert writing.described().tidied_at == NOW


# How much of the disk.


@pytest.mark.slow
@pytest.mark.parametrize("history", ["none", "forever"])
def test_a_long_history_takes_little_of_the_disk(tmp_path: Path, history: str) -> None:
    real = traces.read_log("automerge-paper")
    updates = made(17, 20_000) if real is None else [update for _, update in real]
    path = tmp_path / "log.db"
    store = opened(f"sqlite:///{path}")
    writing = Writing(store)
    writing.write(updates, NOW - 10 * DAY, pace=333)
    whole = path.stat().st_size
    size = compact(store, "d")
    done = tidy(store, "d", Retention.parse(history), NOW)
    described = writing.described()
    store.close()
    taken = sum(file.stat().st_size for file in tmp_path.iterdir())
    print(
        f"{history}: {len(updates)} edits, {whole} bytes before, {taken} now, in"
        f" {described.rows} rows of {described.rows_size} bytes; the snapshot has"
        f" {described.snapshots_size}, its state {size}; {done}"
    )
    assert described.snapshots == 1
    if history == "none":
        assert described.rows == 0
        assert taken < 1.3 * described.snapshots_size + 8 * 4096
    else:
        assert taken < whole / 5
        store = opened(f"sqlite:///{path}")
        doc: Doc[Any] = Doc()
        doc.apply_update(fold(store.load("d")).state())
        assert len(str(doc.get("text", type=Text))) > 1000
        store.close()


# Whatever happens meanwhile.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "every"),
    [("sqlite", 1), ("postgres", 2), ("mariadb", 3)],
    indirect=["url"],
    ids=DATABASES,
)
def test_it_may_die_at_every_statement(url: str, every: int) -> None:
    print(f"TIDY_SEED={SEED}")
    command = [sys.executable, "-m", "tests.dying", url, str(SEED), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result)
    assert result["died"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("url", DATABASES, indirect=True)
def test_two_nodes_may_do_it_at_once_while_others_write(url: str) -> None:
    """Scenario: they compact and tidy the same document 200 times."""
    print(f"TIDY_SEED={SEED}")
    chance = Random(SEED)
    first = opened(url)
    updates = made(SEED % 1000, 2000)
    writing = Writing(first)
    writing.write(updates[:500], NOW - 2 * DAY)
    done = threading.Event()
    failures: list[str] = []
    rounds = [0, 0]

    def look_after(number: int) -> None:
        store = Store(url)
        own = Random(chance.random())
        while not done.is_set() or rounds[number] < 100:
            rounds[number] += 1
            try:
                compact(store, "d")
                age = own.choice([0, DAY])
                tidy(store, "d", own.choice([FOREVER, MONTH]), NOW, age)
            except StoreError as exc:
                # Two at once may stand in each other's way; nothing is lost by it.
                if "deadlock" not in str(exc).lower():
                    failures.append(str(exc))
            except CollabError as exc:
                failures.append(str(exc))
        store.close()

    nodes = [threading.Thread(target=look_after, args=[number]) for number in (0, 1)]
    for node in nodes:
        node.start()
    for at in range(500, 2000, 25):
        writing.write(updates[at : at + 25], NOW - 2 * DAY + at * 1000)
    done.set()
    for node in nodes:
        node.join()
    print(f"{rounds} rounds, {writing.described().rows} rows")
    assert failures == []
    assert sum(rounds) >= 200
    writing.check()
    first.close()
