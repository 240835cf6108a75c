"""Nothing is acknowledged before it is in the log, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collab.catalog import Catalog
from collab.document import Document
from collab.errors import DatabaseUnreachable, Deadlock, DocumentGone, StoreError
from collab.journal import (
    BATCH,
    BATCH_SIZE,
    RETRY_DELAYS,
    ROOM_SIZE,
    STALLED,
    Journal,
    Saved,
)
from collab.messages import SyncStep1, Update
from collab.room import Room
from collab.store import Append, Appended, Store
from tests import stores
from tests.databases import DatabaseServer
from tests.peers import insert
from tests.simulation import Plain
from tests.test_room import Guest, updates
from tests.traces import generate
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


class FaultyStore(Store):
    """A store whose database fails when it is told to."""

    failing = 0
    """How many commits fail from now on."""
    poisoned: frozenset[str] = frozenset()
    """Documents that cannot be written."""
    crash: Exception | None = None
    slow: threading.Event | None = None
    """What commits wait for."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.commits: list[list[str]] = []
        self.attempts = 0

    def append(self, batch: Sequence[Append]) -> list[Appended]:
        self.attempts += 1
        if self.slow is not None:
            self.slow.wait(30)
        if self.failing:
            self.failing -= 1
            raise DatabaseUnreachable("the disk is full")
        if self.crash is not None:
            crash, self.crash = self.crash, None
            raise crash
        if any(append.name in self.poisoned for append in batch):
            raise StoreError("no")
        appended = super().append(batch)
        self.commits.append([append.name for append in batch])
        return appended


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    store = FaultyStore(f"sqlite:///{tmp_path / 'log.db'}")
    store.open()
    yield store
    store.close()


class Desk:
    """A journal and rooms that hand in at once what they are told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.saved: list[Saved] = []
        self.heard: dict[str, asyncio.Event] = {}
        self.gone: list[Room] = []
        self.journal = Journal(store, self._note, self.gone.append)

    def _note(self, saved: Saved) -> None:
        self.saved.append(saved)

    def room(self, name: str) -> tuple[Room, Guest]:
        room = Room(name, Document(), lambda *_: None)
        guest = Guest(room, Plain(), "ann")
        guest.says(SyncStep1(b"\x00"))
        guest.hears()
        return room, guest

    def write(self, guest: Guest, *news: bytes) -> None:
        guest.says(*(Update(update) for update in news))
        self.journal.write(guest.room)

    def logged(self, name: str) -> list[bytes]:
        return [row.update for row in self.store.load(name).rows]


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Desk]:
    desk = Desk(store)
    try:
        yield desk
    finally:
        await desk.journal.close(60.0)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.001)


async def test_what_is_acknowledged_is_in_the_log(store: FaultyStore) -> None:
    async with opened(store) as desk:
        _, ann = desk.room("d")
        desk.write(ann, FIRST, SECOND)
        assert ann.hears() == []
        await desk.journal.flush()
        assert updates(ann.hears()) == desk.logged("d") == [FIRST, SECOND]
        [saved] = desk.saved
        assert (saved.head, saved.count, saved.size) == (2, 2, len(FIRST + SECOND))
        assert not desk.journal.dirty


async def test_rooms_share_a_commit(store: FaultyStore) -> None:
    async with opened(store) as desk:
        guests = [desk.room(f"d{number}")[1] for number in range(20)]
        for guest in guests:
            desk.write(guest, FIRST)
            desk.write(guest, SECOND)
        await desk.journal.flush()
        assert [len(commit) for commit in store.commits] == [20]
        for guest in guests:
            assert updates(guest.hears()) == [FIRST, SECOND]
            assert desk.logged(guest.room.name) == [FIRST, SECOND]


async def test_nothing_is_acknowledged_while_the_database_is_away(
    store: FaultyStore,
) -> None:
    store.failing = 3
    async with opened(store) as desk:
        room, ann = desk.room("d")
        desk.write(ann, FIRST)
        await until(lambda: desk.journal.outage)
        assert ann.hears() == []
        assert room.ledger.unsaved == [(FIRST, "ann")]
        desk.write(ann, SECOND)
        desk.write(ann, THIRD)
        assert ann.hears() == []
        await desk.journal.flush()
        assert not desk.journal.outage
        assert desk.journal.ill == {}
        assert updates(ann.hears()) == desk.logged("d") == [FIRST, SECOND, THIRD]
        assert store.attempts == 4


async def test_a_database_that_is_away_is_tried_once_for_all(
    store: FaultyStore,
) -> None:
    store.failing = 1
    async with opened(store) as desk:
        guests = [desk.room(f"d{number}")[1] for number in range(5)]
        for guest in guests:
            desk.write(guest, FIRST)
        await until(lambda: desk.journal.outage)
        assert store.attempts == 1
        await desk.journal.flush()
        assert all(updates(guest.hears()) == [FIRST] for guest in guests)


async def test_a_commit_that_takes_too_long_is_an_incident(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.slow = threading.Event()
    async with opened(store) as desk:
        _, ann = desk.room("d")
        desk.write(ann, FIRST)
        await until(lambda: desk.journal.busy)
        now = asyncio.get_running_loop().time()
        assert desk.journal.healthy(now)
        for later in (STALLED + 1, STALLED + 2):
            assert not desk.journal.healthy(now + later)
            desk.journal.complain(now + later)
        store.failing = 2
        store.slow.set()
        await until(lambda: store.attempts == 3)
        store.slow = None
        await desk.journal.flush()
    said = [record.message for record in caplog.records]
    assert said[0] == "a commit has been taking longer than 5 s; edits stay in memory"
    assert "cannot save (the disk is full)" in said[1]
    assert said[2].startswith("saved again, after ")
    assert len(said) == 3


async def test_an_outage_is_over_when_nothing_is_left_to_save(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.failing = 10_000
    async with opened(store) as desk:
        room, ann = desk.room("d")
        desk.write(ann, FIRST)
        await until(lambda: desk.journal.outage)
        room.dismiss(DocumentGone("d"))
        await desk.journal.flush()
        assert not desk.journal.outage
    assert "nothing is left to save, after " in caplog.records[-1].message


async def test_a_document_that_cannot_be_written_stops_nobody_else(
    store: FaultyStore,
) -> None:
    store.poisoned = frozenset({"bad"})
    async with opened(store) as desk:
        _, good = desk.room("good")
        bad_room, bad = desk.room("bad")
        for update in (FIRST, SECOND, THIRD):
            desk.write(bad, update)
            desk.write(good, update)
            await desk.journal.flush_room(good.room)
        await until(lambda: bad_room in desk.journal.ill)
        assert not desk.journal.outage
        assert updates(good.hears()) == desk.logged("good") == [FIRST, SECOND, THIRD]
        assert bad.hears() == []
        assert [update for update, _ in bad_room.ledger.unsaved] == [
            FIRST,
            SECOND,
            THIRD,
        ]
        store.poisoned = frozenset()
        await desk.journal.flush()
        assert updates(bad.hears()) == desk.logged("bad") == [FIRST, SECOND, THIRD]


async def test_an_unexpected_error_is_no_acknowledgement(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.crash = RuntimeError("a bug")
    async with opened(store) as desk:
        room, ann = desk.room("d")
        desk.write(ann, FIRST)
        await until(lambda: room in desk.journal.ill)
        assert ann.hears() == []
        await desk.journal.flush()
        assert updates(ann.hears()) == desk.logged("d") == [FIRST]
        assert "a bug" in caplog.text


async def test_a_deadlock_is_nobodys_fault(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as desk:
        guests = [desk.room(name)[1] for name in ("one", "two")]
        for guest in guests:
            store.crash = Deadlock("try restarting the transaction")
            desk.write(guest, FIRST)
            await desk.journal.flush()
            assert updates(guest.hears()) == [FIRST]
        assert store.attempts == 4
        assert not desk.journal.ill
        assert caplog.text == ""


async def test_a_flood_keeps_its_order(store: FaultyStore) -> None:
    print("seed 5")
    log, _ = generate(seed=5, edits=5000)
    async with opened(store) as desk:
        _, ann = desk.room("d")
        for number, (_, update) in enumerate(log):
            desk.write(ann, update)
            if number % 500 == 0:
                await asyncio.sleep(0)
                store.failing = number % 1500 == 0
        await desk.journal.flush()
        expected = [update for _, update in log]
        assert updates(ann.hears()) == expected
        # Two may delete the same: the second time it is a repeat.
        document = Document()
        news = [update for update in expected if document.apply(update)[1]]
        assert desk.logged("d") == news


async def test_waiting_for_one_room_does_not_wait_for_others(
    store: FaultyStore,
) -> None:
    store.poisoned = frozenset({"bad"})
    async with opened(store) as desk:
        _, bad = desk.room("bad")
        room, good = desk.room("good")
        desk.write(bad, FIRST)
        desk.write(good, FIRST)
        async with asyncio.timeout(30):
            await desk.journal.flush_room(room)
        assert room.ledger.unsaved == []
        assert bad.room.ledger.unsaved
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(desk.journal.flush(), 0.05)


async def test_flushing_nothing_returns_at_once(store: FaultyStore) -> None:
    async with opened(store) as desk:
        room, _ = desk.room("d")
        await desk.journal.flush()
        await desk.journal.flush_room(room)
        desk.journal.write(room)
        await desk.journal.flush()
        assert store.attempts == 0


class Coarse(asyncio.SelectorEventLoop):
    """A loop whose clock moves in steps, as uvloop's does; here they are long."""

    def time(self) -> float:
        return super().time() // 0.25 * 0.25


def test_a_clock_that_stands_still_stops_nothing(store: FaultyStore) -> None:
    store.poisoned = frozenset({"bad", "worse"})

    async def live() -> None:
        async with opened(store) as desk:
            guests = [desk.room(name)[1] for name in ("bad", "worse", "good")]
            for guest in guests:
                desk.write(guest, FIRST)
            await until(lambda: len(desk.journal.ill) == 2)
            store.poisoned = frozenset()
            async with asyncio.timeout(30):
                await desk.journal.flush()
            for guest in guests:
                assert updates(guest.hears()) == [FIRST]

    with asyncio.Runner(loop_factory=Coarse) as runner:
        runner.run(live())


async def test_nobody_waits_for_a_document_that_somebody_has_locked(
    postgres: DatabaseServer,
) -> None:
    store = stores.opened(postgres.create_database())
    async with opened(store) as desk:
        _, held = desk.room("held")
        guests = [desk.room(f"d{number}")[1] for number in range(3)]
        for guest in (held, *guests):
            desk.write(guest, FIRST)
        await desk.journal.flush()
        assert updates(held.hears()) == [FIRST]
        with stores.somebody_else(store.url) as connection:
            connection.exec_driver_sql(
                "SELECT id FROM documents WHERE name = 'held' FOR UPDATE"
            )
            for guest in (held, *guests):
                desk.write(guest, SECOND)
            await until(lambda: held.room in desk.journal.ill)
            for guest in guests:
                desk.write(guest, THIRD)
                await desk.journal.flush_room(guest.room)
                assert updates(guest.hears()) == [FIRST, SECOND, THIRD]
            assert not desk.journal.outage
            assert held.room in desk.journal.ill
            desk.write(held, THIRD)
            assert held.hears() == []
        await desk.journal.flush()
        assert updates(held.hears()) == [SECOND, THIRD]
        assert desk.logged("held") == desk.logged("d0") == [FIRST, SECOND, THIRD]
    store.close()


async def test_a_room_is_told_that_its_document_was_deleted(url: str) -> None:
    store = stores.opened(url)
    async with opened(store) as desk:
        room, gone = desk.room("gone")
        _, there = desk.room("there")
        for guest in (gone, there):
            desk.write(guest, FIRST)
        await desk.journal.flush()
        gone.hears()
        Catalog(store.database).delete("gone")
        for guest in (gone, there):
            desk.write(guest, SECOND)
        await desk.journal.flush()
        assert desk.gone == [room]
        assert gone.hears() == []
        assert updates(there.hears()) == [FIRST, SECOND]
        assert not desk.journal.outage
        assert desk.journal.ill == {}
        assert Catalog(store.database).alive([room.document_id or 0]) == {}
    store.close()


async def test_a_document_in_the_place_of_a_deleted_one_is_left_alone(
    url: str,
) -> None:
    store = stores.opened(url)
    async with opened(store) as desk:
        room, ann = desk.room("d")
        desk.write(ann, FIRST)
        await desk.journal.flush()
        Catalog(store.database).purge("d", forget=True)
        other = stores.opened(url)
        stores.append(other, "d", b"another")
        other.close()
        desk.write(ann, SECOND)
        await desk.journal.flush()
        assert desk.gone == [room]
        assert desk.logged("d") == [b"another"]
    store.close()


async def test_a_commit_in_doubt_is_tried_again_and_stored_once(url: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    log = [update for _, update in generate(seed=5, edits=300)[0]]
    store = stores.opened(url)
    async with opened(store) as desk:
        _, ann = desk.room("d")
        _, bob = desk.room("e")
        sent = 0
        while sent < len(log):
            size = chance.randrange(1, 30)
            with stores.lost_answers(url, [chance.choice([True, False])]):
                desk.write(ann, *log[sent : sent + size // 2])
                desk.write(bob, *log[sent : sent + size])
                await until(lambda: desk.journal.outage)
                # What comes meanwhile stands behind what is tried again.
                desk.write(ann, *log[sent + size // 2 : sent + size])
                await desk.journal.flush()
            sent += size
        assert updates(ann.hears()) == updates(bob.hears()) == log
        document = Document()
        news = [update for update in log if document.apply(update)[1]]
        assert desk.logged("d") == desk.logged("e") == news
    store.close()


class Watched(Store):
    """A store that notes how much is in each commit: of each document, updates and
    bytes."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.commits: list[dict[str, tuple[int, int]]] = []

    def append(self, batch: Sequence[Append]) -> list[Appended]:
        self.commits.append(
            {
                entry.name: (
                    len(entry.updates),
                    sum(len(update) for update, _ in entry.updates),
                )
                for entry in batch
            }
        )
        return super().append(batch)


async def test_much_is_written_in_parts_and_in_order(url: str) -> None:
    store = Watched(url)
    store.open()
    async with opened(store) as desk:
        guests = [desk.room(f"d{number}")[1] for number in range(8)]
        text = "x" * 300_000
        large = [insert(1, text, n * len(text)) for n in range(30)]
        small = [insert(1, "x", n) for n in range(2 * BATCH + 1)]
        for guest in guests[:6]:
            desk.write(guest, *large)
        for guest in guests[6:]:
            desk.write(guest, *small)
        await desk.journal.flush()
        for guest in guests:
            log = large if guest in guests[:6] else small
            assert updates(guest.hears()) == log
            assert desk.logged(guest.room.name) == log
    counts = [count for commit in store.commits for count, _ in commit.values()]
    assert max(counts) == BATCH
    sizes = [size for commit in store.commits for _, size in commit.values()]
    assert ROOM_SIZE < max(sizes) < ROOM_SIZE + 2 * len(text)
    totals = [sum(size for _, size in each.values()) for each in store.commits]
    assert BATCH_SIZE < max(totals) < BATCH_SIZE + 2 * ROOM_SIZE
    store.close()


async def test_nothing_is_tried_once_it_is_closed(store: FaultyStore) -> None:
    store.poisoned = frozenset({"bad"})
    async with opened(store) as desk:
        room, bad = desk.room("bad")
        desk.write(bad, FIRST)
        await until(lambda: room in desk.journal.ill)
    attempts = store.attempts
    store.poisoned = frozenset()
    # Timers go off in their order, and that of the next attempt was there before.
    await asyncio.sleep(RETRY_DELAYS[0])
    assert store.attempts == attempts
    assert not [thread for thread in threading.enumerate() if "ward" in thread.name]
