"""Ranges stand for sets of clocks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collab.ranges import MANY, Ranges, behind, extend, includes, unite


def ranges(clocks: set[int]) -> Ranges:
    found: Ranges = []
    for clock in sorted(clocks):
        extend(found, clock, clock + 1)
    return found


def clocks(found: Ranges) -> set[int]:
    pairs = zip(found[::2], found[1::2], strict=True)
    return {clock for start, end in pairs for clock in range(start, end)}


FEW = st.sets(st.integers(0, 60))
SETS = FEW | st.sets(st.integers(0, 6 * MANY), min_size=3 * MANY)


@given(SETS)
def test_ranges_are_flat_and_ascending(one: set[int]) -> None:
    assert ranges(one) == sorted(set(ranges(one)))
    assert clocks(ranges(one)) == one


@given(SETS, SETS)
def test_ranges_are_united(one: set[int], two: set[int]) -> None:
    known, more = ranges(one), ranges(two)
    unite(known, more)
    assert known == ranges(one | two)
    assert more == ranges(two)


def test_ranges_that_touch_become_one() -> None:
    known = [0, 2, 4, 6]
    unite(known, [2, 4])
    assert known == [0, 6]
    many = [n for start in range(0, 8 * MANY, 4) for n in (start, start + 2)]
    between = [n + 2 for n in many]
    unite(many, between)
    assert many == [0, 8 * MANY]


@given(SETS, SETS)
def test_ranges_include_others(one: set[int], two: set[int]) -> None:
    assert includes(ranges(one), ranges(two)) is (two <= one)
    assert includes(ranges(one | two), ranges(two))


@given(SETS, st.integers(0, 70))
def test_ranges_go_on_behind_a_clock(one: set[int], clock: int) -> None:
    assert behind(ranges(one), clock) == ranges({n for n in one if n >= clock})
