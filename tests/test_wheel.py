"""Connections, and when each is told to go."""

from __future__ import annotations

from itertools import pairwise

import pytest

from collab.wheel import DRAIN, PACE, Wheel


class Connection:
    """A connection that counts what is done to it."""

    def __init__(self) -> None:
        self.beats = 0
        self.advised: list[float] = []

    def beat(self) -> None:
        self.beats += 1

    def check_progress(self, now: float) -> None:
        """It always makes some."""

    def advise(self, window: float) -> None:
        self.advised.append(window)


def test_everybody_is_spoken_to_once_in_a_turn() -> None:
    wheel = Wheel(25)
    connections = [Connection() for _ in range(60)]
    for connection in connections:
        wheel.add(connection)
    assert len(wheel) == 60
    for _ in range(25):
        before = sum(connection.beats for connection in connections)
        wheel.turn(0.0)
        after = sum(connection.beats for connection in connections)
        assert after - before in (2, 3)
    assert {connection.beats for connection in connections} == {1}


@pytest.mark.parametrize("count", [1, 10, 399, 5000])
def test_all_are_told_to_go_one_after_the_other(count: int) -> None:
    wheel = Wheel(25)
    connections = [Connection() for _ in range(count)]
    spokes = [wheel.add(connection) for connection in connections]
    wheel.begin_to_leave()
    window = min(DRAIN, PACE * count)
    assert {tuple(connection.advised) for connection in connections} == {(window,)}
    turns = []
    for connection, spoke in zip(connections, spokes, strict=True):
        turns.append(wheel.turn_to_leave())
        wheel.remove(connection, spoke)
    assert turns[-1] == pytest.approx(window)
    steps = [after - before for before, after in pairwise([0.0, *turns])]
    assert steps == [pytest.approx(window / count)] * count
    assert wheel.turn_to_leave() == pytest.approx(window)  # One who came meanwhile.
