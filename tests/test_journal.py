"""Nothing is acknowledged before it is in the log, and nothing is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collab.document import Document
from collab.errors import DatabaseUnreachable, StoreError
from collab.journal import Journal, Saved
from collab.messages import SyncStep1, Update
from collab.room import Room
from collab.store import Append, Store
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

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.commits: list[list[str]] = []
        self.attempts = 0

    def append(self, batch: Sequence[Append]) -> list[int]:
        self.attempts += 1
        if self.failing:
            self.failing -= 1
            raise DatabaseUnreachable("the disk is full")
        if self.crash is not None:
            crash, self.crash = self.crash, None
            raise crash
        if any(append.name in self.poisoned for append in batch):
            raise StoreError("no")
        heads = super().append(batch)
        self.commits.append([append.name for append in batch])
        return heads


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
        self.journal = Journal(store, self._note)

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
        await desk.journal.close()


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
        await until(lambda: not desk.journal.healthy)
        assert ann.hears() == []
        assert room.unsaved == [(FIRST, "ann")]
        desk.write(ann, SECOND)
        desk.write(ann, THIRD)
        assert ann.hears() == []
        await desk.journal.flush()
        assert desk.journal.healthy
        assert desk.journal.failures == {}
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
        await until(lambda: not desk.journal.healthy)
        assert store.attempts == 1
        await desk.journal.flush()
        assert all(updates(guest.hears()) == [FIRST] for guest in guests)


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
        await until(lambda: bad_room in desk.journal.failures)
        assert desk.journal.healthy
        assert updates(good.hears()) == desk.logged("good") == [FIRST, SECOND, THIRD]
        assert bad.hears() == []
        assert [update for update, _ in bad_room.unsaved] == [FIRST, SECOND, THIRD]
        store.poisoned = frozenset()
        await desk.journal.flush()
        assert updates(bad.hears()) == desk.logged("bad") == [FIRST, SECOND, THIRD]


async def test_an_unexpected_error_is_no_acknowledgement(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.crash = RuntimeError("a bug")
    async with opened(store) as desk:
        _, ann = desk.room("d")
        desk.write(ann, FIRST)
        await until(lambda: not desk.journal.healthy)
        assert ann.hears() == []
        await desk.journal.flush()
        assert updates(ann.hears()) == desk.logged("d") == [FIRST]
        assert "a bug" in caplog.text


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
        assert room.unsaved == []
        assert bad.room.unsaved
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
            await until(lambda: len(desk.journal.failures) == 2)
            store.poisoned = frozenset()
            async with asyncio.timeout(30):
                await desk.journal.flush()
            for guest in guests:
                assert updates(guest.hears()) == [FIRST]

    with asyncio.Runner(loop_factory=Coarse) as runner:
        runner.run(live())
