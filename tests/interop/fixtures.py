"""What tests of clients in the field share: parties, and servers for them.

A test module says ``pytest_plugins = ["tests.interop.fixtures"]``, and has a fixture
``kind``: a ``party`` consists of clients of that kind. It may have a ``server`` of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import Clients
from tests.interop.parties import Fragile, Party
from tests.servers import Server, running


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with Clients() as clients:
        yield clients


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("interop")) as server:
        yield server


@pytest.fixture
def party(clients: Clients, server: Server, kind: str) -> Iterator[Party]:
    party = Party(clients, server.ws_url, kind)
    yield party
    party.close()


@pytest.fixture
def mixed(clients: Clients, server: Server) -> Iterator[Party]:
    """A party to which each brings a kind of its own."""
    party = Party(clients, server.ws_url)
    yield party
    party.close()


@pytest.fixture
def fragile(clients: Clients, kind: str, tmp_path: Path) -> Iterator[Fragile]:
    with running(tmp_path) as server:
        party = Fragile(clients, server, kind)
        yield party
        party.close()


@pytest.fixture
def fragile_mixed(clients: Clients, tmp_path: Path) -> Iterator[Fragile]:
    """A party on a server of its own, to which each brings a kind of its own."""
    with running(tmp_path) as server:
        party = Fragile(clients, server)
        yield party
        party.close()
