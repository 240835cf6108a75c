"""Who is meant by what was revoked."""

from __future__ import annotations

import pytest

from collab.auth import Grant
from collab.revoked import Revocation, Revoked

NOW = 1000.0

ANN = Grant("ann", token_id="t1", issued_at=500.0)


def numbers(revoked: Revoked, grant: Grant, document: str = "notes/a") -> int | None:
    found = revoked.find(grant, document, NOW)
    return None if found is None else found.number


@pytest.mark.parametrize(
    ("revocation", "meant"),
    [
        (Revocation(1, user="ann"), True),
        (Revocation(1, user="Ann"), False),
        (Revocation(1, user="bob"), False),
        (Revocation(1, token_id="t1"), True),
        (Revocation(1, token_id="t2"), False),
        (Revocation(1, document="notes/a"), True),
        (Revocation(1, document="notes/*"), True),
        (Revocation(1, document="notes"), False),
        (Revocation(1, issued_before=500.1), True),
        (Revocation(1, issued_before=500.0), False),
        (Revocation(1, user="ann", document="notes/*"), True),
        (Revocation(1, user="ann", document="hr/*"), False),
        (Revocation(1, user="ann", token_id="t2"), False),
        (Revocation(1, user="bob", token_id="t1"), False),
        (Revocation(1, user="ann", issued_before=499.0), False),
        (Revocation(1, user="ann", until=NOW + 1), True),
        (Revocation(1, user="ann", until=NOW), False),
    ],
)
def test_all_that_is_said_must_be_true(revocation: Revocation, meant: bool) -> None:
    revoked = Revoked()
    revoked.add(revocation)
    assert (numbers(revoked, ANN) == 1) is meant


def test_who_cannot_say_when_access_was_given_has_it_from_before() -> None:
    revoked = Revoked()
    revoked.add(Revocation(1, issued_before=1.0))
    assert numbers(revoked, Grant("ann", issued_at=None)) == 1
    assert numbers(revoked, Grant("ann", issued_at=0.0)) == 1


def test_who_has_no_name_and_no_token_is_meant_by_documents_alone() -> None:
    revoked = Revoked()
    revoked.add(Revocation(1, user="ann"))
    revoked.add(Revocation(2, token_id="t1"))
    assert numbers(revoked, Grant()) is None
    revoked.add(Revocation(3, document="notes/*"))
    assert numbers(revoked, Grant()) == 3


def test_what_is_over_or_undone_is_forgotten() -> None:
    revoked = Revoked()
    revoked.add(Revocation(1, user="ann", until=10.0))
    revoked.add(Revocation(2, user="ann", token_id="t1", until=20.0))
    revoked.add(Revocation(3, document="**"))
    revoked.expire(9.0)
    assert len(revoked) == 3
    revoked.expire(10.0)
    assert len(revoked) == 2
    revoked.discard(3)
    revoked.discard(3)
    assert len(revoked) == 1
    revoked.expire(20.0)
    assert len(revoked) == 0
    assert revoked._by_user == {}
    assert revoked._by_token == {}
