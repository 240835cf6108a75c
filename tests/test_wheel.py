"""Connections, and when each is told to go."""

from __future__ import annotations

import pytest

from collab.wheel import DRAIN, PACE, Wheel


class Connection:
    """A connection that counts what is done to it."""

    def __init__(self) -> None:
        self.beats = 0
        self.advised: list[tuple[float, float]] = []

    def beat(self) -> None:
        self.beats += 1

    def check_progress(self, now: float) -> None:
        """It always makes some."""

    def advise(self, after: float, window: float) -> None:
        self.advised.append((after, window))


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
def test_each_is_told_a_moment_of_its_own_to_go(count: int) -> None:
    wheel = Wheel(25)
    connections = [Connection() for _ in range(count)]
    for connection in connections:
        wheel.add(connection)
    wheel.begin_to_leave()
    assert wheel.window == min(DRAIN, PACE * count)
    assert {len(connection.advised) for connection in connections} == {1}
    step = wheel.window / count
    moments = sorted(moment for one in connections for moment in one.advised)
    expected = [(turn * step, step) for turn in range(count)]
    assert moments == [pytest.approx(moment) for moment in expected]


def test_nobody_is_told_to_go_if_nobody_is_there() -> None:
    wheel = Wheel(25)
    wheel.begin_to_leave()
    assert wheel.window == 0.0
