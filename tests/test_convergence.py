"""Whatever happens on the way, everybody ends with the same, and so does the log.

``CONVERGENCE_SEEDS=5000`` tries more worlds, ``CONVERGENCE_SEED=17`` repeats one.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation import World

SEEDS = range(int(os.environ.get("CONVERGENCE_SEEDS", "500")))
if "CONVERGENCE_SEED" in os.environ:
    SEEDS = range(only := int(os.environ["CONVERGENCE_SEED"]), only + 1)
GROUP = 25

FOUND = {
    "of_concurrent_writes_one_is_deleted_by_nobody": 4,
    "one_that_left_was_asked_for_what_it_lacked": 24,
    "strings_were_joined_when_they_were_loaded": 70,
    "an_echo_was_taken_for_an_introduction": 119,
    "a_released_update_looked_acknowledged": 864,
}
"""Worlds that once went wrong, and why."""


def live(seed: int) -> World:
    """Live through the world of a seed."""
    world = World(seed, clients=2 + seed % 4)
    for _ in range(300):
        world.step()
    world.settle()
    world.check()
    return world


@pytest.mark.parametrize("first", SEEDS[::GROUP])
def test_any_world_converges(first: int) -> None:
    for seed in range(first, min(first + GROUP, SEEDS.stop)):
        print(f"CONVERGENCE_SEED={seed}")
        live(seed)


@pytest.mark.parametrize("seed", FOUND.values(), ids=FOUND.keys())
def test_what_went_wrong_once_goes_well(seed: int) -> None:
    live(seed)


def test_worlds_are_eventful() -> None:
    """A simulation in which nothing happens proves nothing."""
    worlds = [live(seed) for seed in range(1000, 1020)]
    assert sum(world.crashes for world in worlds) > 5
    assert sum(world.parked for world in worlds) > 100
    assert sum(len(world.log) for world in worlds) > 300
    assert sum(world.snapshot is not None for world in worlds) > 5
    assert sum(bool(world.room.document.gate.deleted) for world in worlds) > 10
