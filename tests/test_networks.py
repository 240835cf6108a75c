"""Our own client, in Node, on networks that fail; each document through a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from collab import AccessDenied, Attempt, Grant, Limits
from tests import servers
from tests.people import People, Report, settle
from tests.proxy import Proxy
from tests.servers import Serving
from tests.typists import until

pytestmark = pytest.mark.slow

HEARTBEAT = 3
"""Seconds, so that clients soon notice that a connection is dead."""


class Door:
    """Lets in whoever has the right token."""

    def __init__(self) -> None:
        self.token = ""
        self.denied = 0

    async def admit(self, attempt: Attempt) -> Grant:
        if attempt.token != self.token:
            self.denied += 1
            raise AccessDenied
        return Grant(attempt.token)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "collab.db"


@pytest.fixture
def server(tmp_path: Path, door: Door) -> Iterator[Serving]:
    limits = Limits(heartbeat=HEARTBEAT)
    serving = servers.serving(tmp_path, limits=limits, authorize=door.admit)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving) as server,
    ):
        yield server


@pytest.fixture
def people(database: Path) -> Iterator[People]:
    with People(database) as people:
        yield people


def url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/ws"


def of(people: People, name: str) -> list[Report]:
    """Those who have a document open."""
    return [report for report in people.reports() if report.name == name]


def cut_off(proxy: Proxy) -> None:
    """Cut all connections, and refuse others."""
    proxy.refuse()
    proxy.cut()


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "cut": Proxy.cut,
    "unreachable": cut_off,
    "half-open": Proxy.hang,
    "deaf": Proxy.drop_replies,
    "delayed": lambda proxy: proxy.delay(to_server=0.3, to_client=0.3),
    "slow": lambda proxy: proxy.limit(4_000),
    "buffered": lambda proxy: proxy.buffer(4_000, seconds=0.4),
    "impatient": lambda proxy: proxy.cut_idle(HEARTBEAT / 6),
    "patient": lambda proxy: proxy.cut_idle(HEARTBEAT * 4),
}
"""What may happen to a connection."""

GIVEN_UP = ["half-open", "deaf"]
"""Where only silence tells that a connection is dead."""

KEPT = ["delayed", "slow", "buffered", "patient"]
"""Where a connection is bad, and not dead."""


@pytest.mark.timeout(300)
def test_no_fault_of_a_network_loses_or_doubles_an_edit(
    server: Serving, people: People, database: Path
) -> None:
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(Proxy(server.port)) for name in FAULTS}
        for name, proxy in proxies.items():
            people.come(url(proxy.port), [name, name], pause=300)
            people.come(url(server.port), [name], pause=300)
        people.come(url(proxies["patient"].port), ["patient"])  # It types nothing.
        people.do("synced")
        for name, inflict in FAULTS.items():
            inflict(proxies[name])
        for name in GIVEN_UP:
            until(
                lambda name=name: sum(not one.synced for one in of(people, name)) == 2,  # type: ignore[misc]
                f"{name} is noticed",
            )
        # Through what is bad, but not dead, it goes on.
        people.do("rest")
        people.do("type", 1)
        for name in KEPT:
            until(
                lambda name=name: all(one.saved for one in of(people, name)),  # type: ignore[misc]
                f"{name} is saved",
            )
        until(
            lambda: sum(bool(one.gaps) for one in of(people, "impatient")) == 2,
            "nothing was heard for too long",
        )
        for name in GIVEN_UP:
            cut = [one for one in of(people, name) if not one.synced]
            assert len(cut) == 2
            assert not any(one.saved for one in cut)
        for proxy in proxies.values():
            proxy.mend()
        reports = settle([people], f"sqlite:///{database}")
        for name in KEPT:
            assert [one.gaps for one in reports if one.name == name and one.gaps] == []
        for name in ("cut", "unreachable", "impatient", *GIVEN_UP):
            assert sum(bool(one.gaps) for one in reports if one.name == name) == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["to_server", "to_client"])
def test_a_sync_may_be_cut_behind_every_byte(
    server: Serving, people: People, database: Path, way: str
) -> None:
    with Proxy(server.port) as proxy:
        # How many bytes it has, by the longest of some.
        probes = [f"probe-{number}" for number in range(3)]
        people.come(url(server.port), probes, before=2)
        people.do("saved")
        before = getattr(proxy, way).passed
        people.come(url(proxy.port), probes[:1], before=2)
        people.do("synced")
        people.do("saved")
        size = getattr(proxy, way).passed - before
        people.do("leave")
        assert 300 < size < 3_000

        names = [f"doc-{number}" for number in range(size + 1)]
        people.come(url(server.port), names, before=2)
        people.do("saved")
        proxy.cut_each_at(**{way: range(size + 1)})
        people.come(url(proxy.port), names, before=2, wait=0)
        settle([people], f"sqlite:///{database}")
        assert proxy.cuts >= size


def test_a_machine_that_slept_comes_back_and_has_lost_nothing(
    server: Serving, people: People, database: Path
) -> None:
    with Proxy(server.port) as cut, Proxy(server.port) as dead, People() as others:
        for proxy in (cut, dead):
            people.come(url(proxy.port), ["doc"] * 2)
        others.come(url(server.port), ["doc"], pause=200)
        people.do("synced")
        people.do("type", 1)
        people.do("saved")
        # What it wrote when it was closed never arrives, or nobody hears that it did.
        dead.hang()
        cut.drop_replies()
        people.do("type", 1)
        people.freeze()
        cut.refuse()
        cut.cut()
        until(lambda: len(server.hub.wheel) == 1, "the server has given them up")
        others.do("advance")
        cut.mend()
        people.wake()
        until(
            lambda: all(one.gaps or one.lost for one in people.reports()),
            "they have noticed that they were given up",
        )
        assert not any(one.saved for one in people.reports() if one.lost)
        dead.mend()
        reports = settle([people, others], f"sqlite:///{database}")
        assert [bool(one.gaps) for one in reports] == [True] * 4 + [False]


def test_a_connection_that_outlived_the_sleep_is_kept(
    server: Serving, people: People, database: Path
) -> None:
    people.come(url(server.port), ["doc", "doc"], before=1)
    people.do("saved")
    people.freeze()
    people.wake()
    people.do("type", 1)
    reports = settle([people], f"sqlite:///{database}")
    assert [len(one.attempts) for one in reports] == [1, 1]


def test_a_token_that_expired_is_asked_for_again(
    server: Serving, door: Door, people: People, database: Path
) -> None:
    with Proxy(server.port) as proxy:
        door.token = "monday"
        people.do("token", "monday")
        people.come(url(proxy.port), ["doc", "doc"], before=1, wait=0)
        people.do("saved")

        door.token = "tuesday"
        people.do("token", "tuesday")
        proxy.hang()
        people.do("type", 1)
        proxy.cut()
        proxy.mend()
        people.do("saved")
        assert door.denied == 0

        # Whoever has only the old one is sent away for good, and keeps what it wrote.
        door.token = "wednesday"
        proxy.cut()
        people.do("unsynced")
        people.do("type", 1)
        people.do("status", "closed")
        for one in people.reports():
            assert one.error is not None
            assert (one.error["code"], one.error["final"]) == (4403, True)
            assert not one.saved
        assert door.denied == 2
        people.do("token", "wednesday")
        people.do("retry")
        settle([people], f"sqlite:///{database}")


def test_thousands_of_edits_on_both_sides_are_merged(
    server: Serving, people: People, database: Path
) -> None:
    with Proxy(server.port) as proxy, People() as others:
        people.come(url(proxy.port), ["doc"], before=10)
        others.come(url(server.port), ["doc", "doc"], before=10)
        people.do("saved")
        cut_off(proxy)
        people.do("unsynced")
        people.do("type", 3000)
        others.do("type", 1500)
        others.do("saved")
        assert [(one.saved, one.acked) for one in people.reports()] == [(False, 10)]
        proxy.mend()
        settle([people, others], f"sqlite:///{database}")
