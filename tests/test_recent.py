"""What was appended to a log last, and whether it is enough for who was away."""

from __future__ import annotations

from collab.recent import MAX_ROWS, MAX_SIZE, Recent, suffices
from tests import crafted
from tests.peers import insert
from tests.vectors import history

FIRST, SECOND, THIRD, FOURTH = history("reorder")


def test_what_came_behind_a_position_is_known() -> None:
    recent = Recent(10)
    assert recent.since(10) == []
    recent.append([FIRST, SECOND])
    recent.append([THIRD])
    assert recent.since(10) == [FIRST, SECOND, THIRD]
    assert recent.since(12) == [THIRD]
    assert recent.since(13) == []
    assert recent.since(9) is None
    assert recent.since(14) is None


def test_only_so_much_is_kept() -> None:
    recent = Recent()
    recent.append([b"x"] * (MAX_ROWS + 5))
    assert recent.since(4) is None
    assert len(recent.since(5) or []) == MAX_ROWS
    recent.append([b"y" * (MAX_SIZE - 10)])
    rows = recent.since(recent.start)
    assert rows is not None
    assert sum(map(len, rows)) <= MAX_SIZE
    recent.append([b"z" * (MAX_SIZE + 1)])
    assert recent.since(recent.start) == []
    assert recent.size == 0


def test_rows_of_the_log_stand_before_what_was_appended() -> None:
    recent = Recent(10)
    recent.append([FOURTH])
    # The second one was made of three.
    recent.precede(5, [(6, FIRST), (9, SECOND), (10, THIRD)])
    assert recent.since(4) is None
    assert recent.since(5) == [FIRST, SECOND, THIRD, FOURTH]
    assert recent.since(6) == recent.since(8) == [SECOND, THIRD, FOURTH]
    assert recent.since(9) == [THIRD, FOURTH]
    assert recent.since(10) == [FOURTH]
    assert recent.since(11) == []
    assert recent.size == sum(map(len, (FIRST, SECOND, THIRD, FOURTH)))
    recent.append([b"x"] * (MAX_ROWS - 2))
    assert recent.start == 9
    assert recent.size == sum(map(len, [THIRD, FOURTH, *[b"x"] * (MAX_ROWS - 2)]))


def test_only_so_many_rows_of_the_log_are_kept() -> None:
    recent = Recent(MAX_ROWS)
    recent.append([b"x"] * 10)
    recent.precede(0, [(1 + at, b"y") for at in range(MAX_ROWS)])
    assert recent.start == 10
    assert recent.since(10) == [b"y"] * (MAX_ROWS - 10) + [b"x"] * 10
    recent = Recent(3)
    recent.append([b"x" * 10])
    recent.precede(0, [(1, b"a"), (2, b"b" * (MAX_SIZE - 10)), (3, b"c")])
    assert recent.since(1) is None
    assert recent.since(2) == [b"c", b"x" * 10]
    assert recent.size == 11
    full = Recent(5)
    full.append([b"x"] * MAX_ROWS)
    full.precede(0, [(5, b"y")])
    assert full.start == 5
    assert full.since(5) == [b"x"] * MAX_ROWS


def test_rows_suffice_if_they_build_upon_what_is_there() -> None:
    wanted = {1: 3}
    assert suffices({1: 3}, [], wanted, {})
    assert suffices({1: 1}, [SECOND, THIRD], wanted, {})
    assert suffices({}, [FIRST, SECOND, THIRD], wanted, {})
    assert not suffices({}, [SECOND, THIRD], wanted, {})  # Between them is a gap.
    assert not suffices({1: 1}, [SECOND], wanted, {})
    assert not suffices({1: 3}, [], {1: 3, 2: 1}, {})
    assert suffices({1: 3}, [insert(2, "ab")], {1: 3, 2: 2}, {})
    # Who has more than the server is asked for it elsewhere.
    assert suffices({1: 9, 7: 4}, [], wanted, {})


def test_rows_that_came_early_do_not_suffice() -> None:
    """They stand before what they wait for, and clients take them in this order."""
    early = crafted.typed(7, 0, "x", (1, 2))  # Behind the third letter of client 1.
    assert not suffices({1: 1}, [early, SECOND, THIRD], {1: 3, 7: 1}, {})
    assert suffices({1: 1}, [SECOND, THIRD, early], {1: 3, 7: 1}, {})
    assert suffices({1: 3}, [early], {1: 3, 7: 1}, {})


def test_updates_of_several_clients_count_for_each() -> None:
    updates = [insert(5, "abc"), insert(2, "b", 1)]
    assert suffices({2: 1}, updates, {2: 2, 5: 3}, {})
    assert not suffices({}, updates, {2: 2, 5: 3}, {})


def test_deletions_that_waited_for_what_they_delete_are_missed() -> None:
    """They stand before the position: they came before what is sent."""
    deleted = {1: [0, 1, 2, 3]}
    wanted = {1: 3}
    assert not suffices({1: 1}, [SECOND, THIRD], wanted, deleted)
    deleting = b"\x00\x01\x01\x01\x02\x01"
    assert suffices({1: 1}, [SECOND, THIRD, deleting], wanted, deleted)
    # Nor had its author heard of them.
    assert not suffices({1: 3}, [THIRD], wanted, deleted)
    # What was there before was deleted before, or by what is sent.
    assert suffices({1: 3}, [], wanted, deleted)
