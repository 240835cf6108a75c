"""Something of which only so much is done at a time, fairly."""

from __future__ import annotations

import asyncio
import random

import pytest

from collab.turns import Turns

pytestmark = pytest.mark.anyio


class Work:
    """Work that takes until it is told to end, and who began it in which order."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self.running: dict[str, list[asyncio.Event]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def want(self, who: str, times: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._do(who)) for _ in range(times)]

    async def _do(self, who: str) -> None:
        async with self.turns.turn(who):
            end = asyncio.Event()
            self.begun.append(who)
            self.running.setdefault(who, []).append(end)
            await end.wait()

    async def finish(self, who: str) -> None:
        self.running[who].pop(0).set()
        await settle()

    async def finish_all(self) -> None:
        while any(self.running.values()):
            for who in list(self.running):
                while self.running[who]:
                    await self.finish(who)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_are_taken_at_a_time_and_so_many_by_one() -> None:
    work = Work(Turns(3, 2))
    work.want("ann", 4)
    await settle()
    assert work.begun == ["ann", "ann"]
    work.want("bob", 2)
    await settle()
    assert work.begun == ["ann", "ann", "bob"]
    await work.finish("bob")
    assert work.begun == ["ann", "ann", "bob", "bob"]
    await work.finish_all()
    assert len(work.begun) == 6
    assert work.turns.taken == {}


async def test_who_wants_one_does_not_wait_for_who_wants_a_thousand() -> None:
    work = Work(Turns(2, 1))
    work.want("ann", 1000)
    work.want("bob", 1000)
    await settle()
    work.want("cyd")
    await settle()
    await work.finish("ann")
    await work.finish("bob")
    assert "cyd" in work.begun
    assert len(work.begun) == 4
    for task in work.tasks:
        task.cancel()
    await settle()
    assert work.turns.taken == {}


async def test_who_goes_makes_room_and_takes_none() -> None:
    work = Work(Turns(1, 1))
    work.want("ann")
    await settle()
    work.want("bob")
    work.want("cyd")
    await settle()
    _, bob, _ = work.tasks
    bob.cancel()
    await settle()
    await work.finish("ann")
    assert work.begun == ["ann", "cyd"]


async def test_who_goes_at_its_very_turn_passes_it_on() -> None:
    work = Work(Turns(1, 1))
    for who in ("ann", "bob", "cyd", "dan"):
        work.want(who)
        await settle()
    _, bob, cyd, _ = work.tasks
    bob.cancel()  # Before it is its turn, and it hasn't heard of that yet...
    work.running["ann"].pop().set()
    await asyncio.sleep(0)
    cyd.cancel()  # ...and when it has just been given it.
    await settle()
    assert work.begun == ["ann", "dan"]


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_lost_whoever_comes_and_goes(seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    turns = Turns(3, 2)
    work = Work(turns)
    for _ in range(300):
        match dice.randrange(4):
            case 0 | 1:
                work.want(dice.choice("abcd"), dice.randrange(1, 4))
            case 2:
                dice.choice(work.tasks or [asyncio.create_task(settle())]).cancel()
            case 3:
                for ends in work.running.values():
                    if ends and dice.random() < 0.5:
                        ends.pop(0).set()
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
        assert sum(turns.taken.values()) <= 3
        assert max(turns.taken.values(), default=0) <= 2
    while not all(task.done() for task in work.tasks):
        for ends in work.running.values():
            while ends:
                ends.pop().set()
        await settle()
    assert turns.taken == {}
    work.want("a", 2)
    await settle()
    assert turns.taken == {"a": 2}
    await work.finish_all()
