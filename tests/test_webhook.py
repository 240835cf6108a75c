"""The application that decides, asked over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from collab import webhook
from collab.auth import Access, Attempt, Grant, Visitor
from collab.errors import AccessDenied, Unavailable
from collab.webhook import FAILURES, MAX_REST, REST, Breaker, Webhook
from tests.answering import Clock, Heard, Reply, Site, site


class Application:
    """An application: sessions are cookies ``session=USER`` or tokens ``USER``."""

    def __init__(self) -> None:
        self.access: dict[str, str] = {"ann": "write", "bob": "read"}
        self.reply: Callable[[Heard], Reply] | None = None
        """What it answers instead."""

    def answer(self, heard: Heard) -> Reply:
        if self.reply is not None:
            return self.reply(heard)
        cookie = heard.headers.get("cookie", "").removeprefix("session=")
        user = heard.json["token"] or cookie
        if user not in self.access:
            return Reply(403, {"reason": "please sign in"})
        return Reply(200, {"user": user, "access": self.access[user]})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(webhook, "monotonic", clock)
    return clock


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def server(application: Application) -> Iterator[Site]:
    with site(application.answer) as server:
        yield server


@asynccontextmanager
async def asking(server: Site, **options: Any) -> AsyncIterator[Webhook]:
    hook = Webhook(f"{server.url}/authorize", **{"timeout": 8.0, **options})
    try:
        yield hook
    finally:
        await hook.close()


def attempt(
    token: str = "",
    document: str = "d",
    *headers: tuple[str, str],
    peer: str = "1.2.3.4:5",
    renewal: bool = False,
) -> Attempt:
    visitor = Visitor.of(peer, headers, "", ())
    return visitor.attempt(document, token, renewal)


def cookie(user: str) -> tuple[str, str]:
    return "Cookie", f"session={user}"


# What is asked, and what is answered.


async def test_the_application_hears_what_it_needs(server: Site) -> None:
    async with asking(server, forward=["Cookie", "X-Tenant", "Absent"]) as hook:
        grant = await hook(
            attempt("ann", "notes/ä", cookie("bob"), ("x-tenant", "7"), ("X-No", "1"))
        )
    assert grant == Grant("ann", Access.WRITE)
    (heard,) = server.heard
    assert heard.method == "POST"
    assert heard.path == "/authorize"
    assert heard.json == {"document": "notes/ä", "token": "ann", "address": "1.2.3.4"}
    assert heard.headers["content-type"] == "application/json"
    assert heard.headers["cookie"] == "session=bob"
    assert heard.headers["x-tenant"] == "7"
    assert not {"absent", "x-no", "authorization"} & heard.headers.keys()


async def test_access_is_given_when_the_application_is_asked(server: Site) -> None:
    async with asking(server) as hook:
        before = time.time()
        first = await hook(attempt("ann"))
        after = time.time()
        again = await hook(attempt("ann"))
    assert first.issued_at is not None
    assert before <= first.issued_at <= after
    assert again.issued_at == first.issued_at  # It was remembered.
    assert len(server.heard) == 1


async def test_a_cookie_is_enough(server: Site) -> None:
    async with asking(server) as hook:
        assert (await hook(attempt("", "d", cookie("bob")))).access is Access.READ
        with pytest.raises(AccessDenied, match="no") as caught:
            await hook(attempt("", "d", cookie("eve")))
    assert caught.value.reason == "please sign in"


async def test_it_says_who_what_and_until_when(
    server: Site, application: Application
) -> None:
    end = time.time() + 100
    said = {"user": "ann", "name": "Ann", "access": "admin", "expires_at": end}
    application.reply = lambda heard: Reply(200, said)
    async with asking(server) as hook:
        assert await hook(attempt()) == Grant("ann", Access.ADMIN, "Ann", end)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(401), "permission-denied"),
        (Reply(403, b"<html>"), "permission-denied"),
        (Reply(404), "permission-denied"),
        (Reply(403, {"reason": "trial is over"}), "trial is over"),
        (Reply(200, {"access": "none", "reason": "closed"}), "closed"),
        (Reply(403, {"reason": "a\nb"}), "permission-denied"),
        (Reply(403, {"reason": "x" * 101}), "permission-denied"),
        (Reply(403, {"reason": ["x"]}), "permission-denied"),
        (Reply(403, b"[" * 100_000), "permission-denied"),
    ],
)
async def test_no_is_no(
    server: Site, application: Application, reply: Reply, reason: str
) -> None:
    application.reply = lambda heard: reply
    async with asking(server) as hook:
        with pytest.raises(AccessDenied) as caught:
            await hook(attempt("ann"))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, {"access": "write"}),
        Reply(503, {"access": "write"}),
        Reply(400, {"access": "write"}),
        Reply(429, {"access": "write"}),
        Reply(201, {"access": "write"}),
        Reply(204),
        Reply(302, {"access": "write"}, {"Location": "/yes"}),
        Reply(200),
        Reply(200, b"yes"),
        Reply(200, b"\xff\xfe"),
        Reply(200, "write"),
        Reply(200, ["write"]),
        Reply(200, True),
        Reply(200, {}),
        Reply(200, {"user": "ann"}),
        Reply(200, {"access": "owner"}),
        Reply(200, {"access": "WRITE"}),
        Reply(200, {"access": True}),
        Reply(200, {"access": ["write"]}),
        Reply(200, {"access": "write", "user": 5}),
        Reply(200, {"access": "write", "user": "a\nb"}),
        Reply(200, {"access": "write", "name": "x" * 256}),
        Reply(200, {"access": "write", "expires_at": "tomorrow"}),
        Reply(200, {"access": "write", "expires_at": True}),
        Reply(200, {"access": "write", "expires_at": -1}),
        Reply(200, b'{"access": "write", "expires_at": NaN}'),
        Reply(200, b'{"access": "write", "expires_at": 1e400}'),
        Reply(200, b'{"access":' * 50_000),
        Reply(200, b'{"access": "write"}' + b" " * 300_000),
    ],
)
async def test_what_is_not_said_clearly_lets_nobody_in(
    server: Site, application: Application, reply: Reply
) -> None:
    application.reply = lambda heard: reply
    async with asking(server) as hook:
        with pytest.raises(Unavailable):
            await hook(attempt("ann"))
        application.reply = None
        assert (await hook(attempt("ann"))).user == "ann"  # It was not remembered.


async def test_an_application_that_hangs_lets_nobody_in(
    server: Site, application: Application
) -> None:
    never = threading.Event()
    application.reply = lambda heard: Reply(200, {"access": "write"}, after=never)
    async with asking(server, timeout=0.2) as hook:
        with pytest.raises(Unavailable):
            await hook(attempt("ann"))
    never.set()


async def test_an_application_that_is_gone_lets_nobody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with site(lambda heard: Reply()) as server:
        pass
    async with asking(server) as hook:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await hook(attempt("secret-token"))
    assert caplog.text.count("nobody is let in") == 1
    assert "secret-token" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": 10},
        {"cache": -1},
        {"cache": 4000},
        {"forward": ["Host"]},
        {"forward": ["content-length"]},
        {"forward": ["Transfer-Encoding"]},
        {"forward": ["webhook-signature"]},
        {"forward": ["a b"]},
        {"forward": ["a\r\nb"]},
        {"forward": [""]},
        {"secret": "short"},
        {"secret": "whsec_!"},
    ],
)
def test_what_cannot_be_asked_like_that_is_said_at_the_start(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match=r"."):
        Webhook("http://127.0.0.1/", **options)


async def test_a_request_is_signed_as_standard_webhooks_are(server: Site) -> None:
    raw = bytes(range(32))
    for secret in (
        raw,
        f"whsec_{base64.b64encode(raw).decode()}",
    ):
        server.heard.clear()
        async with asking(server, secret=secret) as hook:
            await hook(attempt("ann"))
        (heard,) = server.heard
        number, at = heard.headers["webhook-id"], heard.headers["webhook-timestamp"]
        assert abs(int(at) - time.time()) < 60
        signed = f"{number}.{at}.".encode() + heard.body
        digest = hmac.new(raw, signed, hashlib.sha256).digest()
        assert (
            heard.headers["webhook-signature"]
            == f"v1,{base64.b64encode(digest).decode()}"
        )


# What is remembered.


async def test_a_yes_is_remembered_for_a_while(
    server: Site, application: Application, clock: Clock
) -> None:
    async with asking(server, cache=10) as hook:
        for _ in range(5):
            assert (await hook(attempt("ann"))).access is Access.WRITE
        assert hook.asked == 1
        application.access["ann"] = "read"
        clock.now += 9
        assert (await hook(attempt("ann"))).access is Access.WRITE
        clock.now += 2
        assert (await hook(attempt("ann"))).access is Access.READ
        assert hook.asked == 2


async def test_a_no_is_remembered_for_less(
    server: Site, application: Application, clock: Clock
) -> None:
    async with asking(server, cache=10) as hook:
        for _ in range(3):
            with pytest.raises(AccessDenied):
                await hook(attempt("cleo"))
        assert hook.asked == 1
        application.access["cleo"] = "write"
        clock.now += webhook.CACHE_NO
        assert (await hook(attempt("cleo"))).access is Access.WRITE


async def test_no_verdict_is_another_ones(server: Site, clock: Clock) -> None:
    """Whatever the application can tell people apart by counts."""
    questions = [
        attempt("ann"),
        attempt("bob"),
        attempt("ann", "e"),
        attempt("", "d", cookie("ann")),
        attempt("", "d", cookie("bob")),
        attempt("ann", "d", cookie("bob")),
        attempt("ann", "d", ("X-Tenant", "1")),
        attempt("ann", "d", ("X-Tenant", "2")),
        attempt("ann", peer="1.2.3.5:5"),
        # What is glued together could be the same.
        attempt("nn", "da"),
        attempt("annd", ""),
        attempt("an", "nd"),
    ]
    async with asking(server, forward=["cookie", "x-tenant"]) as hook:
        for number, question in enumerate(questions, 1):
            try:
                grant = await hook(question)
            except AccessDenied:
                grant = None
            assert hook.asked == number
            if grant is not None:
                assert grant.user in (question.token, question.cookie("session"))
        # The port is another one at each connection, and what is not passed on unheard.
        await hook(attempt("ann", "d", ("X-Other", "1"), peer="1.2.3.4:6"))
        assert hook.asked == len(questions)


async def test_a_verdict_is_not_remembered_longer_than_it_lasts(
    server: Site, application: Application, clock: Clock
) -> None:
    said = {"access": "write", "expires_at": time.time() + 5}
    application.reply = lambda heard: Reply(200, said)
    async with asking(server, cache=60) as hook:
        await hook(attempt("ann"))
        clock.now += 6
        await hook(attempt("ann"))
        assert hook.asked == 2


async def test_nothing_is_remembered_if_it_shall_not(server: Site) -> None:
    async with asking(server, cache=0) as hook:
        for _ in range(3):
            await hook(attempt("ann"))
        assert hook.asked == 3


async def test_what_is_remembered_is_bounded(
    server: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "MAX_CACHED", 10)
    async with asking(server, cache=60) as hook:
        for number in range(30):
            await hook(attempt("ann", f"d{number}"))
        assert len(hook._verdicts) == 10
        await hook(attempt("ann", "d29"))
        assert hook.asked == 30


async def test_who_is_inside_is_asked_about_anew(
    server: Site, application: Application, clock: Clock
) -> None:
    async with asking(server, cache=60) as hook:
        await hook(attempt("ann"))
        application.access["ann"] = "read"
        assert (await hook(attempt("ann", renewal=True))).access is Access.READ
        # That is what is remembered from now on.
        assert (await hook(attempt("ann"))).access is Access.READ
        assert hook.asked == 2


async def test_an_answer_that_was_overtaken_is_not_remembered(
    server: Site, application: Application, clock: Clock
) -> None:
    slow, replies = threading.Event(), iter(["write", "read"])

    def reply(heard: Heard) -> Reply:
        access = next(replies)
        after = slow if access == "write" else None
        return Reply(200, {"access": access}, after=after)

    application.reply = reply
    async with asking(server, cache=60) as hook:
        first = asyncio.create_task(hook(attempt("ann")))
        while not server.heard:
            await asyncio.sleep(0.01)
        assert (await hook(attempt("ann", renewal=True))).access is Access.READ
        slow.set()
        assert (await first).access is Access.WRITE
        assert (await hook(attempt("ann"))).access is Access.READ
        assert hook.asked == 2


async def test_many_who_ask_the_same_share_an_answer(
    server: Site, application: Application
) -> None:
    async with asking(server) as hook:
        grants = await asyncio.gather(*(hook(attempt("ann")) for _ in range(100)))
        assert {grant.user for grant in grants} == {"ann"}
        assert hook.asked == 1
        answers = await asyncio.gather(
            *(hook(attempt(user)) for user in ["bob", "eve"] * 20),
            return_exceptions=True,
        )
        assert hook.asked == 3
    for user, answer in zip(["bob", "eve"] * 20, answers, strict=True):
        assert isinstance(answer, AccessDenied if user == "eve" else Grant)


async def test_who_stops_waiting_does_not_stop_others(
    server: Site, application: Application
) -> None:
    slow = threading.Event()
    application.reply = lambda heard: Reply(200, {"access": "read"}, after=slow)
    async with asking(server) as hook:
        first = asyncio.create_task(hook(attempt("ann")))
        second = asyncio.create_task(hook(attempt("ann")))
        await asyncio.sleep(0)
        first.cancel()
        slow.set()
        assert (await second).access is Access.READ
        assert hook.asked == 1


# When it does not answer.


def test_a_breaker_opens_after_failures_in_a_row_and_tries_again() -> None:
    breaker, now = Breaker(), 100.0
    for number in range(1, FAILURES + 1):
        assert breaker.admits(now)
        assert breaker.fail(now, now) is (number == FAILURES)
    rest = REST
    while rest < MAX_REST:
        assert not breaker.admits(now + rest - 0.01)
        now += rest
        assert breaker.admits(now)
        assert not breaker.admits(now)  # One at a time.
        breaker.fail(now, now)
        rest = min(MAX_REST, 2 * rest)
    assert not breaker.admits(now + MAX_REST - 0.01)
    now += MAX_REST
    assert breaker.admits(now)
    assert breaker.succeed(now)
    for _ in range(10):
        assert breaker.admits(now)


def test_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for number in range(50):
        breaker.fail(number, number + 1)
        breaker.fail(number, number + 1)
        breaker.succeed(number + 2)
    assert breaker.admits(100)


def test_one_who_is_not_answered_closes_the_door_for_nobody() -> None:
    """What somebody asks about may be what makes the application hang."""
    breaker = Breaker()
    breaker.succeed(12.0)
    for _ in range(100):
        breaker.fail(began=10.0, now=15.0)
    assert breaker.admits(15.0)


async def test_an_application_that_does_not_answer_is_left_alone(
    server: Site, application: Application, clock: Clock
) -> None:
    application.reply = lambda heard: Reply(503)
    async with asking(server, cache=0) as hook:
        for _ in range(20):
            clock.now += 0.01
            with pytest.raises(Unavailable):
                await hook(attempt("ann"))
        assert hook.asked == FAILURES
        application.reply = None
        clock.now += REST
        assert (await hook(attempt("ann"))).user == "ann"
        assert (await hook(attempt("bob"))).user == "bob"


@pytest.mark.parametrize(
    "failure",
    [
        Reply(500),
        Reply(302, b"", {"Location": "/elsewhere"}),
        Reply(200, b"<html>"),
        Reply(200, b" " * 300_000),
    ],
)
async def test_an_application_that_fails_at_something_is_not_left_alone(
    server: Site, application: Application, clock: Clock, failure: Reply
) -> None:
    """It is there: somebody could have it fail, and lock others out."""

    def reply(heard: Heard) -> Reply:
        bad = json.loads(heard.body)["document"] == "bad"
        return failure if bad else Reply(200, {"access": "write"})

    application.reply = reply
    async with asking(server, cache=0) as hook:
        for _ in range(3 * FAILURES):
            clock.now += 0.01
            with pytest.raises(Unavailable):
                await hook(attempt("eve", "bad"))
        assert (await hook(attempt("ann"))).access is Access.WRITE
