"""Who may open which document: what a handshake says, and who decides."""

from __future__ import annotations

import asyncio

import pytest

from collab import auth
from collab.auth import Access, Attempt, Door, Grant, Visitor, select_subprotocol
from collab.errors import AccessDenied, Unavailable


def visitor(
    *headers: tuple[str, str], query: str = "", subprotocols: tuple[str, ...] = ()
) -> Visitor:
    return Visitor.of("1.2.3.4:5", headers, query, subprotocols)


def test_a_token_comes_in_several_ways_of_which_the_first_counts() -> None:
    query, header = "token=query", ("Authorization", "Bearer header")
    everything = visitor(header, query=query, subprotocols=("yjs", "bearer.protocol"))
    assert everything.attempt("d", "message").token == "message"
    assert everything.attempt("d").token == "protocol"
    assert visitor(header, query=query).attempt("d").token == "header"
    assert visitor(query=query).attempt("d").token == "query"
    assert visitor().attempt("d").token == ""


@pytest.mark.parametrize(
    ("value", "token"),
    [("bearer  abc ", "abc"), ("Basic abc", ""), ("Bearer", ""), ("Bearer ", "")],
)
def test_the_header_has_a_scheme(value: str, token: str) -> None:
    assert visitor(("authorization", value)).token == token


def test_an_attempt_says_what_the_handshake_said() -> None:
    attempt = visitor(
        ("Cookie", "a=1"), ("X-Many", "1"), ("x-many", "2"), query="a=1&a=2&b=%20&c"
    ).attempt("d")
    assert attempt.document == "d"
    assert attempt.headers == {"cookie": "a=1", "x-many": "1, 2"}
    assert attempt.query == {"a": "2", "b": " ", "c": ""}
    assert attempt.peer == "1.2.3.4:5"


def test_a_token_stays_out_of_what_is_shown() -> None:
    attempt = visitor(("Cookie", "secret"), query="token=secret").attempt("d", "secret")
    assert "secret" not in repr(attempt)
    assert "secret" not in repr(visitor(query="token=secret"))


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["yjs"], "yjs"),
        (["bearer.abc", "yjs", "other"], "yjs"),
        (["bearer.abc"], "bearer.abc"),
    ],
)
def test_a_token_is_sent_back_only_if_there_is_nothing_else(
    offered: list[str], chosen: str | None
) -> None:
    assert select_subprotocol(offered) == chosen


async def test_everybody_may_enter_a_door_that_nobody_keeps() -> None:
    assert Door().open
    assert await Door().admit(visitor().attempt("d")) == Grant("", Access.WRITE)


async def test_the_application_decides() -> None:
    async def authorize(attempt: Attempt) -> Grant | None:
        if attempt.token == "wrong":
            raise AccessDenied("expired")
        return Grant("ann", Access.READ) if attempt.token else None

    door = Door(authorize)
    assert not door.open
    assert await door.admit(visitor().attempt("d", "right")) == Grant(
        "ann", Access.READ
    )
    with pytest.raises(AccessDenied, match="permission-denied"):
        await door.admit(visitor().attempt("d"))
    with pytest.raises(AccessDenied, match="expired"):
        await door.admit(visitor().attempt("d", "wrong"))


async def test_without_a_decision_nobody_enters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(attempt: Attempt) -> Grant | None:
        raise PermissionError("a file cannot be read")

    async def hang(attempt: Attempt) -> Grant | None:
        await asyncio.Event().wait()
        return Grant()

    monkeypatch.setattr(auth, "AUTHORIZE_TIME", 0.01)
    for authorize in (fail, hang):
        with pytest.raises(Unavailable):
            await Door(authorize).admit(visitor().attempt("d", "secret"))
    assert "cannot decide" in caplog.text
    assert "no decision" in caplog.text
    assert "secret" not in caplog.text
