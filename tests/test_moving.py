"""People who edit, and go from one server of a database to the other all the time.

``MOVING_SEED=17`` repeats a history.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pycrdt import Doc, Text

from collab import wire
from collab.dialects import native
from collab.folding import fold
from collab.hub import Hub
from collab.messages import Message
from collab.replica import Replica
from tests.databases import DatabaseServer
from tests.test_native_connection import Client, until
from tests.test_recalling import started

SEED = int(os.environ.get("MOVING_SEED", random.SystemRandom().randrange(2**32)))

PEOPLE = 6

ROUNDS = 20
STEPS = 50
"""Of each round, after which all must agree: who moves again may be healed by it."""

PATIENCE = 20
"""Seconds after which all must see what is saved."""


class Traveller:
    """Somebody with a copy of the document, and a connection to one of the servers."""

    def __init__(self, number: int) -> None:
        self.doc: Doc[Any] = Doc(client_id=number)
        self.text = self.doc.get("text", type=Text)
        self.replica = Replica("d", self.doc, lambda: None)
        self.client: Client | None = None

    def move(self, hub: Hub) -> None:
        """Go to a server; what the last one has yet to say is heard, or is not."""
        self.leave()
        self.client = Client(hub)
        self.say(self.replica.open(""))

    def leave(self) -> None:
        if self.client is not None:
            self.client.connection.close(goodbye=True)
            self.client = None
            self.replica.leave()

    def say(self, *messages: Message) -> None:
        assert self.client is not None
        frame = b"".join(wire.uint(1) + native.spell(message) for message in messages)
        if frame:
            assert self.client.connection.receive(frame) is None

    def hear(self) -> None:
        """Take what the server has said, and say what there is to say."""
        if self.client is None:
            return
        frames, self.client.frames = self.client.frames, []
        for frame in frames:
            for channel, message in native.read(frame):
                if channel:
                    self.replica.receive(message)
        self.say(*self.replica.take(1000))

    def write(self, chance: Random) -> None:
        length = len(self.text)
        at = chance.randint(0, length)
        if length > 4 and chance.random() < 0.4:
            at = min(at, length - 2)
            del self.text[at : at + chance.randint(1, 2)]
        else:
            self.text.insert(at, chance.choice("abcdefgh"))


def make_slow(patch: pytest.MonkeyPatch, hub: Hub, chance: Random) -> None:
    """Have a server take its time to read what the other has written."""
    learn = hub.follower._learn

    async def learn_later(*arguments: Any) -> None:
        await asyncio.sleep(chance.choice((0, 0.005, 0.02)))
        await learn(*arguments)

    patch.setattr(hub.follower, "_learn", learn_later)


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
    async with AsyncExitStack() as stack:
        hubs = [await stack.enter_async_context(started(url)) for _ in range(2)]
        for hub in hubs:
            make_slow(monkeypatch, hub, chance)
        people = [Traveller(number) for number in range(1, PEOPLE + 1)]
        for person in people:
            person.move(chance.choice(hubs))
        for _ in range(ROUNDS):
            for _ in range(STEPS):
                step(chance.choice(people), chance, hubs)
                for _ in range(chance.randint(0, 3)):
                    await asyncio.sleep(0)
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.choice((0.001, 0.005, 0.01)))
            await agree(people, hubs)
        for person in people:
            person.leave()


def step(person: Traveller, chance: Random, hubs: list[Hub]) -> None:
    roll = chance.random()
    if roll < 0.2:
        person.write(chance)
    elif roll < 0.3:
        person.move(chance.choice(hubs))
    else:
        person.hear()


async def agree(people: list[Traveller], hubs: list[Hub]) -> None:
    """Wait until all is saved, and everybody sees the same."""

    def saved() -> bool:
        for person in people:
            person.hear()
        return all(p.replica.synced and p.replica.oldest is None for p in people)

    await until(saved)
    for hub in hubs:
        await hub._poll()
    truth = fold(await asyncio.to_thread(hubs[0].store.load, "d"))
    expected = str(truth.doc.get("text", type=Text))

    def seen() -> bool:
        for person in people:
            person.hear()
        return all(str(person.text) == expected for person in people)

    async with asyncio.timeout(PATIENCE):
        await until(seen)
