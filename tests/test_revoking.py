"""Access that was taken away: of who is inside and who comes, on all servers."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from collab.auth import Access, Attempt, Grant
from collab.cli import main
from collab.client import connect
from collab.errors import AccessDenied, NotRevoked
from collab.quotas import Guest
from collab.room import Room
from tests import servers
from tests.databases import DatabaseServer
from tests.native import HELLO, opening, read_frame
from tests.peers import KEEPALIVE, Editor, Raw, data, edit, enter, insert, step1, uint
from tests.polls import head, listening, on, post, resuming
from tests.servers import Server
from tests.signing import SECRET, token
from tests.test_authentication import until, verdict, verdict_by_message

REVOKED = "access was revoked"
KICKED = "removed from the document"

documents = (f"doc-{number}" for number in itertools.count(1))


@pytest.fixture
def document() -> str:
    """A document that no other test has."""
    return next(documents)


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, postgres: DatabaseServer
) -> Iterator[Sequence[Server]]:
    """Two servers of one database."""
    url = postgres.create_database()
    environment = {"COLLAB_JWT_SECRET": SECRET}
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    with (
        servers.running(first, database=url, environment=environment) as one,
        servers.running(second, database=url, environment=environment) as other,
    ):
        yield one, other


def command(server: Server, *arguments: str, code: int = 0) -> str:
    """Run a command on the database of a server; return what it says."""
    result: Result = CliRunner().invoke(
        main, [*arguments, "--database", server.database_url]
    )
    assert result.exit_code == code, result.output
    return result.output


def revoke(server: Server, *arguments: str) -> int:
    """Revoke by command; return the number."""
    made: int = json.loads(command(server, "revoke", "--json", *arguments))["number"]
    return made


# Who is inside.


class Inside:
    """A client that is in a document, on bytes alone."""

    def __init__(self, port: int, document: str, carried: str) -> None:
        self.raw = Raw(port).__enter__()
        self.document = document
        self.begin(carried)

    def begin(self, carried: str) -> None:
        """Enter."""
        self.raw.open(f"/ws/{self.document}?token={carried}")
        self.raw.say(step1())
        self.raw.hear_until(b"\0\1" + data(b"\0\0"))

    def end(self, reason: str) -> None:
        """Hear that it is over, and nothing behind that.

        Raises:
            AssertionError: If it hears anything else.
        """
        self.raw.hear_until(b"\2\0" + data(reason.encode()))
        denied = b"\2\1" + data(reason.encode())
        assert self.raw.hear_until(denied) in ([], [denied])
        self.raw.say(edit(insert(1, "late")))
        code, heard = self.raw.read_close()
        assert (code, heard) == (4403, reason)
        assert self.raw.read_all() == b""


class InsideHocuspocus(Inside):
    """One of Hocuspocus'."""

    def begin(self, carried: str) -> None:
        self.raw.open("/ws")
        self.address = data(self.document.encode())
        self.raw.say(self.address + b"\2\0" + data(carried.encode()))
        self.raw.hear_until(self.address + b"\2\2" + data(b"read-write"))

    def end(self, reason: str) -> None:
        denied = self.address + b"\2\1" + data(reason.encode())
        self.raw.hear_until(denied)
        self.raw.say(self.address + step1(), self.address + edit(insert(1, "late")))
        self.raw.send_frame(9, b"still there?")
        while (frame := self.raw.read_frame()).opcode != 10:
            if frame.payload != self.address + KEEPALIVE:  # Which is for the socket.
                assert not frame.payload.startswith(self.address), frame


class InsideOurs(Inside):
    """One of our own."""

    def begin(self, carried: str) -> None:
        self.raw.open("/ws", ("Sec-WebSocket-Protocol", "collab.v1"))
        opened = opening(self.document, token=carried.encode())
        self.raw.say(HELLO, on(1, opened))
        self.hear("Synced")

    def hear(self, kind: str) -> tuple[Any, ...]:
        while True:
            for channel, message in read_frame(self.raw.hear()):
                if channel == 1 and message[0] == kind:
                    return message

    def end(self, reason: str) -> None:
        assert self.hear("Closed") == ("Closed", 4403, reason.encode())
        self.raw.say(on(1, b"\2" + uint(1) + data(insert(1, "late"))))
        self.raw.say(b"\0\1" + uint(7))
        while True:
            heard = read_frame(self.raw.hear())
            assert not [message for channel, message in heard if channel == 1]
            if (0, ("Pong", 7)) in heard:
                return


dialects = pytest.mark.parametrize("client", [Inside, InsideHocuspocus, InsideOurs])


@dialects
def test_who_is_inside_has_to_go_on_each_server_and_hears_nothing_more(
    pair: Sequence[Server], document: str, client: type[Inside]
) -> None:
    meant = [
        client(server.port, document, token(sub=f"ann-{document}")) for server in pair
    ]
    stays = f"{pair[0].ws_url}/{document}?token={token(sub='bob')}"
    with Editor(stays) as bob:
        bob.type("before ")
        bob.save()
        revoke(pair[0], "--user", f"ann-{document}")
        for each in meant:
            each.end(REVOKED)
            each.raw.__exit__(None, None, None)
        bob.type("and after")
        bob.save()
    with Editor(stays) as again:
        again.see("before and after")
    for server in pair:
        assert f"4403 {REVOKED}" in server.log()


@pytest.mark.parametrize("path", ["stream", "events", "poll"])
async def test_who_listens_over_http_has_to_go(
    pair: Sequence[Server], document: str, path: str
) -> None:
    carried = token(sub=f"ann-{document}").encode()
    opened = resuming(document, token=carried)
    async with listening(pair[1].port, path, head(), on(1, opened)) as response:
        if path != "poll":
            await response.until("Synced")
        else:  # That is nothing new, and so it isn't sent yet.
            await asyncio.sleep(0)
        await asyncio.to_thread(revoke, pair[0], "--user", f"ann-{document}")
        *_, closed = await response.until("Closed")
        assert closed == ("Closed", 4403, REVOKED.encode())
        if path == "poll":
            assert [m for n, m in await response.rest() if n == 1] == []
    answer = await post(
        pair[1].port,
        "push",
        head(),
        on(1, opening(document, token=carried), b"\2" + uint(1) + data(insert(1, "a"))),
    )
    assert answer.on() == [("Closed", 4403, REVOKED.encode())]


# Who comes.


@pytest.mark.parametrize("by", ["--user", "--token", "--document", "--issued-before"])
async def test_who_comes_is_refused_on_each_way_in(
    pair: Sequence[Server], document: str, by: str
) -> None:
    carried = token(sub=document, jti=f"t-{document}", iat=1000)
    other = token(sub="bob", jti="bobs", iat=int(time.time()))
    values = {
        "--user": [document],
        "--token": [f"t-{document}"],
        "--document": [f"{document}*"],
        "--issued-before": ["1001", "--document", document],
    }
    assert verdict(pair[1].port, f"/ws/{document}?token={carried}") == "in"
    number = revoke(pair[0], by, *values[by])

    def verdicts(carried: str) -> list[str]:
        told = []
        for server in pair:
            told.append(verdict(server.port, f"/ws/{document}?token={carried}"))
            told.append(verdict_by_message(server.port, document, carried))
        return told

    refused = [f"4403 {REVOKED}", f"denied {REVOKED}"] * 2
    await until(lambda: verdicts(carried) == refused)
    with pytest.raises(AccessDenied, match=REVOKED):
        async with (
            connect(pair[1].ws_url, token=carried) as client,
            client.open(document),
        ):
            pass
    # Others are not meant, and neither are other documents.
    if by == "--document":
        assert verdicts(other) == refused
        assert verdict(pair[0].port, f"/ws/other-{document}?token={carried}") == "in"
    else:
        assert verdicts(other) == ["in", "in read-write"] * 2
    command(pair[1], "revoke", "--undo", str(number))
    await until(lambda: verdicts(carried) == ["in", "in read-write"] * 2)


def test_what_was_revoked_outlives_a_restart(tmp_path: Path) -> None:
    environment = {"COLLAB_JWT_SECRET": SECRET}
    with servers.running(tmp_path, environment=environment) as server:
        revoke(server, "--user", "ann")
        server.restart()
        path = f"/ws/d?token={token()}"
        assert verdict(server.port, path) == f"4403 {REVOKED}"


def test_a_token_of_the_same_second_counts_as_issued_before(
    pair: Sequence[Server], document: str
) -> None:
    iat = int(time.time())
    revoke(pair[0], "--user", document, "--issued-before", str(iat + 0.5))
    for issued, told in ((iat, f"4403 {REVOKED}"), (None, f"4403 {REVOKED}")):
        path = f"/ws/{document}?token={token(sub=document, iat=issued)}"
        while verdict(pair[0].port, path) != told:
            pass
    while time.time() < iat + 1:
        time.sleep(0.05)
    later = token(sub=document, iat=iat + 1)
    assert verdict(pair[0].port, f"/ws/{document}?token={later}") == "in"


# Kicks.


@dialects
def test_who_is_kicked_has_to_go_and_may_come_back(
    pair: Sequence[Server], document: str, client: type[Inside]
) -> None:
    carried = token(sub=f"eve-{document}")
    meant = [client(server.port, document, carried) for server in pair]
    elsewhere = client(pair[0].port, f"{document}-too", carried)
    command(pair[0], "kick", "--user", f"eve-{document}", "--document", document)
    for each in meant:
        each.end(KICKED)
        each.raw.__exit__(None, None, None)
    for server in pair:
        back = client(server.port, document, carried)
        back.raw.__exit__(None, None, None)
    command(pair[0], "kick", "--document", f"{document}-too")
    elsewhere.end(KICKED)
    elsewhere.raw.__exit__(None, None, None)


# In an application.


async def authorize(attempt: Attempt) -> Grant | None:
    return Grant(attempt.token, Access.WRITE) if attempt.token else None


@pytest.mark.parametrize("fast", [True, False])
async def test_an_application_revokes_here_at_once_and_there_soon(
    tmp_path: Path, fast: bool
) -> None:
    async with servers.serving(tmp_path, authorize=authorize, fast=fast) as here:
        url = str(here.hub.store.url)
        async with servers.serving(tmp_path, authorize=authorize, database=url) as far:
            await _revoke_in(here, far)


async def _revoke_in(here: servers.Serving, far: servers.Serving) -> None:
    collab = here.collab

    def open_two() -> list[Raw]:
        path = "/ws/d?token=ann"
        return [enter(serving.port, path) for serving in (here, far)]

    both = await asyncio.to_thread(open_two)
    number = await collab.revoke(user="ann", document="d*", until=time.time() + 600)
    await until(lambda: not here.hub.revoking.guests)
    for raw in both:
        assert (await asyncio.to_thread(raw.read_close))[0] == 4403
        raw.__exit__(None, None, None)
    path = "/ws/d?token=ann"
    for serving in (here, far):
        told = await asyncio.to_thread(verdict, serving.port, path)
        assert told == f"4403 {REVOKED}"
    await collab.undo_revocation(number)
    assert await asyncio.to_thread(verdict, here.port, path) == "in"
    with pytest.raises(NotRevoked):
        await collab.undo_revocation(number)
    # A function has decided when somebody came, and decides again.
    await until(lambda: not far.hub.revoking.revoked)
    both = await asyncio.to_thread(open_two)
    await collab.revoke(user="ann", issued_before=time.time())
    for raw in both:
        assert (await asyncio.to_thread(raw.read_close))[0] == 4403
        raw.__exit__(None, None, None)
    assert await asyncio.to_thread(verdict, here.port, path) == "in"
    raw = await asyncio.to_thread(enter, here.port, path)
    await collab.kick(user="ann")
    assert await asyncio.to_thread(raw.read_close) == (4403, KICKED)
    raw.__exit__(None, None, None)


async def test_anonymous_visitors_are_meant_by_document(tmp_path: Path) -> None:
    async with servers.serving(tmp_path) as server:
        raws = [await asyncio.to_thread(enter, server.port, f"/ws/{n}") for n in "ab"]
        await server.collab.revoke(user="ann")
        number = await server.collab.revoke(document="a")
        assert await asyncio.to_thread(raws[0].read_close) == (4403, REVOKED)
        path = "/ws/a"
        told = await asyncio.to_thread(verdict, server.port, path)
        assert told == f"4403 {REVOKED}"
        assert await asyncio.to_thread(verdict, server.port, "/ws/b") == "in"
        await server.collab.undo_revocation(number)
        assert await asyncio.to_thread(verdict, server.port, path) == "in"
        raws[1].say(step1())
        await asyncio.to_thread(raws[1].hear_until, b"\0\1" + data(b"\0\0"))
        await server.collab.revoke(issued_before=time.time())
        assert await asyncio.to_thread(raws[1].read_close) == (4403, REVOKED)
        assert await asyncio.to_thread(verdict, server.port, "/ws/b") == "in"
        for raw in raws:
            raw.__exit__(None, None, None)


async def test_who_is_being_let_in_meanwhile_does_not_get_in(tmp_path: Path) -> None:
    """Between the decision and the document, which may take long to load."""
    async with servers.serving(tmp_path, authorize=authorize) as server:
        hub = server.hub
        entered, go = asyncio.Event(), asyncio.Event()
        enter_now = hub.enter

        async def enter_later(name: str, guest: Guest | None = None) -> Room:
            entered.set()
            await go.wait()
            return await enter_now(name, guest)

        hub.enter = enter_later  # type: ignore[method-assign]
        asking = asyncio.create_task(
            asyncio.to_thread(_answers, server.port, "/ws/d?token=ann")
        )
        await entered.wait()
        await server.collab.revoke(user="ann")
        go.set()
        assert await asking == (4403, REVOKED)
        assert not hub.revoking.guests


def _answers(port: int, path: str) -> tuple[int, str]:
    with Raw(port) as raw:
        raw.open(path)
        return raw.read_close()


async def test_another_database_in_its_place_is_noticed(tmp_path: Path) -> None:
    async with servers.serving(tmp_path, authorize=authorize) as server:
        collab, revoking = server.collab, server.hub.revoking
        for user in ("ann", "bob"):
            await collab.revoke(user=user)
        with server.hub.store.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM revocations WHERE id = 2")
        await revoking.look()
        path = "/ws/d?token={}"
        told = [
            await asyncio.to_thread(verdict, server.port, path.format(user))
            for user in ("ann", "bob")
        ]
        assert told == [f"4403 {REVOKED}", "in"]


# The commands.


def test_what_is_revoked_is_listed(tmp_path: Path) -> None:
    environment = {"COLLAB_JWT_SECRET": SECRET}
    with servers.running(tmp_path, environment=environment) as server:
        revoke(server, "--user", "ann", "--document", "notes/*", "--for", "1h")
        revoke(server, "--token", "t1")
        revoke(server, "--user", "bob", "--issued-before", "2026-01-31T12:00Z")
        command(server, "kick", "--user", "eve")
        listed = command(server, "revoke", "--list").splitlines()
        assert len(listed) == 3
        assert "user ann, document notes/*, until " in listed[0]
        assert listed[1].endswith("token t1")
        assert listed[2].endswith("user bob, issued before 2026-01-31 12:00:00Z")
        (first, *_) = command(server, "revoke", "--list", "--json").splitlines()
        assert json.loads(first)["document"] == "notes/*"
        said = command(server, "revoke", "--undo", "1")
        assert said == "1: undone; whose access it was may come back.\n"
        said = command(server, "revoke", "--undo", "1", code=1)
        assert said == "Error: there is no revocation 1, or it is over\n"
        assert len(command(server, "revoke", "--list").splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revoke"], "Say who is meant: a user, a token, a document, or a time."),
        (["kick"], "Say who is meant: a user, a token, a document, or a time."),
        (["revoke", "--user", ""], "A user is a text of 1 to 255 characters."),
        (["revoke", "--for", "1h"], "Say who is meant"),
        (["revoke", "--list", "--user", "ann"], "--list and --undo go with nothing"),
        (["revoke", "--undo", "1", "--list"], "--list and --undo go with nothing"),
        (["revoke", "--issued-before", "soon"], "'soon' is no time such as now"),
        (["revoke", "--user", "ann", "--for", "soon"], "'soon' is not an age"),
    ],
)
def test_what_makes_no_sense_is_explained(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    url = f"sqlite:///{tmp_path / 'collab.db'}"
    result = CliRunner().invoke(main, [*arguments, "--database", url])
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "collab.db").exists()
