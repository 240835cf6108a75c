"""One fault after the other, under load, for as long as one likes.

``SOAK=1800`` is half an hour; ``SOAK_SEED``, which is printed, repeats the faults.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from tests import servers
from tests.conftest import StartServer
from tests.databases import Postgres, through
from tests.proxy import Proxy
from tests.servers import Server
from tests.test_faults import connected, cut_off, ready, said
from tests.typists import Desk

SEED = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(2**32)))
SECONDS = float(os.environ.get("SOAK", "45"))

CALM = 0.5
"""Seconds between two faults, on average."""

FAULT = 3.0
"""Seconds that a fault lasts, at most; one in eight three times as long, so that it is
noticed."""

GROWTH = 48 * 2**20
"""Bytes that the memory may differ by; documents grow, too."""


class Sample(NamedTuple):
    """What a server takes at a moment."""

    memory: int
    threads: int
    files: int

    @classmethod
    def of(cls, server: Server) -> Sample:
        """What it takes now."""
        return cls(server.memory(), server.threads(), server.files())


class Faults:
    """What can happen to a database and to the way there."""

    def __init__(self, database: Postgres, proxy: Proxy, url: str, seed: int) -> None:
        self.database = database
        self.proxy = proxy
        self.url = url
        self.chance = random.Random(seed)
        self.counts: dict[str, int] = {}

    def strike(self) -> None:
        """Let something happen, wait, and make it good again."""
        fault = self.chance.choice(
            [
                self.freeze,
                self.crash,
                self.stop,
                self.cut_off,
                self.hang,
                self.refuse,
                self.delay,
                self.lose_answers,
                self.lock_table,
                self.lock_document,
            ]
        )
        name = fault.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        fault()
        self.proxy.mend()

    def last(self) -> None:
        """Let it last for a while."""
        long = 3 if self.chance.random() < 0.125 else 1
        sleep(self.chance.random() * FAULT * long)

    def freeze(self) -> None:
        self.database.pause()
        self.last()
        self.database.resume()

    def crash(self) -> None:
        self.database.kill()
        self.last()
        self.database.start()

    def stop(self) -> None:
        self.database.stop()
        self.last()
        self.database.start()

    def cut_off(self) -> None:
        cut_off(self.url, "postgres")

    def hang(self) -> None:
        self.proxy.hang()
        self.last()

    def refuse(self) -> None:
        self.proxy.refuse()
        self.proxy.cut()
        self.last()

    def delay(self) -> None:
        seconds = self.chance.random() / 4
        self.proxy.delay(to_server=seconds, to_client=seconds)
        self.last()

    def lose_answers(self) -> None:
        for _ in range(3):
            self.proxy.cut_answer_to(self.database.commit)
            sleep(self.chance.random() / 2)

    def lock_table(self) -> None:
        self._hold("LOCK TABLE updates IN ACCESS EXCLUSIVE MODE")

    def lock_document(self) -> None:
        self._hold("SELECT id FROM documents WHERE name = 'one' FOR UPDATE")

    def _hold(self, statement: str) -> None:
        with connected(self.url) as connection:
            connection.exec_driver_sql(statement)
            self.last()


def check_flat(
    samples: list[Sample], pick: Callable[[Sample], int], slack: int
) -> None:
    """The second half takes no more than the first."""
    half = len(samples) // 2
    before, after = (max(map(pick, part)) for part in (samples[:half], samples[half:]))
    assert after <= before + slack, [pick(sample) for sample in samples]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3 + 600)
def test_faults_come_and_go(start_server: StartServer, tmp_path: Path) -> None:
    print(f"SOAK_SEED={SEED} SOAK={SECONDS:g}")
    database = start_server(Postgres)
    assert isinstance(database, Postgres)
    direct = database.create_database()
    port = sa.make_url(direct).port
    assert port is not None
    with Proxy(port) as proxy:
        url = through(direct, proxy.port)
        faults = Faults(database, proxy, direct, SEED)
        rooms = ["one", "two", "three", "four", "five"]
        with (
            servers.running(tmp_path, database=url) as server,
            Desk(server, rooms=rooms, database=direct, pause=0.05) as desk,
        ):
            desk.advance()
            samples = []
            deadline = monotonic() + SECONDS
            while monotonic() < deadline:
                faults.strike()
                desk.hear_each_other()
                desk.verify_acked()
                samples.append(Sample.of(server))
                sleep(faults.chance.random() * 2 * CALM)
            desk.advance()
            ready(server)
            desk.settle()
            desk.verify()
            log = server.log()
            begun, over = said(server, "journal: cannot save"), said(server, "saved ag")
            print(
                f"{desk.count} edits, {faults.counts}, {begun} incidents, {over} over"
            )
            assert "Traceback" not in log, log
            check_flat(samples, lambda sample: sample.memory, GROWTH)
            check_flat(samples, lambda sample: sample.threads, 2)
            check_flat(samples, lambda sample: sample.files, 10)
            assert server.terminate() == 0
