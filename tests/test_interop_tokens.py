"""Clients in the field whose access ends, and those that renew it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.interop import HOCUSPOCUS, KINDS, until
from tests.interop.parties import Party
from tests.servers import Server, running
from tests.signing import SECRET, token

pytest_plugins = ["tests.interop.fixtures"]

LEEWAY = 10
"""Seconds that the server adds."""

OVER = "access has expired"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client, one after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a secret."""
    with running(
        tmp_path_factory.mktemp("tokens"),
        *("--log-level", "debug"),
        environment={"COLLAB_JWT_SECRET": SECRET},
    ) as server:
        yield server


def ending(seconds: int, user: str = "ann", access: str = "write") -> str:
    """A token with which access ends in so many seconds."""
    end = int(time.time()) - LEEWAY + seconds
    return token(sub=user, exp=end, documents={"party-*": access})


@pytest.mark.slow
def test_each_kind_is_sent_away_when_its_time_is_over(mixed: Party) -> None:
    inside = mixed.open(token=ending(600, "bob"))
    everybody = {kind: mixed.open(kind=kind, token=ending(20)) for kind in KINDS}
    until(lambda: all(client.synced for client in everybody.values()))
    for kind, client in everybody.items():
        client.append(f"{kind} ")
    until(lambda: all(kind in inside.text for kind in KINDS))
    until(lambda: all(client.saved for client in everybody.values()))
    for kind, client in everybody.items():
        if kind in HOCUSPOCUS:
            until(lambda: f"denied {OVER}" in client.events)  # noqa: B023
        if kind not in HOCUSPOCUS[1:]:
            until(lambda: "closed 4403" in client.events)  # noqa: B023
        else:
            assert client.connected, kind  # There may be other documents.
        if kind in ("3.1", "3.1-native"):
            until(lambda: client.events[-1] == "gave up 4403")  # noqa: B023
    before = inside.text
    for client in everybody.values():
        client.append("too late ")
    inside.append("bob too")
    until(lambda: inside.saved)
    assert inside.text == f"{before}bob too"
    assert OVER in "\n".join(mixed.clients.take_said())


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOCUSPOCUS[2:])
def test_who_can_be_asked_renews_it_in_place(party: Party) -> None:
    watcher = party.open(token=ending(600, "bob"))
    ann = party.open(token=ending(12), token_is="function")
    until(lambda: ann.synced)
    ann.append("before ")
    ann.renew(ending(600))
    admitted = b"\x02\x02\x0aread-write"
    until(lambda: ann.messages("in").count(admitted) == 2)
    stop = time.time() + 13
    until(lambda: time.time() > stop)
    ann.append("and after")
    until(lambda: watcher.text == "before and after" and ann.saved)
    assert ann.connections == 1
    assert not [event for event in ann.events if event.startswith("denied")]


@pytest.mark.parametrize("kind", HOCUSPOCUS[2:])
def test_who_renews_it_may_be_allowed_less(party: Party) -> None:
    watcher = party.open(token=ending(600, "bob"))
    ann = party.open(token=ending(12), token_is="function")
    until(lambda: ann.synced)
    ann.append("before ")
    until(lambda: ann.saved)
    ann.renew(ending(600, access="read"))
    until(lambda: ann.events[-1] == "authenticated readonly")
    ann.append("and after")
    until(lambda: ann.messages("in").count(b"\x08\x00") == 1)
    watcher.append("bob too")
    until(lambda: watcher.saved)
    assert watcher.text == "before bob too"
    assert ann.connections == 1


# In 1.5 the URL is made once; the others ask for the token at each attempt.
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "1.5"])
def test_who_was_sent_away_comes_back_with_another_token(party: Party) -> None:
    watcher = party.open(token=ending(600, "bob"))
    ann = party.open(token=ending(4))
    until(lambda: ann.synced)
    if party.kind in HOCUSPOCUS:
        until(lambda: f"denied {OVER}" in ann.events)
    if party.kind not in HOCUSPOCUS[1:]:
        until(lambda: "closed 4403" in ann.events)
    ann.append("written meanwhile")
    ann.renew(ending(600))
    ann.retry()
    until(lambda: watcher.text == "written meanwhile" and ann.saved)


def test_no_token_is_in_the_log(mixed: Party, server: Server) -> None:
    """Neither of these nor of the tests before."""
    carried = ending(600)
    for kind in KINDS:
        client = mixed.open(kind=kind, token=carried)
        until(lambda: client.synced)  # noqa: B023
    log = server.log()
    for piece in (carried, *carried.split(".")[1:], carried.split(".")[0]):
        assert piece not in log
