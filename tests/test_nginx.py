"""Our own client, in Node, through nginx."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from anyio.from_thread import start_blocking_portal

from collab import Limits
from tests import nginx, servers
from tests.databases import DatabaseServer
from tests.nginx import StartNginx
from tests.people import People, settle
from tests.proxy import Proxy
from tests.servers import Server, Serving
from tests.typists import until

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with servers.running(tmp_path) as server:
        yield server


@pytest.fixture
def people(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[People]:
    with People(tmp_path / "collab.db", trusted=certificate[0]) as people:
        yield people


@contextmanager
def beating(folder: Path, heartbeat: int) -> Iterator[Serving]:
    """A server that gives signs of life more often, or less."""
    serving = servers.serving(folder, limits=Limits(heartbeat=heartbeat))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving) as server,
    ):
        yield server


def test_the_documented_configuration_hands_clients_over(
    start_nginx: StartNginx, tmp_path: Path, postgres: DatabaseServer
) -> None:
    database = postgres.create_database()
    with ExitStack() as stack:
        pair = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            running = servers.running(tmp_path / name, database=database)
            pair.append(stack.enter_context(running))
        proxy = start_nginx(nginx.documented(*(server.port for server in pair)))
        people = stack.enter_context(People())
        people.come(f"ws://127.0.0.1:{proxy.port}/ws", ["doc"] * 10, pause=500)
        people.do("synced")
        for server in pair:
            people.do("advance")
            assert server.terminate() == 0
            people.do("synced")
            people.do("advance")
            server.start()
        reports = settle([people], database)
        moved = [report for report in reports if any(s for _, s in report.attempts)]
        assert len(moved) == len(reports)
        # The server waits only so long for those of a machine that is too busy.
        assert sum(bool(report.gaps) for report in reports) < len(reports) / 2


def test_tls_may_end_there(
    start_nginx: StartNginx,
    server: Server,
    people: People,
    certificate: tuple[Path, Path],
) -> None:
    proxy = start_nginx(nginx.encrypted(nginx.documented(server.port), certificate))
    people.come(f"wss://127.0.0.1:{proxy.port}/ws", ["doc", "doc"], before=2)
    settle([people], server.database_url)


def test_a_network_without_upgrades_saves_nothing_and_says_so(
    start_nginx: StartNginx, server: Server, people: People
) -> None:
    proxy = start_nginx(nginx.refusing(server.port))
    people.come(f"ws://127.0.0.1:{proxy.port}/ws", ["doc", "doc"], before=2, wait=0)
    people.do("status", "waiting")
    assert not any(report.saved for report in people.reports())
    for sites in (nginx.buffering(server.port), nginx.documented(server.port)):
        proxy.configure(sites)
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy.port}/readyz") as answer:
            assert answer.status == 200
    settle([people], server.database_url)
    # And if the network changes while they are there.
    proxy.configure(nginx.refusing(server.port))
    people.do("unsynced")
    people.do("type", 1)
    assert not any(report.saved for report in people.reports())
    proxy.configure(nginx.documented(server.port))
    settle([people], server.database_url)


@pytest.mark.parametrize(("heartbeat", "stays"), [(1, True), (60, False)])
def test_it_cuts_who_is_silent(
    start_nginx: StartNginx, tmp_path: Path, people: People, heartbeat: int, stays: bool
) -> None:
    with beating(tmp_path, heartbeat) as server:
        proxy = start_nginx(nginx.impatient(server.port, seconds=3))
        people.come(f"ws://127.0.0.1:{proxy.port}/ws", ["doc", "doc"], before=2, wait=0)
        people.do("saved")
        began = monotonic()
        if stays:
            until(lambda: monotonic() - began > 4, "it would have cut them")
        else:
            until(lambda: all(one.gaps for one in people.reports()), "it has cut them")
        people.do("type", 1)
        reports = settle([people], f"sqlite:///{tmp_path / 'collab.db'}")
        if stays:
            assert [one.gaps for one in reports] == [[], []]


def test_the_usual_heartbeat_outlives_thirty_seconds_of_silence(
    start_nginx: StartNginx, server: Server, people: People
) -> None:
    with Proxy(server.port) as cutting:
        cutting.cut_idle(30)
        proxy = start_nginx(nginx.impatient(server.port, seconds=30))
        for port in (cutting.port, proxy.port):
            people.come(f"ws://127.0.0.1:{port}/ws", ["doc"], before=2)
        people.do("saved")
        began = monotonic()
        until(lambda: monotonic() - began > 32, "they would have cut it")
        people.do("type", 1)
        reports = settle([people], server.database_url)
        assert [len(one.attempts) for one in reports] == [1, 1]
        assert cutting.cuts == 0
