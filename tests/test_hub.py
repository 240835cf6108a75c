"""Rooms are opened once, kept while they are needed, and rebuilt when they break."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any, cast

import pytest
from pycrdt import Doc, Text

import collab.document
from collab.caretaker import COMPACT_MANY, COMPACT_ROWS, REST
from collab.catalog import Catalog
from collab.errors import DatabaseUnreachable, DocumentBroken, Unavailable
from collab.hub import IDLE, POLL, Hub
from collab.limits import Limits
from collab.messages import SyncStep1, SyncStep2, Update
from collab.room import Room
from collab.store import Append, Store, Stored
from tests.simulation import Plain
from tests.test_journal import FaultyStore
from tests.test_room import Cursed, Guest, updates
from tests.traces import generate
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


class Jumping(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": Jumping}


def skip(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Jumping)
    loop.skipped += seconds


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(600):
        while not happened():
            await asyncio.sleep(0.001)


class SlowStore(FaultyStore):
    """A store that counts what is loaded, and may take its time."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.loads: list[str] = []
        self.may_load = Event()
        self.may_load.set()
        self.lost = False

    def load(self, name: str, below: int | None = None) -> Stored:
        self.loads.append(name)
        self.may_load.wait(30)
        if self.lost:
            raise DatabaseUnreachable("the disk is gone")
        return super().load(name, below)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def store(path: Path) -> Iterator[SlowStore]:
    store = SlowStore(f"sqlite:///{path}")
    yield store
    store.close()


@asynccontextmanager
async def opened(store: Store, limits: Limits | None = None) -> AsyncIterator[Hub]:
    hub = Hub(store, limits or Limits())
    await hub.open()
    try:
        yield hub
    finally:
        await hub.close()


async def enter(hub: Hub, name: str) -> Guest:
    guest = Guest(await hub.enter(name), Plain(), "ann")
    guest.says(SyncStep1(b"\x00"))
    guest.hears()
    return guest


def text(room: Room, name: str = "t") -> str:
    return str(room.document.doc.get(name, type=Text))


async def test_an_edit_is_flushed_saved_and_acknowledged(store: SlowStore) -> None:
    async with opened(store) as hub:
        ann, bob = await enter(hub, "d"), await enter(hub, "d")
        ann.says(Update(FIRST))
        await until(lambda: bool(bob.writes))
        assert updates(bob.hears()) == [FIRST]
        await until(lambda: bool(ann.writes))
        assert updates(ann.hears()) == [FIRST]
        assert [row.update for row in store.load("d").rows] == [FIRST]
        assert hub.tails[ann.room].rows == 1


async def test_a_document_is_loaded_once(store: SlowStore) -> None:
    async with opened(store) as hub:
        store.may_load.clear()
        waiting = [asyncio.ensure_future(hub.enter("d")) for _ in range(20)]
        await until(lambda: bool(store.loads))
        assert hub.find("d") is None
        store.may_load.set()
        rooms = await asyncio.gather(*waiting)
        assert store.loads == ["d"]
        assert set(rooms) == {hub.find("d")}


async def test_who_gives_up_waiting_stops_nobody_else(store: SlowStore) -> None:
    async with opened(store) as hub:
        store.may_load.clear()
        impatient = asyncio.ensure_future(hub.enter("d"))
        patient = asyncio.ensure_future(hub.enter("d"))
        await until(lambda: bool(store.loads))
        impatient.cancel()
        await asyncio.sleep(0)
        store.may_load.set()
        assert await patient is hub.find("d")


async def test_who_cannot_be_loaded_may_be_tried_again(store: SlowStore) -> None:
    async with opened(store) as hub:
        store.lost = True
        with pytest.raises(DatabaseUnreachable):
            await hub.enter("d")
        assert hub.rooms == {}
        store.lost = False
        assert (await hub.enter("d")).name == "d"


async def test_an_empty_room_is_unloaded_after_a_while(store: SlowStore) -> None:
    async with opened(store) as hub:
        ann, bob = await enter(hub, "d"), await enter(hub, "busy")
        ann.says(*(Update(update) for update in history("reorder")))
        await hub.journal.flush_room(ann.room)
        before = ann.room.document.snapshot()
        ann.leaves(now=asyncio.get_running_loop().time())
        skip(IDLE / 2)
        bob.says(Update(FIRST))  # Only so that a tick passes.
        await asyncio.sleep(0.01)
        assert hub.find("d") is ann.room
        skip(IDLE)
        await until(lambda: hub.find("d") is None)
        assert hub.find("busy") is bob.room
        again = await enter(hub, "d")
        assert again.room is not ann.room
        assert again.room.document.snapshot() == before
        assert text(again.room) == "abc"


async def test_a_room_with_unsaved_edits_is_not_unloaded(store: SlowStore) -> None:
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        store.failing = 10_000
        ann.says(Update(FIRST))
        await until(lambda: hub.journal.outage)
        assert not hub.ready
        ann.leaves(now=asyncio.get_running_loop().time())
        for _ in range(3):
            skip(2 * IDLE)
            attempts = store.attempts
            await until(lambda now=attempts: store.attempts > now)  # type: ignore[misc]
        assert hub.find("d") is ann.room
        with pytest.raises(Unavailable):
            hub.check()
        store.failing = 0
        skip(IDLE)
        await until(lambda: hub.find("d") is None)
        assert hub.ready
        assert text(await hub.enter("d")) == "a"


async def test_who_comes_back_while_an_edit_is_being_saved_finds_it(
    store: SlowStore,
) -> None:
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        store.slow = Event()
        ann.says(Update(FIRST))
        await until(lambda: hub.journal.busy)
        ann.leaves(now=asyncio.get_running_loop().time())
        skip(2 * IDLE)
        pulse = Pulse()
        hub.wheel.full.add(pulse)
        await until(lambda: pulse.checks > 1)  # The timer has looked at the room.
        hub.wheel.full.clear()
        bob = await enter(hub, "d")
        assert bob.room is ann.room
        assert text(bob.room) == "a"
        bob.says(Update(SECOND))
        store.slow.set()
        store.slow = None
        await hub.journal.flush_room(bob.room)
        assert updates(bob.hears()) == [SECOND]
        assert [row.update for row in store.load("d").rows] == [FIRST, SECOND]


async def test_what_is_written_as_a_snapshot_is_made_of_an_unloaded_room_is_kept(
    store: SlowStore,
) -> None:
    print("seed 4")
    log, _ = generate(seed=4, edits=2 * COMPACT_ROWS)
    news = [update for _, update in log]
    half = len(news) // 2
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(*(Update(update) for update in news[:half]))
        await hub.journal.flush_room(ann.room)
        ann.leaves(now=asyncio.get_running_loop().time())
        tail = hub.tails[ann.room]
        skip(2 * IDLE)
        await until(lambda: "d" not in hub.rooms)
        assert tail.compacting
        bob = await enter(hub, "d")
        assert bob.room is not ann.room
        for update in news[half:]:
            bob.says(Update(update))
            await hub.journal.flush_room(bob.room)
        await until(lambda: not tail.compacting)
        state = bob.room.document.snapshot()
    stored = store.load("d")
    assert stored.snapshot is not None
    assert stored.head == stored.snapshot.position + len(stored.rows)
    async with opened(SlowStore(store.url)) as hub:
        assert (await hub.enter("d")).document.snapshot() == state


async def test_a_deleted_document_no_longer_keeps_others_from_being_read(
    store: SlowStore,
) -> None:
    async with opened(store, Limits(unsaved_size=100)) as hub:
        ann, bob = await enter(hub, "d"), await enter(hub, "other")
        ann.says(Update(FIRST))
        await hub.journal.flush_room(ann.room)
        store.failing = 10_000
        log, _ = generate(seed=1, edits=20)
        ann.says(*(Update(update) for _, update in log))
        await until(lambda: hub.journal.outage)
        ann.says(Update(SECOND))
        await until(lambda: hub.overloaded)
        hub.catalog.delete("d")
        skip(2 * POLL)
        await until(lambda: not hub.overloaded)
        assert list(hub.rooms) == ["other"]
        await until(lambda: hub.ready)
        store.failing = 0
        bob.says(Update(FIRST))
        await hub.journal.flush_room(bob.room)
        assert updates(bob.hears()) == [FIRST]


async def test_a_reload_gives_the_same_document(store: SlowStore) -> None:
    print("seed 3")
    log, expected = generate(seed=3, edits=2000)
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(*(Update(update) for _, update in log[1:]), Update(log[0][1]))
        await hub.journal.flush_room(ann.room)
        before = ann.room.document.snapshot()
    async with opened(SlowStore(store.url)) as hub:
        room = await hub.enter("d")
        assert room.document.snapshot() == before
        assert text(room, "text") == expected


async def test_parked_updates_are_loaded_too(store: SlowStore) -> None:
    a1, a2, b1, b2 = history("pending")
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(Update(b1), Update(b2))
        await hub.journal.flush_room(ann.room)
    async with opened(SlowStore(store.url)) as hub:
        ann = await enter(hub, "d")
        ann.says(Update(a1), Update(a2))
        assert text(ann.room) == "bcdefXYZ"


async def test_a_damaged_row_is_reported_and_the_rest_opens(
    store: SlowStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(Update(FIRST), Update(SECOND), Update(THIRD))
        await hub.journal.flush_room(ann.room)
    database = sqlite3.connect(path)
    database.execute(
        "UPDATE updates SET data = ? WHERE position = 2", (b"\0" + SECOND,)
    )
    database.commit()
    database.close()
    async with opened(SlowStore(store.url)) as hub:
        room = await hub.enter("d")
        assert text(room) == "a"
        # What builds on it waits, and comes back with it.
        assert list(room.document.parked) == [THIRD]
        assert "d: update 2 has a wrong CRC-32" in caplog.text
        ann = await enter(hub, "d")
        ann.says(SyncStep2(SECOND))
        assert text(room) == "axc"


async def test_a_snapshot_that_cannot_be_made_is_tried_again_later(
    store: SlowStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(Update(FIRST))
        await hub.journal.flush_room(ann.room)
        with sqlite3.connect(path) as database:
            database.execute("UPDATE updates SET crc = 0")
        hub.tails[ann.room].rows = COMPACT_MANY
        for times in (1, 2):
            skip(REST)
            await until(lambda: hub.tails[ann.room].compacting)
            await until(lambda: not hub.tails[ann.room].compacting)
            skip(1.0)
            await asyncio.sleep(1.1)  # The timer would have had its chance.
            assert not hub.tails[ann.room].compacting
            assert caplog.text.count("cannot make a snapshot") == times


async def test_behind_a_snapshot_that_cannot_be_read_stands_the_whole_log(
    store: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.open()
    store.append([Append("a", [(update, None) for update in (FIRST, SECOND)])])
    stored = store.load("a")
    assert stored.document_id is not None
    store.write_snapshot(stored.document_id, 2, FIRST, b"from the future")
    store.append([Append("a", [(THIRD, None)])])
    async with opened(store) as hub:
        assert text((await enter(hub, "a")).room) == "axc"
    assert "snapshot 2 cannot be read" in caplog.text


async def test_a_row_that_is_no_update_is_reported_and_the_rest_opens(
    store: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as hub:
        poison = bytes.fromhex("01010501000000")
        rows = [(update, None) for update in (FIRST, poison, SECOND)]
        store.append([Append("d", rows)])
        room = await hub.enter("d")
        assert text(room) == "ax"
        assert "d: update 2 " in caplog.text


async def test_a_row_at_which_pycrdt_panics_is_left_out(
    store: SlowStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """pycrdt is what is replaced here; behind the gate it no longer panics."""

    class Fragile(Cursed):
        def __init__(self) -> None:
            super().__init__(poison)

        def get(self, name: str, type: Any) -> Any:
            return self.doc.get(name, type=type)

    poison = history("answers")[1]
    monkeypatch.setattr(collab.document, "Doc", Fragile)
    async with opened(store) as hub:
        rows = [(update, None) for update in (FIRST, poison, SECOND, THIRD)]
        store.append([Append("d", rows)])
        room = await hub.enter("d")
        assert text(room) == "axc"
        assert room.document.gate.clocks == {1: 3}
        assert "d: update 2 " in caplog.text


async def test_what_was_parked_and_makes_pycrdt_panic_is_left_out(
    store: SlowStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As above; it panics at the second, which came before the first."""

    class Fragile(Cursed):
        def __init__(self) -> None:
            super().__init__(SECOND)

        def get(self, name: str, type: Any) -> Any:
            return self.doc.get(name, type=type)

    monkeypatch.setattr(collab.document, "Doc", Fragile)
    async with opened(store) as hub:
        store.append([Append("d", [(SECOND, None), (FIRST, None)])])
        room = await hub.enter("d")
        assert text(room) == "a"
        assert not room.document.parked
        assert "d: update 1 " in caplog.text


async def test_a_broken_room_is_rebuilt_and_nobody_else_notices(
    store: SlowStore,
) -> None:
    async with opened(store) as hub:
        ann, mallory = await enter(hub, "d"), await enter(hub, "d")
        other = await enter(hub, "other")
        room = ann.room
        ann.says(Update(FIRST))
        await hub.journal.flush_room(ann.room)
        ann.hears()
        cursed = Cursed(SECOND)
        cursed.doc.apply_update(FIRST)
        room.document.doc = cast(Any, cursed)
        mallory.hears()
        answer = history("answers")[1]
        ann.says(Update(answer))
        with pytest.raises(DocumentBroken):
            mallory.says(Update(SECOND))
        assert hub.find("d") is None
        store.poisoned = frozenset({"other"})  # Somebody else's trouble.
        other.says(Update(FIRST))
        async with asyncio.timeout(60):
            first, second = await asyncio.gather(hub.enter("d"), hub.enter("d"))
        assert first is second is room is hub.find("d")
        assert text(room) == "ab"
        logged = [row.update for row in store.load("d").rows]
        assert logged == [FIRST, answer]
        assert len(room) == 2
        said = ann.hears()
        assert updates(said) == [answer]
        assert SyncStep1(room.document.state_vector()) in said
        store.poisoned = frozenset()


async def test_who_opens_many_documents_keeps_nobody_waiting(store: SlowStore) -> None:
    limits = Limits(loads=3, loads_per_connection=2)
    async with opened(store, limits) as hub:
        greedy, other = (hub.reception.quotas.admit() for _ in range(2))
        store.may_load.clear()
        names = [f"g{number}" for number in range(100)]
        waiting = [asyncio.create_task(hub.enter(name, greedy)) for name in names]
        await until(lambda: len(store.loads) == 2)
        alone = asyncio.create_task(hub.enter("o", other))
        shared = asyncio.create_task(hub.enter("g99", other))
        await until(lambda: len(store.loads) == 3)
        store.may_load.set()
        assert (await alone).name == "o"
        assert (await shared).name == "g99"
        assert len(hub.rooms) < 20
        assert len(set(await asyncio.gather(*waiting))) == 100
        assert len(store.loads) == 101


async def test_too_many_unsaved_edits_stop_the_reading(store: SlowStore) -> None:
    async with opened(store, Limits(unsaved_size=100)) as hub:
        ann = await enter(hub, "d")
        store.failing = 10_000
        log, _ = generate(seed=1, edits=20)
        for _, update in log:
            ann.says(Update(update))
        await until(lambda: hub.journal.outage)
        skip(1.0)
        ann.says(Update(FIRST))
        await until(lambda: hub.overloaded)
        assert hub.find("d") is None
        waiting = asyncio.ensure_future(hub.enter("d"))
        done, _ = await asyncio.wait([waiting], timeout=0.02)
        assert not done
        store.failing = 0
        assert await waiting is ann.room
        assert not hub.overloaded
        assert hub.find("d") is ann.room
        await hub.journal.flush_room(ann.room)
        assert len(updates(ann.hears())) == 21


async def test_a_hub_that_closes_saves_first(store: SlowStore) -> None:
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(Update(FIRST))
    async with opened(SlowStore(store.url)) as hub:
        assert text(await hub.enter("d")) == "a"


async def test_a_hub_that_drains_is_not_ready(store: SlowStore) -> None:
    async with opened(store) as hub:
        hub.check()
        ann = await enter(hub, "d")
        ann.says(Update(FIRST))
        await hub.drain()
        assert updates(ann.hears()) == [FIRST]
        assert not hub.ready
        with pytest.raises(Unavailable):
            hub.check()


async def test_connections_that_drain_together_complain_once(
    store: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        store.failing = 3
        ann.says(Update(FIRST))
        drains = [asyncio.ensure_future(hub.drain()) for _ in range(3)]
        await until(lambda: hub.journal.outage)
        skip(5.0)
        await asyncio.gather(*drains)
        assert caplog.text.count("closing connections") == 1


async def test_what_cannot_be_saved_in_the_end_is_named(
    store: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub(store, Limits())
    await hub.open()
    ann = await enter(hub, "d")
    with store.database.writing():  # Another thread is writing, and does not end.
        ann.says(Update(FIRST))
        closing = asyncio.ensure_future(hub.close())
        await until(lambda: hub.journal.busy)
        skip(10.0)
        await closing
    assert "d: 1 edits could not be saved" in caplog.text
    assert hub.lost == 1


class Pulse:
    """A connection, as far as the timer cares."""

    def __init__(self) -> None:
        self.beats = 0
        self.checks = 0

    def beat(self) -> None:
        self.beats += 1

    def check_progress(self, now: float) -> None:
        self.checks += 1

    def advise(self, after: float, window: float) -> None:
        """Nobody stops here."""


async def test_connections_beat_in_turns(store: SlowStore) -> None:
    async with opened(store) as hub:
        pulses = [Pulse() for _ in range(50)]
        spokes = [hub.wheel.add(pulse) for pulse in pulses]
        assert {spokes.count(spoke) for spoke in spokes} == {2}
        hub.wheel.full.add(pulses[0])
        for _ in range(25):
            skip(1.0)
            checks = pulses[0].checks
            await until(lambda now=checks: pulses[0].checks > now)  # type: ignore[misc]
        assert {pulse.beats for pulse in pulses} == {1}
        hub.wheel.remove(pulses[0], spokes[0])
        assert hub.wheel.full == set()
        await enter(hub, "d")


async def test_a_room_that_is_told_of_text_shows_it(store: SlowStore) -> None:
    """From a client's bytes to the log to another client's bytes."""
    async with opened(store) as hub:
        ann = await enter(hub, "d")
        ann.says(*(Update(update) for update in history("drift")))
        await hub.journal.flush_room(ann.room)
    async with opened(SlowStore(store.url)) as hub:
        bob = Guest(await hub.enter("d"), Plain())
        bob.says(SyncStep1(b"\x00"))
        doc: Doc[Any] = Doc()
        shown = doc.get("t", type=Text)
        for update in updates(bob.hears()):
            doc.apply_update(update)
        assert str(shown).endswith("NEXT!")


async def test_a_database_that_is_lost_is_noticed_although_nobody_writes(
    store: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Gone(Catalog):
        gone = False

        def alive(self, ids: Sequence[int]) -> dict[int, tuple[int, str]]:
            if self.gone:
                raise DatabaseUnreachable("it is away")
            return super().alive(ids)

    async with opened(store) as hub:
        catalog = hub.catalog = Gone(store.database)
        assert hub.ready
        catalog.gone = True
        skip(POLL)
        await until(lambda: not hub.ready)
        with pytest.raises(Unavailable):
            hub.check()
        skip(POLL)
        await asyncio.sleep(1.1)
        assert caplog.text.count("does not answer (it is away)") == 1
        catalog.gone = False
        skip(POLL)
        await until(lambda: hub.ready)
        hub.check()
