"""Published keys: cached, fetched anew, and no oftener than is good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from collab import jwks
from collab.auth import Visitor
from collab.errors import AccessDenied, Unavailable
from collab.jwks import PublishedKeys
from collab.outgoing import MAX_ANSWER
from collab.tokens import Tokens
from tests.answering import Clock, Heard, Reply, Site, site
from tests.signing import SECRET, claims, forged, jwk, part, private, token

OLD, NEW = private("RS256", 1), private("ES256", 2)


class Provider:
    """An identity provider."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(OLD, kid="old")]
        self.reply: Reply | None = None
        """What it answers instead."""

    def answer(self, heard: Heard) -> Reply:
        return self.reply or Reply(200, {"keys": self.keys})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(jwks, "monotonic", clock)
    return clock


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def server(provider: Provider) -> Iterator[Site]:
    with site(provider.answer) as server:
        yield server


@asynccontextmanager
async def trusting(server: Site, **options: Any) -> AsyncIterator[Tokens]:
    tokens = Tokens(jwks=f"{server.url}/jwks.json", **options)
    await tokens.open()
    try:
        yield tokens
    finally:
        await tokens.close()


async def user(tokens: Tokens, carried: str) -> str:
    return (await tokens(Visitor("somebody").attempt("d", carried))).user


async def denied(tokens: Tokens, carried: str) -> None:
    with pytest.raises(AccessDenied):
        await user(tokens, carried)


async def settled(tokens: Tokens) -> None:
    """Wait until nothing is being fetched."""
    published = tokens.keyrings[-1]
    assert isinstance(published, PublishedKeys)
    if published._fetching is not None:
        await asyncio.wait([published._fetching])


async def test_keys_are_fetched_once(server: Site, clock: Clock) -> None:
    async with trusting(server) as tokens:
        for kid in ("old", None, "old"):
            assert await user(tokens, token(OLD, "RS256", kid)) == "ann"
    assert [heard.path for heard in server.heard] == ["/jwks.json"]


async def test_an_unknown_key_is_looked_for_once_in_a_while(
    server: Site, provider: Provider, clock: Clock
) -> None:
    async with trusting(server) as tokens:
        new = token(NEW, "ES256", "new")
        await denied(tokens, new)  # It was just fetched.
        assert len(server.heard) == 1
        provider.keys = [jwk(NEW, kid="new")]
        clock.now += jwks.PAUSE
        assert await user(tokens, new) == "ann"
        assert len(server.heard) == 2
        # What is gone from the set is good for nothing any more.
        await denied(tokens, token(OLD, "RS256", "old"))
        for number in range(100):
            await denied(tokens, token(private("RS256", 3), "RS256", f"kid-{number}"))
        assert len(server.heard) == 2
        clock.now += jwks.PAUSE
        for number in range(100):
            await denied(tokens, token(private("RS256", 3), "RS256", f"kid-{number}"))
        assert len(server.heard) == 3


async def test_many_who_come_at_once_wait_for_one_fetch(
    server: Site, provider: Provider, clock: Clock
) -> None:
    async with trusting(server) as tokens:
        provider.keys.append(jwk(NEW, kid="new"))
        clock.now += jwks.PAUSE
        carried = token(NEW, "ES256", "new")
        users = await asyncio.gather(*(user(tokens, carried) for _ in range(50)))
        assert users == ["ann"] * 50
    assert len(server.heard) == 2


async def test_who_stops_waiting_does_not_stop_others(
    server: Site, provider: Provider, clock: Clock
) -> None:
    async with trusting(server) as tokens:
        provider.keys.append(jwk(NEW, kid="new"))
        clock.now += jwks.PAUSE
        carried = token(NEW, "ES256", "new")
        first = asyncio.create_task(user(tokens, carried))
        second = asyncio.create_task(user(tokens, carried))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "ann"


async def test_old_keys_are_renewed_while_nobody_waits(
    server: Site, provider: Provider, clock: Clock
) -> None:
    async with trusting(server) as tokens:
        provider.keys = [jwk(NEW, kid="new")]
        clock.now += jwks.FRESH + 1
        assert await user(tokens, token(OLD, "RS256", "old")) == "ann"
        await settled(tokens)
        await denied(tokens, token(OLD, "RS256", "old"))
        assert await user(tokens, token(NEW, "ES256", "new")) == "ann"


async def test_keys_stay_good_while_they_cannot_be_fetched_but_not_for_ever(
    server: Site, provider: Provider, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trusting(server) as tokens:
        provider.reply = Reply(500)
        carried = token(OLD, "RS256", "old")
        for _ in range(5):
            clock.now += jwks.FRESH + 1
            assert await user(tokens, carried) == "ann"
            await settled(tokens)
        assert caplog.text.count("cannot fetch keys") == 1
        clock.now += jwks.KEPT
        with pytest.raises(Unavailable):
            await user(tokens, carried)
        provider.reply = None
        clock.now += jwks.PAUSE
        assert await user(tokens, carried) == "ann"


async def test_a_new_key_is_not_denied_because_it_cannot_be_fetched(
    server: Site, provider: Provider, clock: Clock
) -> None:
    async with trusting(server) as tokens:
        provider.reply = Reply(503)
        clock.now += jwks.PAUSE
        with pytest.raises(Unavailable):
            await user(tokens, token(NEW, "ES256", "new"))


BAD = {
    "status": Reply(404, {"keys": [jwk(OLD)]}),
    "redirect": Reply(302, b"", {"Location": "/elsewhere"}),
    "html": Reply(200, b"<html>"),
    "empty": Reply(200, {"keys": []}),
    "list": Reply(200, []),
    "deep": Reply(200, b"[" * 100_000),
    "large": Reply(200, b" " * (MAX_ANSWER + 1)),
    "secrets": Reply(200, {"keys": [{"kty": "oct", "k": part(SECRET.encode())}]}),
}


@pytest.mark.parametrize("name", BAD)
async def test_without_keys_nobody_is_let_in_and_later_they_are(
    server: Site, provider: Provider, clock: Clock, name: str
) -> None:
    provider.reply = BAD[name]
    async with trusting(server) as tokens:
        for carried in (token(OLD, "RS256"), token(OLD, "RS256", "old")):
            with pytest.raises(Unavailable):
                await user(tokens, carried)
        await denied(tokens, token(SECRET))
        provider.reply = None
        clock.now += jwks.PAUSE
        assert await user(tokens, token(OLD, "RS256")) == "ann"


async def test_a_secret_of_ours_needs_no_provider(
    server: Site, provider: Provider, clock: Clock
) -> None:
    provider.reply = Reply(500)
    async with trusting(server, secret=SECRET) as tokens:
        assert await user(tokens, token()) == "ann"
        await denied(tokens, forged({"alg": "HS256", "kid": "x"}, claims(), b"x" * 32))
    assert len(server.heard) == 1
