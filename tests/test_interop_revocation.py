"""Clients in the field whose access was taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from collab.cli import main
from tests.interop import HOCUSPOCUS, KINDS, Client, until
from tests.interop.parties import Party
from tests.servers import Server, running
from tests.signing import SECRET, token

pytest_plugins = ["tests.interop.fixtures"]

REVOKED = "access was revoked"
KICKED = "removed from the document"

RETURNING = ["1.5", "2.1", "3.1-rc", "4.0", "y-sweet", "y-partyserver"]
"""Clients that come back after they were closed with 4403."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a secret."""
    folder: Path = tmp_path_factory.mktemp("revocation")
    with running(folder, environment={"COLLAB_JWT_SECRET": SECRET}) as server:
        yield server


def run(server: Server, *arguments: str) -> None:
    """Run a command on the database of a server."""
    database = ["--database", server.database_url]
    result = CliRunner().invoke(main, [*arguments, *database])
    assert result.exit_code == 0, result.output


def told(kind: str, client: Client, reason: str) -> bool:
    """Whether a client has heard that it has to go, in its own way."""
    if kind in HOCUSPOCUS and f"denied {reason}" not in client.events:
        return False
    return kind in HOCUSPOCUS[1:] or "closed 4403" in client.events


def test_each_kind_has_to_go_and_is_refused_when_it_comes_back(
    mixed: Party, server: Server
) -> None:
    inside = mixed.open(token=token(sub="bob"))
    everybody = {kind: mixed.open(kind=kind, token=token(sub="ann")) for kind in KINDS}
    until(lambda: all(client.synced for client in everybody.values()))
    for kind, client in everybody.items():
        client.append(f"{kind} ")
    until(lambda: all(kind in inside.text for kind in KINDS))
    until(lambda: all(client.saved for client in everybody.values()))
    run(server, "revoke", "--user", "ann")
    for kind, client in everybody.items():
        until(lambda: told(kind, client, REVOKED))  # noqa: B023
        if kind in HOCUSPOCUS[1:]:  # There may be other documents.
            assert client.connected, kind
    before = inside.text
    for client in everybody.values():
        client.append("too late ")
    inside.append("bob too")
    until(lambda: inside.saved)
    assert inside.text == f"{before}bob too"
    assert all("bob too" not in client.text for client in everybody.values())
    # Another one of the account is refused, too.
    for kind in KINDS:
        client = mixed.open(kind=kind, token=token(sub="ann"))
        until(lambda: told(kind, client, REVOKED))  # noqa: B023
        assert client.text == ""
    run(server, "revoke", "--undo", "1")
    for kind in KINDS:
        client = mixed.open(kind=kind, token=token(sub="ann"))
        until(lambda: client.synced and "bob too" in client.text)  # noqa: B023


def test_each_kind_is_kicked_and_may_come_back(mixed: Party, server: Server) -> None:
    everybody = {kind: mixed.open(kind=kind, token=token(sub="eve")) for kind in KINDS}
    until(lambda: all(client.synced for client in everybody.values()))
    run(server, "kick", "--user", "eve", "--document", mixed.name)
    for kind, client in everybody.items():
        until(lambda: told(kind, client, KICKED))  # noqa: B023
    inside = mixed.open(token=token(sub="bob"))
    inside.append("hello")
    for kind in KINDS:
        # Some don't know what the code means.
        client = everybody[kind]
        if kind not in RETURNING:
            client = mixed.open(kind=kind, token=token(sub="eve"))
        until(lambda: client.text == "hello")  # noqa: B023
    for kind in set(KINDS) - set(RETURNING):
        assert everybody[kind].text == ""
