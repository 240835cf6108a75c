"""Two servers on one database, behind a balancer, and people who edit all the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests import servers
from tests.balancer import Balancer
from tests.people import People, together
from tests.typists import read_log, until

EACH = 50
"""People in one process."""

DOCUMENTS = [f"doc-{number}" for number in range(12)]

PAUSE = 1500
"""Milliseconds between two words of somebody."""


class Site:
    """Two servers, a balancer, and people who edit."""

    def __init__(
        self,
        pair: list[servers.Server],
        balancer: Balancer,
        crowds: list[People],
        database: str,
    ) -> None:
        self.pair = pair
        self.balancer = balancer
        self.crowds = crowds
        self.database = database

    def all_ready(self) -> None:
        """Wait until the balancer sends clients to both."""
        until(lambda: len(self.balancer.ready) == len(self.pair), "both are ready")

    def acked(self) -> dict[str, set[str]]:
        """The words in each document of which somebody was told that they are saved."""
        acked: dict[str, set[str]] = {name: set() for name in DOCUMENTS}
        for people in self.crowds:
            for report in people.reports():
                acked[report.name] |= report.words(report.acked)
        return acked

    def verify_acked(self) -> None:
        """What was acknowledged so far is in the database."""
        for name, acked in self.acked().items():
            lost = acked - read_log(self.database, name).words
            assert not lost, f"{name}: {len(lost)} words, such as {min(lost)}"


@contextmanager
def site(folder: Path, database: str, clients: int) -> Iterator[Site]:
    """So many people are there, and edit."""
    with ExitStack() as stack:
        pair = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            server = servers.running(folder / name, database=database)
            pair.append(stack.enter_context(server))
        balancer = stack.enter_context(Balancer(*(server.port for server in pair)))
        crowds = [stack.enter_context(People()) for _ in range(0, clients, EACH)]
        made = Site(pair, balancer, crowds, database)
        made.all_ready()
        for index, people in enumerate(crowds):
            numbers = range(index * EACH, min(clients, (index + 1) * EACH))
            documents = [DOCUMENTS[number % len(DOCUMENTS)] for number in numbers]
            people.come(f"ws://127.0.0.1:{balancer.port}/ws", documents, pause=PAUSE)
        together(crowds, "synced")
        together(crowds, "advance")
        yield made
