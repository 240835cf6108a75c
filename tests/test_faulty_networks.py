"""The npm package in Chromium, on networks that fail while several people write.

Each has a browser of their own, and types words (``tests/tabs.py``). In the end all
show what is in the database, in which each word is exactly once; what they were told
was saved was there at that moment; and nobody was told that they are in step who was
not connected.

``NETWORKS_SEED`` repeats what they decide.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from time import monotonic

import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, Page

from collab import Limits
from tests import nginx, servers
from tests.gateway import Gateway
from tests.nginx import StartNginx
from tests.pages import PATIENCE, launch
from tests.proxy import Proxy
from tests.servers import Serving
from tests.tabs import Writer, advance, begin, meet, sleeping
from tests.typists import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

HEARTBEAT = 1
"""Seconds, so that it soon comes out what is dead."""

TRANSPORTS = ("websocket", "http-stream", "events", "polling")

NUMBERS = count(1)

Pages = Callable[[int], Page]


def new_page(browser: Browser) -> Page:
    """A page in a browser in which nothing is stored."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    return context.new_page()


@pytest.fixture(scope="module")
def pages(browser: Browser) -> Iterator[Pages]:
    """The first page, and the second, and so on, each in a browser of its own."""
    opened: list[Page] = []

    def page(number: int) -> Page:
        if number == len(opened):
            opened.append(new_page(browser))
        return opened[number]

    yield page
    for one in opened:
        one.context.close()


@pytest.fixture
def laptop(browser: Browser) -> Iterator[Browser]:
    """Another browser, that one can put to sleep."""
    other = launch(browser.browser_type)
    yield other
    other.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    serving = servers.serving(folder, limits=Limits(heartbeat=HEARTBEAT))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving) as server,
    ):
        yield server


@pytest.fixture
def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'collab.db'}"


@pytest.fixture
def seed() -> int:
    seed = int(os.environ.get("NETWORKS_SEED", random.randrange(10**6)))
    print(f"NETWORKS_SEED={seed}")
    return seed


@pytest.fixture
def proxy(server: Serving) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def gateway(server: Serving, seed: int) -> Iterator[Gateway]:
    with Gateway(server.port, seed) as gateway:
        yield gateway


Come = Callable[..., Writer]


@pytest.fixture
def come(pages: Pages, site: str, database: str, seed: int) -> Iterator[Come]:
    """Let somebody open the test's document, through a port."""
    name = f"doc-{next(NUMBERS)}"
    writers: list[Writer] = []

    def come(port: int, page: Page | None = None, **options: str) -> Writer:
        url = f"ws://127.0.0.1:{port}/ws"
        options |= {"url": url, "name": name, "database": database}
        options |= {"seed": str(seed + len(writers)), "wait": "0"}
        writers.append(Writer(page or pages(len(writers)), site, **options))
        return writers[-1]

    yield come
    for writer in writers:
        writer.leave()


Everybody = Callable[[int], list[Writer]]


@pytest.fixture
def everybody(come: Come) -> Everybody:
    """Let four people open the test's document, each by another transport, and type."""

    def everybody(port: int) -> list[Writer]:
        writers = [come(port, transport=transport) for transport in TRANSPORTS]
        for writer in writers:
            writer.wait("collab.synced")
        advance(writers)
        begin(writers, 100)
        return writers

    return everybody


BAD: dict[str, Callable[[Proxy], None]] = {
    "delayed": lambda proxy: proxy.delay(to_server=0.1, to_client=0.1),
    "slow": lambda proxy: proxy.limit(8_000),
    "buffered": lambda proxy: proxy.buffer(4_000, seconds=0.2),
}
"""How a network can be bad, and not dead."""


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_network_is_made_do_with(
    everybody: Everybody, proxy: Proxy, database: str, fault: str
) -> None:
    writers = everybody(proxy.port)
    BAD[fault](proxy)
    for writer in writers:
        writer.wait("person.typed > 10")
    for report in meet(writers, database):
        assert (report.gaps, report.states) == ([], ["connecting", "connected"])


def test_connections_that_are_cut_wherever_they_are_lose_nothing(
    everybody: Everybody, proxy: Proxy, database: str, seed: int
) -> None:
    writers = everybody(proxy.port)
    chance = random.Random(seed)
    sizes = [int(10 ** chance.uniform(0, 3.5)) for _ in range(40)]
    proxy.cut_each_at(to_server=sizes[::2], to_client=sizes[1::2])
    proxy.cut()
    until(lambda: proxy.cuts > 15, "it was cut again and again")
    advance(writers)
    proxy.mend()
    socket, *_ = meet(writers, database)
    assert socket.gaps


def test_who_is_cut_off_is_told_and_comes_back(
    everybody: Everybody, proxy: Proxy, database: str
) -> None:
    writers = everybody(proxy.port)
    proxy.refuse()
    proxy.cut()
    for writer in writers:
        writer.wait("collab.status === 'waiting' && !collab.synced && !collab.saved")
        assert writer.report().error is not None
    proxy.mend()
    for report in meet(writers, database):
        assert report.gaps


def test_connections_that_are_cut_for_being_idle_lose_nothing(
    everybody: Everybody, proxy: Proxy, database: str
) -> None:
    writers = everybody(proxy.port)
    proxy.cut_idle(HEARTBEAT / 3)
    begin(writers, 0)
    for _ in range(3):
        cuts = proxy.cuts
        until(lambda cuts=cuts: proxy.cuts >= cuts + 4, "they are idle")  # type: ignore[misc]
        for writer in writers:
            writer.type_word()
    proxy.mend()
    socket, *_ = meet(writers, database)
    assert socket.gaps


def test_connections_that_are_idle_are_kept(
    everybody: Everybody, proxy: Proxy, database: str
) -> None:
    writers = everybody(proxy.port)
    begin(writers, 0)
    proxy.cut_idle(HEARTBEAT * 4)
    began = monotonic()
    until(lambda: monotonic() - began > HEARTBEAT * 5, "it would have cut them")
    advance(writers)
    for report in meet(writers, database):
        assert (report.gaps, report.states) == ([], ["connecting", "connected"])


def test_the_documented_configuration_of_nginx_passes_everything_on(
    everybody: Everybody, start_nginx: StartNginx, server: Serving, database: str
) -> None:
    proxy = start_nginx(nginx.documented(server.port))
    writers = everybody(proxy.port)
    advance(writers)
    begin(writers, 100)
    # As nginx is if it isn't told of upgrades; connections of the one before end.
    proxy.configure(nginx.refusing(server.port))
    socket, *others = writers
    socket.wait("collab.status === 'waiting' && !collab.saved")
    advance(others)
    assert not socket.report().synced
    proxy.configure(nginx.documented(server.port))
    reports = meet(writers, database)
    assert [bool(report.gaps) for report in reports] == [True, False, False, False]


def test_where_upgrades_are_refused_http_carries_on(
    come: Come, gateway: Gateway, database: str
) -> None:
    gateway.sockets = "refused"
    writers = [come(gateway.port, probe="300") for _ in range(2)]
    begin(writers, 50)
    for writer in writers:
        writer.wait("collab.synced && client.transportName === 'http-stream'")
    gateway.sockets = "open"
    for writer in writers:
        writer.wait("client.transportName === 'websocket'")
    assert [writer.report().gaps for writer in writers] == [[], []]
    gateway.sockets = "refused"
    gateway.cut_sockets()
    for writer in writers:
        writer.wait("collab.synced && client.transportName === 'http-stream'")
    for report, writer in zip(meet(writers, database), writers, strict=True):
        assert len(report.gaps) == 1
        assert writer.ask("names") == ["http-stream", "websocket", "http-stream"]


def test_where_responses_are_kept_back_others_carry_on(
    come: Come, server: Serving, database: str
) -> None:
    with Gateway(server.port) as some, Gateway(server.port) as all:
        some.sockets = all.sockets = "refused"
        some.keeping = frozenset({"stream"})
        all.keeping = frozenset({"stream", "events"})
        writers = [come(gateway.port) for gateway in (some, all)]
        for writer in writers:
            writer.type_word()
        begin(writers, 50)
        for writer in writers:
            assert not writer.ask("collab.saved")
        for writer in writers:
            writer.wait("collab.synced")
        advance(writers)
        reports = meet(writers, database)
        assert [one.transportName for one in reports] == ["events", "polling"]


def test_requests_that_are_lost_repeated_and_late_lose_nothing(
    come: Come, gateway: Gateway, database: str
) -> None:
    writers = [come(gateway.port, transport=name) for name in TRANSPORTS[1:]]
    gateway.loss = 0.2
    begin(writers, 100)
    for writer in writers:
        writer.wait("person.typed >= 20")
    assert gateway.asked("/push") > 10
    advance(writers)
    gateway.loss = 0.0
    meet(writers, database)


def test_a_machine_that_slept_comes_back_and_has_lost_nothing(
    laptop: Browser, pages: Pages, come: Come, server: Serving, database: str
) -> None:
    with Proxy(server.port) as cut, Proxy(server.port) as dead:
        owners = [
            come(proxy.port, new_page(laptop), transport=transport)
            for proxy in (cut, dead)
            for transport in ("websocket", "http-stream")
        ]
        other = come(server.port, pages(0))
        advance([*owners, other])
        # What they wrote last never arrives, or nobody hears that it did.
        dead.hang()
        cut.drop_replies()
        for writer in owners:
            writer.type_word()
        with sleeping(laptop):
            cut.refuse()
            cut.cut()
            # Nothing comes from who listens to a stream: it can't be missed.
            until(lambda: len(server.hub.wheel) == 2, "the server has given them up")
            advance([other])
            cut.mend()
        socket = owners[2]
        socket.wait("person.gaps.length > 0 || !collab.synced")
        assert not socket.ask("collab.saved")
        dead.mend()
        reports = meet([*owners, other], database)
        assert reports[0].gaps
        assert reports[2].gaps
        assert not reports[4].gaps


def test_what_was_written_offline_is_merged(
    everybody: Everybody, server: Serving, database: str
) -> None:
    writers = everybody(server.port)
    away, here = writers[::2], writers[1::2]
    for writer in away:
        writer.page.context.set_offline(True)
    for writer in away:
        writer.wait("!collab.synced && !collab.saved")
        writer.wait("collab.status === 'waiting'")
    before = [writer.report() for writer in away]
    advance(here)
    begin(here, 50)
    for writer, report in zip(away, before, strict=True):
        writer.wait(f"person.typed > {report.typed + 10}")
        assert writer.report().acked == report.acked
    for writer in away:
        writer.page.context.set_offline(False)
    reports = meet(writers, database)
    assert [bool(report.gaps) for report in reports] == [True, False] * 2
