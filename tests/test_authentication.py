"""Who is let in by a server that runs, and for how long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from pycrdt import Text

from collab.client import BackOff, CollabDocument, connect
from collab.errors import AccessDenied, SentAway
from tests import applications, servers
from tests.answering import Heard, Reply, Site, site
from tests.peers import BINARY, Editor, Raw, data, edit, insert, step1, uint
from tests.servers import Server
from tests.signing import SECRET, claims, forged, jwk, private, public_pem, token

PATIENCE = 60.0
"""Seconds to wait for something: a busy machine is slow, not wrong."""

EAGER = BackOff(0.05, 0.2)

AS_SECRET = {"COLLAB_JWT_SECRET": SECRET}


@pytest.fixture(scope="module")
def secrets() -> list[str]:
    """All tokens that servers of this module are given."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a secret, which says as much as it can."""
    with servers.running(
        tmp_path_factory.mktemp("tokens"),
        *("--host", "0.0.0.0", "--log-level", "debug"),
        *("--jwt-audience", "collab", "--jwt-issuer", "tests"),
        *("--jwt-cookie", "seat"),
        environment=AS_SECRET,
    ) as server:
        yield server


@pytest.fixture
def mint(secrets: list[str]) -> Callable[..., str]:
    """Make a token for :func:`server`."""

    def mint(*how: Any, **more: object) -> str:
        made = token(*how, **{"aud": "collab", "iss": "tests", **more})
        secrets.append(made)
        return made

    return mint


async def until(met: Callable[[], object]) -> None:
    """Wait for something."""
    async with asyncio.timeout(PATIENCE):
        while not met():
            await asyncio.sleep(0.02)


def text_of(document: CollabDocument) -> Text:
    text: Text = document.doc.get("text", type=Text)
    return text


def verdict(port: int, path: str, *headers: tuple[str, str]) -> str:
    """What y-websocket hears at the door: the greeting, or why not."""
    with Raw(port) as raw:
        raw.open(path, *headers)
        raw.say(step1())
        heard = raw.hear()
        if heard[:2] == b"\0\0":
            return "in"
        assert heard[:2] == b"\2\0", heard
        code, _ = raw.read_close()
        return f"{code} {heard[3:].decode()}"


def verdict_by_message(port: int, document: str, carried: str) -> str:
    """What Hocuspocus' provider hears that says its token in a message."""
    address = data(document.encode())
    with Raw(port) as raw:
        raw.open("/ws")
        raw.say(address + b"\2" + uint(0) + data(carried.encode()))
        while True:
            heard = raw.hear().removeprefix(address)
            if heard[:1] == b"\2":
                kind = {0: "asked", 1: "denied", 2: "in"}[heard[1]]
                return kind if kind == "asked" else f"{kind} {heard[3:].decode()}"


async def verdict_of_ours(server: Server, document: str, carried: str) -> str:
    """What our own client hears."""
    try:
        async with (
            asyncio.timeout(PATIENCE),
            connect(server.ws_url, token=carried) as client,
            client.open(document) as opened,
        ):
            return "writes" if opened.writable else "reads"
    except AccessDenied as exc:
        return f"denied {exc.reason}"


# A token, wherever it is.


async def test_a_token_lets_in_each_kind_of_client(
    server: Server, mint: Callable[..., str]
) -> None:
    for access, hocuspocus, ours in [
        ("admin", "in read-write", "writes"),
        ("write", "in read-write", "writes"),
        ("read", "in readonly", "reads"),
    ]:
        carried = mint(documents={"notes/*": access})
        assert verdict(server.port, f"/ws/notes/a?token={carried}") == "in"
        assert verdict_by_message(server.port, "notes/a", carried) == hocuspocus
        assert await verdict_of_ours(server, "notes/a", carried) == ours
    assert verdict(server.port, f"/ws/other?token={carried}").startswith("4403 ")
    assert verdict_by_message(server.port, "other", carried).startswith("denied")
    assert (await verdict_of_ours(server, "other", carried)).startswith("denied")


def test_a_token_may_be_in_many_places(
    server: Server, mint: Callable[..., str]
) -> None:
    carried, port = mint(), server.port
    for headers in [
        [("Authorization", f"Bearer {carried}")],
        [("Sec-WebSocket-Protocol", f"yjs, bearer.{carried}")],
        [("Cookie", f"a=b; seat={carried}")],
    ]:
        assert verdict(port, "/ws/d", *headers) == "in"
    assert verdict(port, "/ws/d?%74oken=" + carried) == "in"
    assert verdict(port, "/ws/d", ("Cookie", f"a=b; site={carried}")) == (
        "4403 permission-denied"
    )
    assert verdict(port, "/ws/d") == "4403 permission-denied"


def attacks() -> dict[str, str]:
    """Tokens that must not be good for anything, by what they try."""
    good = claims(aud="collab", iss="tests")
    secret = SECRET.encode()
    return {
        "alg none": forged({"alg": "none"}, good),
        "alg None, signed": forged({"alg": "None"}, good, secret),
        "no signature": ".".join([*token(**good).split(".")[:2], ""]),
        "another secret": token("x" * 32, **good),
        "RS256 for a secret": token(private("RS256"), "RS256", **good),
        "wrong audience": token(**{**good, "aud": "other"}),
        "no audience": token(**{**good, "aud": None}),
        "wrong issuer": token(**{**good, "iss": "evil"}),
        "no end": token(**{**good, "exp": None}),
        "not yet": token(**{**good, "nbf": int(time.time()) + 3600}),
        "kid of a file": forged({"alg": "HS256", "kid": "../../dev/null"}, good, b""),
        "kid of SQL": forged({"alg": "HS256", "kid": "' OR 1=1 --"}, good, b"1"),
        "kid of a URL": forged({"alg": "HS256", "kid": "http://[::1]/"}, good, b"1"),
        "huge": token(**good, more="x" * 20_000),
        "deep": forged(b'{"a":' * 2000, good, secret),
        "everything and more": token(**{**good, "documents": {"**": "owner"}}),
        "a list": token(**{**good, "documents": ["**"]}),
        "another document": token(**{**good, "documents": {"d2": "write"}}),
        "a part of the name": token(
            **{**good, "documents": {"": "write", "d*/": "write"}}
        ),
        "a regular expression": token(**{**good, "documents": {".": "write"}}),
        "not a token": "letmein",
        "a log line": "x\r\n2026-01-01 ERROR collab: owned",
    }


@pytest.mark.parametrize("name", attacks())
async def test_an_attack_is_answered_with_4403_on_each_way_in(
    server: Server, secrets: list[str], name: str
) -> None:
    carried = attacks()[name]
    secrets.append(carried)
    if len(carried) < 6000:  # There are limits before ours.
        path = f"/ws/d?token={quote(carried, safe='')}"
        assert verdict(server.port, path) == "4403 permission-denied"
    said = verdict_by_message(server.port, "d", carried)
    assert said == "denied permission-denied"
    # Our own client would not even send a larger one twice.
    if len(carried) < 8192:
        said = await verdict_of_ours(server, "d", carried)
        assert said == "denied permission-denied"


async def test_who_comes_too_late_is_told_so_on_each_way_in(
    server: Server, mint: Callable[..., str]
) -> None:
    within = mint(exp=int(time.time()) - 2)
    assert verdict(server.port, f"/ws/d?token={within}") == "in"
    late = mint(exp=int(time.time()) - 60)
    assert verdict(server.port, f"/ws/d?token={late}") == "4403 access has expired"
    assert verdict_by_message(server.port, "d", late) == "denied access has expired"
    assert await verdict_of_ours(server, "d", late) == "denied access has expired"


def test_a_public_key_signs_nothing(tmp_path: Path) -> None:
    key = private("RS256")
    file = tmp_path / "public.pem"
    file.write_text(public_pem(key))
    with servers.running(tmp_path, "--jwt-key", str(file)) as server:
        port = server.port
        assert verdict(port, f"/ws/d?token={token(key, 'PS512')}") == "in"
        for digest in ("sha256", "sha384", "sha512"):
            head = {"alg": f"HS{digest[3:]}"}
            made = forged(head, claims(), file.read_bytes(), digest)
            assert verdict(port, f"/ws/d?token={made}") == "4403 permission-denied"


def test_one_document_of_a_socket_says_nothing_about_another(
    server: Server, mint: Callable[..., str]
) -> None:
    carried = mint(documents={"mine": "write"})
    mine, yours = data(b"mine"), data(b"yours")
    with Raw(server.port) as raw:
        raw.open("/ws", ("Authorization", f"Bearer {carried}"))
        raw.say(mine + b"\2" + uint(0) + data(carried.encode()))
        raw.say(yours + b"\2" + uint(0) + data(carried.encode()))
        raw.say(yours + edit(insert(1, "x")))
        heard = raw.hear_until(yours + b"\2\1" + data(b"permission-denied"))
        assert not [message for message in heard if message[:8] == yours + b"\0\0"]
        raw.say(mine + edit(insert(1, "x")))
        raw.hear_until(mine + b"\x08\1")


# The log.


def test_no_token_is_in_the_log(
    server: Server, secrets: list[str], mint: Callable[..., str]
) -> None:
    """Of all that this module has sent to the server so far, and of what is to come."""
    carried = mint(documents={})
    verdict(server.port, f"/ws/d?token={carried}")
    for path in (f"/ws/d?token={carried}", f"/nowhere?token={carried}"):
        with Raw(server.port) as raw:
            raw.ask(path, without=["Upgrade", "Connection"])
    with Raw(server.port) as raw:
        raw.ask(f"/elsewhere?token={carried}")
    with Raw(server.port) as raw:
        raw.open(f"/ws/d?token={carried}")
        raw.send_frame(BINARY, carried.encode())
        raw.read_close()
    log = server.log()
    assert "closing" in log
    assert "\n2026-01-01 ERROR" not in log
    for known in {*secrets, *attacks().values()}:
        for piece in {known, quote(known, safe=""), *known.split(".")[1:]}:
            if len(piece) > 8:
                assert piece not in log, piece


APPLICATION = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from collab import Attempt, Collab, Grant

users = {}

async def authorize(attempt: Attempt) -> Grant:
    return Grant(users[attempt.token])  # An error that names the token.

collab = Collab(os.environ["DATABASE"], authorize=authorize)

@asynccontextmanager
async def lifespan(app):
    async with collab:
        yield

app = FastAPI(lifespan=lifespan)
app.mount("/collab", collab)
"""


def test_no_token_is_in_the_log_of_the_server_that_runs_an_application(
    tmp_path: Path,
) -> None:
    (tmp_path / "web.py").write_text(APPLICATION)
    with applications.running("web:app", tmp_path, tmp_path, "/collab") as server:
        for query in (
            "?token=SEKRET-1",
            "?a=1&token=SEKRET-2&b=2",
            "?%74oken=SEKRET-3",
        ):
            with Raw(server.port) as raw:
                raw.open(f"/collab/ws/d{query}")
                raw.say(step1())
                raw.read_close()
            with urlopen(f"{server.url}/livez{query}") as answer:
                assert answer.status == 200
        server.end()
        log = server.log
    assert "SEKRET" not in log
    assert log.count('"WebSocket /collab/ws/d?') == 3
    assert "?a=1&token=[redacted]&b=2" in log
    assert log.count("cannot decide") == 3
    assert "KeyError: '[token]'" in log


# Keys that change.


class Provider:
    """An identity provider."""

    def __init__(self) -> None:
        self.keys = [jwk(private("RS256"), kid="one")]
        self.down = False

    def answer(self, heard: Heard) -> Reply:
        return Reply(500) if self.down else Reply(200, {"keys": self.keys})


@pytest.mark.slow
def test_a_server_learns_of_new_keys_and_forgets_old_ones(tmp_path: Path) -> None:
    provider = Provider()
    with site(provider.answer) as published:
        url = f"{published.url}/jwks.json"
        with servers.running(tmp_path, "--jwks", url) as server:
            old = token(private("RS256"), "RS256", "one")
            new = token(private("EdDSA"), "EdDSA", "two")
            assert verdict(server.port, f"/ws/d?token={old}") == "in"
            provider.keys = [jwk(private("EdDSA"), kid="two")]
            deadline = time.monotonic() + PATIENCE
            while verdict(server.port, f"/ws/d?token={new}") != "in":
                assert time.monotonic() < deadline
            assert verdict(server.port, f"/ws/d?token={old}").startswith("4403")
        # At the start, then when a key was unknown and 10 s had passed.
        assert len(published.heard) <= 3


@pytest.mark.slow
def test_a_server_starts_without_its_provider_and_lets_nobody_in(
    tmp_path: Path,
) -> None:
    provider = Provider()
    provider.down = True
    with (
        site(provider.answer) as published,
        servers.running(tmp_path, "--jwks", published.url) as server,
    ):
        carried = token(private("RS256"), "RS256", "one")
        with Raw(server.port) as raw:
            raw.open(f"/ws/d?token={carried}")
            assert raw.read_close() == (4503, "try again later")
        assert "cannot fetch keys" in server.log()
        provider.down = False
        deadline = time.monotonic() + PATIENCE
        while True:
            with Raw(server.port) as raw:
                raw.open(f"/ws/d?token={carried}")
                try:
                    assert raw.hear()[:2] == b"\0\0"
                    break
                except EOFError:
                    assert time.monotonic() < deadline
                    time.sleep(0.5)


# An application that decides.


class Application:
    """An application whose sessions are cookies ``session=USER`` or tokens ``USER``."""

    def __init__(self) -> None:
        self.access: dict[str, str] = {"ann": "write", "bob": "read"}
        self.status = 200
        self.wait: threading.Event | None = None
        self.more: dict[str, object] = {}

    def answer(self, heard: Heard) -> Reply:
        cookie = heard.headers.get("cookie", "").removeprefix("session=")
        user = heard.json["token"] or cookie
        if user not in self.access:
            return Reply(403, {"reason": "please sign in"}, after=self.wait)
        said = {"user": user, "access": self.access[user], **self.more}
        return Reply(self.status, said, after=self.wait)


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def asked(application: Application) -> Iterator[Site]:
    with site(application.answer) as asked:
        yield asked


def test_an_application_lets_in_by_its_own_cookie(
    asked: Site, application: Application, tmp_path: Path
) -> None:
    options = ["--auth-webhook", f"{asked.url}/authorize", "--host", "0.0.0.0"]
    with servers.running(tmp_path, *options) as server:
        port = server.port
        assert verdict(port, "/ws/d", ("Cookie", "session=ann")) == "in"
        assert verdict(port, "/ws/d", ("Cookie", "session=eve")) == (
            "4403 please sign in"
        )
        assert verdict_by_message(port, "d", "bob") == "in readonly"
        assert verdict_by_message(port, "d", "ann") == "in read-write"
    assert {heard.json["document"] for heard in asked.heard} == {"d"}


@pytest.mark.parametrize("how", ["500", "redirect", "hangs", "gone"])
def test_without_an_answer_nobody_is_let_in_but_who_is_inside_stays(
    asked: Site, application: Application, tmp_path: Path, how: str
) -> None:
    options = ["--auth-webhook", asked.url, "--auth-webhook-cache", "0"]
    options += ["--auth-webhook-timeout", "0.5"]
    with servers.running(tmp_path, *options) as server:
        with Editor(f"{server.ws_url}/d?token=ann") as inside:
            match how:
                case "500":
                    application.status = 500
                case "redirect":
                    application.status = 307
                case "hangs":
                    application.wait = threading.Event()
                case "gone":
                    asked.server.shutdown()
                    asked.server.server_close()
                    application.status = 0  # Where there is a connection yet.
            for _ in range(3):
                with Raw(server.port) as raw:
                    raw.open("/ws/d?token=ann")
                    assert raw.read_close() == (4503, "try again later")
            inside.type("still here")
            inside.save()
        assert "nobody is let in" in server.log()
        if application.wait is not None:
            application.wait.set()


async def test_who_says_again_who_they_are_gets_what_counts_now(
    asked: Site, application: Application, tmp_path: Path
) -> None:
    """A downgrade holds from the next edit on, whatever was remembered."""
    options = ["--auth-webhook", asked.url, "--auth-webhook-cache", "600"]
    with servers.running(tmp_path, *options) as server:
        address, said = data(b"d"), b"\2" + uint(0) + data(b"ann")
        with Raw(server.port) as raw:
            raw.open("/ws")
            raw.say(address + said)
            raw.hear_until(address + b"\2\2" + data(b"read-write"))
            raw.say(address + edit(insert(1, "a")))
            raw.hear_until(address + b"\x08\1")
            application.access["ann"] = "read"
            raw.say(address + said, address + edit(insert(1, "b", 1)))
            heard = raw.hear_until(
                address + b"\2\2" + data(b"readonly"), address + b"\x08\0"
            )
            assert address + b"\x08\1" not in heard
            del application.access["ann"]
            raw.say(address + said)
            raw.hear_until(address + b"\2\1" + data(b"please sign in"))
            raw.say(address + step1())
        with Editor(f"{server.ws_url}/d?token=bob") as bob:
            assert str(bob.text) == "a"


# Time.


def soon(mint: Callable[..., str], seconds: int, **more: object) -> str:
    """A token with which access ends in so many seconds, leeway included."""
    return mint(exp=int(time.time()) - 10 + seconds, **more)


def test_y_websocket_is_closed_when_its_time_is_over(
    server: Server, mint: Callable[..., str]
) -> None:
    end = time.time() + 3
    with Raw(server.port) as raw:
        raw.open(f"/ws/late?token={soon(mint, 4)}")
        raw.say(step1(), edit(insert(1, "a")))
        raw.hear_until(edit(insert(1, "a")))
        raw.hear_until(b"\2\0" + data(b"access has expired"))
        assert time.time() >= end
        # What comes from now on is not taken any more.
        raw.say(edit(insert(2, "b")))
        assert raw.read_close() == (4403, "access has expired")
    carried = mint()
    with Editor(f"{server.ws_url}/late?token={carried}") as later:
        assert str(later.text) == "a"


def test_hocuspocus_is_asked_and_may_stay_or_go(
    server: Server, mint: Callable[..., str]
) -> None:
    def said(carried: str) -> bytes:
        return b"\2" + uint(0) + data(carried.encode())

    stays, goes = data(b"stays"), data(b"goes")
    with Raw(server.port) as raw:
        raw.open("/ws")
        carried = soon(mint, 5)
        raw.say(stays + said(carried), goes + said(carried))
        raw.hear_until(stays + b"\2\0", goes + b"\2\0")
        raw.say(stays + said(mint()))
        heard = raw.hear_until(goes + b"\2\1" + data(b"access has expired"))
        assert not [m for m in heard if m.startswith(stays + b"\2\1")]
        # The other documents of the socket go on.
        raw.say(stays + edit(insert(1, "a")), goes + edit(insert(1, "a")))
        raw.hear_until(stays + b"\x08\1")
        # And this one does, with another token.
        raw.say(goes + said(mint()))
        raw.hear_until(goes + b"\2\2" + data(b"read-write"))


async def test_a_client_of_ours_is_asked_in_time_and_stays(
    server: Server, mint: Callable[..., str]
) -> None:
    given: list[str] = []

    def token_for(name: str) -> str:
        given.append(soon(mint, 4))
        return given[-1]

    async with (
        asyncio.timeout(PATIENCE),
        connect(server.ws_url, token=token_for, back_off=EAGER) as client,
        client.open("renewed") as document,
    ):
        link = document._link
        await until(lambda: len(given) > 3)
        text = text_of(document)
        text += "still here"
        await document.saved()
        assert document._link is link  # It was never away.
        assert document.writable


async def test_a_client_of_ours_that_has_no_other_token_has_to_go(
    server: Server, mint: Callable[..., str]
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        connect(server.ws_url, token=soon(mint, 4)) as client,
        client.open("over") as document,
    ):
        with pytest.raises((AccessDenied, SentAway)) as caught:
            async for _ in document.changes():
                pass
        assert caught.value.close_code == 4403
        assert caught.value.reason == "access has expired"


async def test_a_client_of_ours_may_be_given_less(
    server: Server, mint: Callable[..., str]
) -> None:
    given: list[str] = []

    def token_for(name: str) -> str:
        access = "read" if given else "write"
        given.append(soon(mint, 600 if given else 4, documents={name: access}))
        return given[-1]

    async with (
        asyncio.timeout(PATIENCE),
        connect(server.ws_url, token=token_for) as client,
        client.open("less") as document,
    ):
        assert document.writable
        await until(lambda: not document.writable)
        text = text_of(document)
        text += "x"
        with pytest.raises(AccessDenied):
            await document.saved()
    carried = mint()
    with Editor(f"{server.ws_url}/less?token={carried}") as other:
        assert str(other.text) == ""


async def test_an_end_that_the_application_names_counts_too(
    asked: Site, application: Application, tmp_path: Path
) -> None:
    application.more = {"expires_at": time.time() + 4}
    with servers.running(tmp_path, "--auth-webhook", asked.url) as server:
        with Raw(server.port) as raw:
            raw.open("/ws/d?token=ann")
            raw.hear_until(b"\2\0" + data(b"access has expired"))
            assert raw.read_close() == (4403, "access has expired")
        assert verdict(server.port, "/ws/d?token=ann") == "4403 access has expired"


# Together.


def test_several_ways_in_are_tried_one_after_the_other(
    asked: Site, tmp_path: Path
) -> None:
    options = ["--auth-webhook", asked.url, "--log-level", "debug"]
    with servers.running(tmp_path, *options, environment=AS_SECRET) as server:
        assert verdict(server.port, f"/ws/d?token={token()}") == "in"
        assert asked.heard == []
        assert verdict(server.port, "/ws/d?token=ann") == "in"
        assert verdict(server.port, "/ws/d", ("Cookie", "session=ann")) == "in"
        assert verdict(server.port, "/ws/d?token=eve") == "4403 please sign in"
