"""How much one client, one user, one address may have, and how fast."""

from __future__ import annotations

import pytest

from collab.errors import QuotaExceeded, TooMany
from collab.limits import Limits
from collab.quotas import REMEMBERED, Guest, Pace, Quotas, Rates

# How many.


def test_an_address_has_so_many_connections() -> None:
    quotas = Quotas(Limits(connections_per_address=2))
    guests = [quotas.admit("192.0.2.1"), quotas.admit("192.0.2.1")]
    with pytest.raises(TooMany, match="connections from your address") as raised:
        quotas.admit("192.0.2.1")
    assert (raised.value.close_code, raised.value.http_status) == (4529, 429)
    others = [quotas.admit("192.0.2.2"), quotas.admit(), quotas.admit(), quotas.admit()]
    guests[0].leave()
    guests[0].leave()
    guests.append(quotas.admit("192.0.2.1"))
    with pytest.raises(TooMany):
        quotas.admit("192.0.2.1")
    for guest in (*guests, *others):
        guest.leave()
    assert quotas.addresses == {}


def test_a_user_has_so_many_connections_and_each_as_many_documents() -> None:
    quotas = Quotas(Limits(connections_per_user=2))
    first, second, third = (quotas.admit() for _ in range(3))
    for document in ("a", "b", "c"):
        first.sit(document, "ann", 0)
    second.sit("a", "ann", 1)
    with pytest.raises(TooMany, match="connections of yours"):
        third.sit("a", "ann", 2)
    third.sit("a", "bob", 2)
    first.rise("a", "ann")
    first.rise("b", "ann")
    with pytest.raises(TooMany):
        third.sit("b", "ann", 0)
    first.rise("c", "ann")
    third.sit("b", "ann", 0)
    third.rise("b", "ann")
    third.rise("a", "bob")
    second.rise("a", "ann")
    assert (quotas.users, quotas.shares) == ({}, {})


def test_a_document_has_so_many_sessions() -> None:
    quotas = Quotas(Limits(sessions_per_document=4))
    guest = quotas.admit()
    guest.sit("d", "", 3)
    with pytest.raises(TooMany, match="clients in this document"):
        guest.sit("d", "", 4)


@pytest.mark.parametrize(("user", "address"), [("ann", ""), ("", "192.0.2.1")])
def test_nobody_fills_a_document_alone(user: str, address: str) -> None:
    quotas = Quotas(Limits(sessions_per_document=4))
    guests = [quotas.admit(address) for _ in range(3)]
    guests[0].sit("d", user, 0)
    guests[1].sit("d", user, 1)
    with pytest.raises(TooMany, match="clients of yours in this document"):
        guests[2].sit("d", user, 2)
    guests[2].sit("another", user, 0)
    quotas.admit("192.0.2.2").sit("d", "bob", 2)
    guests[0].rise("d", user)
    guests[2].sit("d", user, 2)


def test_who_turns_out_to_be_somebody_else_counts_as_they() -> None:
    quotas = Quotas(Limits(connections_per_user=1))
    guest, other = quotas.admit("192.0.2.1"), quotas.admit("192.0.2.1")
    guest.sit("d", "", 0)
    guest.move("d", "", "ann")
    assert quotas.shares == {("d", "ann"): 1}
    other.sit("d", "bob", 1)
    with pytest.raises(TooMany):
        other.move("d", "bob", "ann")
    assert quotas.shares == {("d", "ann"): 1, ("d", "bob"): 1}
    guest.move("d", "ann", "")
    other.move("d", "bob", "ann")
    other.move("d", "ann", "ann")
    assert quotas.shares == {("d", "192.0.2.1"): 1, ("d", "ann"): 1}
    guest.rise("d", "")
    other.rise("d", "ann")
    assert (quotas.users, quotas.shares) == ({}, {})


def test_what_is_too_many_now_is_not_too_large_for_ever() -> None:
    # y-websocket comes back after any code but those from 4400 to 4499.
    assert issubclass(TooMany, QuotaExceeded)
    assert QuotaExceeded.close_code == 4413
    assert TooMany.close_code == 4529


# How fast.

SLOW = Limits(
    message_rate=10,
    message_burst=20,
    byte_rate=1000,
    byte_burst=5000,
    overrun_time=30,
)


def test_a_burst_is_free_and_then_one_waits() -> None:
    pace = Pace(Rates(SLOW))
    assert [pace.spend(1, 0, 100.0) for _ in range(20)] == [0.0] * 20
    assert pace.spend(1, 0, 100.0) == pytest.approx(0.1)
    assert pace.spend(1, 0, 100.0) == pytest.approx(0.2)


def test_who_goes_on_at_the_rate_never_waits() -> None:
    pace = Pace(Rates(SLOW))
    waits = [pace.spend(1, 100, 100.0 + second / 10) for second in range(10_000)]
    assert waits == [0.0] * 10_000


def test_bytes_count_beside_messages() -> None:
    pace = Pace(Rates(SLOW))
    assert pace.spend(1, 5000, 100.0) == 0.0
    assert pace.spend(1, 1000, 100.0) == pytest.approx(1.0)
    assert pace.spend(1, 0, 101.0) == 0.0


def test_what_is_larger_than_the_burst_is_taken_and_waited_for() -> None:
    pace = Pace(Rates(SLOW))
    assert pace.spend(1, 25_000, 100.0) == pytest.approx(20.0)
    assert pace.spend(1, 0, 120.0) == 0.0


def test_who_is_held_back_for_too_long_is_told_which_limit_it_is() -> None:
    for messages, size, what in ((1, 0, "messages"), (0, 100, "bytes")):
        pace = Pace(Rates(SLOW))
        now = 100.0
        while now < 130.0:
            now += pace.spend(messages, size, now)
        with pytest.raises(TooMany, match=f"too many {what} per second") as raised:
            pace.spend(messages, size, now)
        assert raised.value.close_code == 4529


def test_who_pauses_is_forgiven() -> None:
    pace = Pace(Rates(SLOW))
    now = 100.0
    for _ in range(10):
        until = now + 25
        while now < until:
            now += pace.spend(1, 10, now)
        now += 3  # As long as it takes to fill the bucket.


def test_all_connections_of_a_user_go_on_together() -> None:
    quotas = Quotas(SLOW)
    guests = [quotas.admit() for _ in range(4)]
    for guest in guests:
        guest.sit("d", "ann", 0)
    assert [guest.pace.spend(5, 0, 100.0) for guest in guests] == [0.0] * 4
    assert guests[0].pace.spend(1, 0, 100.0) > 0
    assert quotas.admit().pace.spend(20, 0, 100.0) == 0.0


def test_who_comes_back_is_no_faster() -> None:
    quotas = Quotas(SLOW)
    guest = quotas.admit()
    guest.sit("d", "ann", 0)
    assert guest.pace.spend(20, 0, 100.0) == 0.0
    guest.rise("d", "ann")
    guest = quotas.admit()
    guest.sit("d", "ann", 0)
    assert guest.pace.spend(10, 0, 100.0) == pytest.approx(1.0)
    guest.rise("d", "ann")
    for count in range(REMEMBERED):
        other = quotas.admit()
        other.sit("e", f"yet another {count}", 0)
        other.rise("e", f"yet another {count}")
    assert len(quotas.paces) == REMEMBERED
    assert "ann" not in quotas.paces


def test_the_default_lets_honest_clients_be() -> None:
    limits = Limits()

    def waits(guest: Guest, messages: float, size: int) -> float:
        """How long somebody waits who does that each second, for an hour."""
        return sum(
            guest.pace.spend(1, size, second / messages)
            for second in range(int(3600 * messages))
        )

    # Somebody who types and moves a cursor; somebody who draws, with sixty edits and
    # cursors a second; somebody who repeats the cursors of a crowd of 200.
    assert waits(Quotas(limits).admit(), 20, 60) == 0
    assert waits(Quotas(limits).admit(), 120, 500) == 0
    assert waits(Quotas(limits).admit(), 25, 60_000) == 0
    # Somebody who was offline, twice, and somebody who opens a thousand documents.
    guest = Quotas(limits).admit()
    assert guest.pace.spend(1, limits.frame_size, 0.0) == 0
    assert guest.pace.spend(1, limits.frame_size, 0.0) == 0
    assert guest.pace.spend(3 * limits.documents, 100 * limits.documents, 0.0) == 0
