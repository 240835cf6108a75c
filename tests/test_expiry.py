"""Whose access ends, and when."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from collab.expiry import NOTICE, Expiry


class Guest:
    """Somebody whose access ends."""

    def __init__(self) -> None:
        self.reminded: list[float] = []
        self.expired = 0
        self.then: Callable[[], object] = lambda: None

    def remind(self, seconds: float) -> None:
        self.reminded.append(seconds)

    def expire(self) -> None:
        self.expired += 1
        self.then()


def test_somebody_is_reminded_before_and_gone_after() -> None:
    expiry, guest = Expiry(), Guest()
    expiry.keep(guest, 1000.0, now=0.0)
    expiry.turn(1000.0 - NOTICE - 1)
    assert guest.reminded == []
    expiry.turn(1000.0 - NOTICE)
    expiry.turn(999.0)
    assert guest.reminded == [NOTICE]
    assert guest.expired == 0
    expiry.turn(1000.0)
    expiry.turn(2000.0)
    assert guest.expired == 1
    assert len(expiry) == 0


def test_who_has_less_time_is_reminded_at_half_of_it() -> None:
    expiry, guest = Expiry(), Guest()
    expiry.keep(guest, 20.0, now=0.0)
    expiry.turn(9.0)
    assert guest.reminded == []
    expiry.turn(10.0)
    assert guest.reminded == [10.0]


def test_whenever_the_turns_are_there_is_time_to_answer() -> None:
    for begin in range(0, 1000, 50):
        for phase in range(0, 1000, 50):
            expiry, guest = Expiry(), Guest()
            expiry.keep(guest, 4.0, now=begin / 1000)  # As tokens end: on a second.
            for turn in range(4):
                expiry.turn(turn + phase / 1000)
            assert guest.reminded[0] > 1, (begin, phase)


def test_who_renews_stays_and_is_asked_again() -> None:
    expiry, guest = Expiry(), Guest()
    expiry.keep(guest, 1000.0, now=0.0)
    expiry.turn(950.0)
    expiry.keep(guest, 5000.0, now=951.0)
    expiry.turn(1001.0)
    assert guest.expired == 0
    expiry.turn(5000.0 - NOTICE)
    assert guest.reminded == [50.0, NOTICE]
    for never in (math.inf, None):
        expiry.keep(guest, never, now=4950.0)
        expiry.turn(10_000.0)
    assert guest.expired == 0


def test_who_has_left_is_forgotten() -> None:
    expiry, guest = Expiry(), Guest()
    expiry.keep(guest, 10.0, now=0.0)
    expiry.forget(guest)
    expiry.forget(guest)
    expiry.turn(20.0)
    assert guest.reminded == []
    assert guest.expired == 0
    assert len(expiry) == 0


def test_a_leap_of_the_clock_ends_what_it_leapt_over() -> None:
    expiry, guest = Expiry(), Guest()
    expiry.keep(guest, 1000.0, now=0.0)
    expiry.turn(2000.0)
    assert guest.expired == 1
    assert guest.reminded == []


def test_one_who_goes_may_take_others_along() -> None:
    expiry, one, other = Expiry(), Guest(), Guest()
    expiry.keep(one, 10.0, now=0.0)
    expiry.keep(other, 10.0, now=0.0)
    expiry.turn(5.0)
    one.then = lambda: expiry.forget(other)
    expiry.turn(10.0)
    assert one.expired == 1
    assert other.expired == 0
    assert len(expiry) == 0


def test_one_whose_end_fails_keeps_nobody_elses_access(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise OSError("gone")

    expiry, guests = Expiry(), [Guest(), Guest(), Guest()]
    guests[0].then = fail
    for guest in guests:
        expiry.keep(guest, 10.0, now=9.0)
    expiry.turn(10.0)
    assert [guest.expired for guest in guests] == [1, 1, 1]
    assert "unexpected error" in caplog.text


def test_what_ends_in_the_past_ends_at_the_next_turn() -> None:
    expiry, guest = Expiry(), Guest()
    expiry.keep(guest, 10.0, now=20.0)
    expiry.turn(20.0)
    assert guest.expired == 1
