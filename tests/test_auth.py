"""Who may open which document: what a handshake says, and who decides."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from collab import auth
from collab.auth import (
    EXPIRED,
    MAX_TOKEN,
    Access,
    AnyOf,
    Attempt,
    Authenticator,
    Door,
    Grant,
    Visitor,
    select_subprotocol,
)
from collab.errors import AccessDenied, CollabError, Unavailable


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


def test_cookies_of_several_headers_are_told_apart() -> None:
    attempt = visitor(("Cookie", "a=1; b=2"), ("cookie", 'c="3 4"')).attempt("d")
    assert [attempt.cookie(name) for name in "abcd"] == ["1", "2", "3 4", ""]


async def test_a_token_is_bounded_before_anybody_is_asked() -> None:
    asked = []

    async def authorize(attempt: Attempt) -> Grant:
        asked.append(attempt)
        return Grant()

    door = Door(authorize)
    await door.admit(visitor().attempt("d", "x" * MAX_TOKEN))
    with pytest.raises(AccessDenied):
        await door.admit(visitor().attempt("d", "x" * (MAX_TOKEN + 1)))
    assert len(asked) == 1


async def test_nobody_enters_whose_time_is_over() -> None:
    for ends, enters in ((-1, False), (math.nan, False), (60, True), (math.inf, True)):
        grant = Grant(expires_at=time.time() + ends)

        async def authorize(attempt: Attempt, grant: Grant = grant) -> Grant:
            return grant

        if enters:
            assert await Door(authorize).admit(visitor().attempt("d")) == grant
        else:
            with pytest.raises(AccessDenied, match=EXPIRED):
                await Door(authorize).admit(visitor().attempt("d"))


class Guard(Authenticator):
    """Somebody with one answer, who is opened and closed."""

    def __init__(self, answer: Grant | CollabError | None) -> None:
        self.answer = answer
        self.seen: list[str] = []

    async def open(self) -> None:
        self.seen.append("opened")

    async def close(self) -> None:
        self.seen.append("closed")

    async def __call__(self, attempt: Attempt) -> Grant | None:
        self.seen.append("asked")
        if isinstance(self.answer, CollabError):
            raise self.answer
        return self.answer


YES, NO = Grant("ann"), AccessDenied("no")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([YES, Unavailable("x")], Grant),
        ([NO, YES], Grant),
        ([None, YES], Grant),
        ([Unavailable("x"), YES], Grant),
        ([Unavailable("x"), NO], Unavailable),
        ([NO, Unavailable("x")], Unavailable),
        ([NO, None], AccessDenied),
        ([None, None], AccessDenied),
    ],
)
async def test_one_of_several_who_says_yes_suffices(
    answers: list[Grant | CollabError | None], expected: type[object]
) -> None:
    guards = [Guard(answer) for answer in answers]
    door = Door(AnyOf(*guards))
    await door.prepare()
    results = await asyncio.gather(
        door.admit(visitor().attempt("d")), return_exceptions=True
    )
    assert [type(result) for result in results] == [expected]
    await door.close()
    for guard in guards:
        assert guard.seen[0] == "opened"
        assert guard.seen[-1] == "closed"
    if answers[0] is YES:
        assert "asked" not in guards[1].seen


async def test_an_error_that_names_the_token_is_logged_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def authorize(attempt: Attempt) -> Grant:
        return {"another": Grant()}[attempt.token]

    with pytest.raises(Unavailable):
        await Door(authorize).admit(visitor().attempt("d", "secret"))
    assert "KeyError: '[token]'" in caplog.text
    assert "secret" not in caplog.text


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
