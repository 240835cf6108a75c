"""People who edit, and go from one server of a database to the other all the time.

``MOVING_SEED=17`` repeats a history.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pycrdt import Text

from collab.compaction import compact
from collab.document import Document
from collab.folding import fold
from collab.gate import Verdict
from collab.history import FOREVER, Retention
from collab.hub import Hub
from collab.limits import Limits
from collab.store import Store
from collab.tidying import DAY, tidy
from collab.updates import parse
from tests.databases import DatabaseServer
from tests.test_native_connection import until
from tests.travellers import Native, Poller, Stranger, Traveller

SEED = int(os.environ.get("MOVING_SEED", random.SystemRandom().randrange(2**32)))

ROUNDS = 20
STEPS = 50
"""Of each round, after which all must agree: who moves again may be healed by it."""

PATIENCE = 20
"""Seconds after which all must see what is saved."""


class World:
    """Two servers, and people."""

    def __init__(self, url: str, chance: Random, patch: pytest.MonkeyPatch) -> None:
        self.url = url
        self.chance = chance
        self.patch = patch
        self.hubs: list[Hub] = []
        self.people: list[Traveller] = [
            *(Native(number) for number in (1, 2, 3)),
            *(Stranger(number, chance) for number in (4, 5)),
            *(Poller(number, self.hubs, chance) for number in (6, 7)),
        ]

    async def start(self) -> None:
        hub = Hub(Store(self.url), Limits())
        await hub.open()
        learn, chance = hub.follower._learn, self.chance

        async def learn_later(*arguments: Any) -> None:
            await asyncio.sleep(chance.choice((0, 0.005, 0.02)))
            await learn(*arguments)

        self.patch.setattr(hub.follower, "_learn", learn_later)
        self.hubs.append(hub)

    async def end(self) -> None:
        for person in self.people:
            person.leave()
        for hub in self.hubs:
            await hub.close()

    # What may happen.

    def step(self) -> None:
        person, chance = self.chance.choice(self.people), self.chance
        roll = chance.random()
        if roll < 0.2:
            person.write(chance)
        elif roll < 0.3:
            person.move(chance.choice(self.hubs))
        elif roll < 0.32:
            person.fill()
        elif roll < 0.36:
            person.drain()
        else:
            person.hear()

    def break_a_room(self) -> None:
        """Have a document be made anew, as when pycrdt has failed."""
        hub = self.chance.choice(self.hubs)
        room = hub.find("d")
        if room is not None:
            room.broken = True

    async def restart(self) -> None:
        """Have a server go, or crash, and another one come."""
        hub = self.hubs.pop(self.chance.randrange(2))
        for person in self.people:
            if person.hub is hub and self.chance.random() < 0.5:
                person.hear()
            person.lose(hub)
        if self.chance.random() < 0.5:
            for room in hub.rooms.values():
                room.ledger.clear()  # And nobody is told.

        await hub.close()
        await self.check_saved()
        await self.start()
        for person in self.people:
            if person.hub is None:
                person.move(self.chance.choice(self.hubs))

    async def check_saved(self) -> None:
        """What was acknowledged is in the log, whatever else they may bring back."""
        document = await self.load()
        for person in self.people:
            for update in person.acknowledged:
                verdict = document.gate.judge(parse(update))
                assert verdict is Verdict.REPEAT or update in document.parked
            person.acknowledged.clear()

    async def load(self) -> Document:
        return fold(await asyncio.to_thread(self.hubs[0].store.load, "d"))

    async def look_after(self) -> None:
        """Have the log be compacted, thinned, or not kept."""
        store = self.chance.choice(self.hubs).store
        await asyncio.to_thread(compact, store, "d")
        retention = self.chance.choice((FOREVER, Retention(0)))
        now = 2**41 + self.chance.choice((0, 2 * DAY))
        await asyncio.to_thread(tidy, store, "d", retention, now)

    async def agree(self) -> None:
        """Wait until all is saved, and everybody sees the same."""
        for person in self.people:
            if person.hub is None:
                person.move(self.chance.choice(self.hubs))
        await self._all("waits for something", lambda person: person.settled)
        for hub in self.hubs:
            await hub._poll()
        document = await self.load()
        assert not document.parked
        text = str(document.doc.get("text", type=Text))
        await self._all("sees something else", lambda person: str(person.text) == text)

    async def _all(self, wrong: str, right: Callable[[Traveller], bool]) -> None:
        """Wait until something is so for everybody."""

        def happened() -> bool:
            for person in self.people:
                person.drain()
                person.hear()
            return all(map(right, self.people))

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await until(happened)
        for person in self.people:
            assert right(person), f"{person} {wrong}: {vars(person)}"


@pytest.mark.parametrize("run", range(6))
async def test_who_moves_between_two_servers_misses_nothing(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    run: int,
) -> None:
    seed = SEED + run
    print(f"MOVING_SEED={seed}")
    chance = Random(seed)
    url = f"sqlite:///{tmp_path / 'collab.db'}"
    if run % 2:
        server: DatabaseServer = request.getfixturevalue("postgres")
        url = server.create_database()
    world = World(url, chance, monkeypatch)
    for _ in range(2):
        await world.start()
    events: list[Callable[[], Awaitable[None]]] = [world.restart, world.look_after]
    try:
        for person in world.people:
            person.move(chance.choice(world.hubs))
        for _ in range(ROUNDS):
            # Some only move, so that what heals others doesn't heal these.
            kind = chance.randrange(4)
            for _ in range(STEPS):
                world.step()
                if kind == 1 and chance.random() < 0.05:
                    world.break_a_room()
                if kind > 1 and chance.random() < 0.02:
                    await events[kind - 2]()
                for _ in range(chance.randint(0, 3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.choice((0.001, 0.005, 0.01)))
            await world.agree()
            await world.check_saved()
    finally:
        await world.end()
