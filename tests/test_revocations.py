"""Revocations in each kind of database."""

from __future__ import annotations

import threading
import time

import pytest

from collab.errors import BadName, NotRevoked, StoreError
from collab.revocations import KEPT, PAGE, Revocations, revocation
from collab.store import Store
from tests.stores import behind_its_back, opened


@pytest.fixture
def revocations(store: Store) -> Revocations:
    return Revocations(store.database)


def test_what_is_revoked_is_read_as_it_was_made(revocations: Revocations) -> None:
    made = revocation("änn 😀", "t-1", "notes/é*", 1700000000.2501, time.time() + 60)
    assert revocations.add(made) == 1
    (found,) = revocations.since(0)
    assert (found.user, found.token_id, found.document) == ("änn 😀", "t-1", "notes/é*")
    assert found.issued_before == 1700000000.251  # Never earlier than it was said.
    assert found.until == pytest.approx(made.until, abs=0.001)
    assert not found.kick
    assert list(revocations.listing()) == [found]


def test_names_are_not_confused(revocations: Revocations) -> None:
    for user, document in (("ann", "a"), ("Ann", "A"), ("ann ", "a ")):
        revocations.add(revocation(user, document=document))
    found = [(each.user, each.document) for each in revocations.since(0)]
    assert found == [("ann", "a"), ("Ann", "A"), ("ann ", "a ")]


def test_what_is_undone_is_over(revocations: Revocations) -> None:
    first = revocations.add(revocation("ann"))
    second = revocations.add(revocation("bob"))
    revocations.undo(first)
    assert [each.user for each in revocations.listing()] == ["bob"]
    assert revocations.since(second)[-1].undoes == first
    for number in (first, 3, 99):  # Undone, the undoing, and none.
        with pytest.raises(NotRevoked, match=f"no revocation {number}"):
            revocations.undo(number)


def test_a_kick_is_over_at_once(revocations: Revocations) -> None:
    number = revocations.add(revocation("ann", kick=True))
    assert list(revocations.listing()) == []
    assert revocations.since(0)[0].kick
    with pytest.raises(NotRevoked):
        revocations.undo(number)


def test_what_is_over_for_long_is_deleted_but_never_the_newest(
    store: Store, revocations: Revocations
) -> None:
    old = time.time() - KEPT / 1000 - 60
    revocations.add(revocation("ann", until=old))
    assert revocations.add(revocation("bob", until=old)) == 2
    assert [each.number for each in revocations.since(0)] == [1, 2]
    assert revocations.add(revocation("eve")) == 3
    query = "SELECT id FROM revocations ORDER BY id"
    assert behind_its_back(store.url, query) == [2, 3]


def test_many_are_read_in_pages(store: Store, revocations: Revocations) -> None:
    values = ", ".join(f"({n}, 'revoke', 'u{n}', 0)" for n in range(1, PAGE + 6))
    insert = f"INSERT INTO revocations (id, kind, account, at) VALUES {values}"
    behind_its_back(store.url, insert)
    assert len(revocations.since(0)) == PAGE
    assert next(each.number for each in revocations.since(PAGE)) == PAGE
    assert len(list(revocations.listing())) == PAGE + 5


def test_who_has_read_up_to_a_number_has_missed_none(store: Store, kind: str) -> None:
    """Several write at once, each on connections of its own, and one reads."""
    writers = [Revocations(Store(store.url).database) for _ in range(4)]
    reader = Revocations(store.database)
    failed: list[BaseException] = []

    def write(mine: Revocations, name: str) -> None:
        try:
            for count in range(15):
                mine.add(revocation(f"{name}-{count}"))
        except BaseException as exc:
            failed.append(exc)

    threads = [
        threading.Thread(target=write, args=(mine, str(index)))
        for index, mine in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while any(thread.is_alive() for thread in threads):
        seen += [each.number for each in reader.since(len(seen) + 1)]
    for thread in threads:
        thread.join()
    seen += [each.number for each in reader.since(len(seen) + 1)]
    for mine in writers:
        mine.database.close()
    assert failed == []
    assert seen == list(range(1, 61))


def test_what_cannot_be_revoked_is_refused() -> None:
    with pytest.raises(ValueError, match="say who is meant"):
        revocation(until=time.time() + 60)
    for user, token in (("", None), ("a" * 256, None), (None, "a\nb")):
        with pytest.raises(ValueError, match="is a text of 1 to 255"):
            revocation(user, token)
    with pytest.raises(BadName):
        revocation(document="a***")
    for at in (float("nan"), float("inf"), -1.0, 1e15):
        with pytest.raises(ValueError, match="is not a time"):
            revocation(issued_before=at)


def test_a_database_that_refuses_is_no_endless_loop(url: str) -> None:
    store = opened(url)
    behind_its_back(url, "DROP TABLE revocations")
    with pytest.raises(StoreError):
        Revocations(store.database).add(revocation("ann"))
    store.close()
