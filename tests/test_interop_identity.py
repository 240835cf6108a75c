"""Clients in the field are who they are in presence, for each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop import KINDS, until
from tests.interop.parties import Party
from tests.servers import Server, running
from tests.signing import SECRET, token

pytest_plugins = ["tests.interop.fixtures"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that says whose a state is."""
    with running(
        tmp_path_factory.mktemp("identity"),
        *("--presence-user", "stamp"),
        environment={"COLLAB_JWT_SECRET": SECRET},
    ) as server:
        yield server


def test_each_kind_is_seen_as_who_it_is(mixed: Party) -> None:
    everybody = {
        kind: mixed.open(kind=kind, token=token(sub=kind, name=f"The {kind}"))
        for kind in KINDS
    }
    until(lambda: all(client.synced for client in everybody.values()))
    lie = {"id": "root", "name": "Root", "color": "#30bced"}
    for client in everybody.values():
        client.run("awareness.setLocalStateField('user', user)", user=lie)

    def seen(kind: str) -> list[dict[str, Any]]:
        """Whom a client sees, but for itself."""
        people = everybody[kind].people.values()
        users = [state["user"] for state in people if "user" in state]
        return sorted(
            (user for user in users if user != lie), key=lambda user: str(user["id"])
        )

    for kind in KINDS:
        others = [
            {"id": other, "name": f"The {other}", "color": "#30bced"}
            for other in sorted(KINDS)
            if other != kind
        ]
        until(lambda: seen(kind) == others)  # noqa: B023
