"""Two servers behind a balancer, restarted, and killed, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.databases import DatabaseServer
from tests.people import settle, together
from tests.sites import site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_rolling_restart_is_noticed_by_nobody(
    tmp_path: Path, postgres: DatabaseServer
) -> None:
    with site(tmp_path, postgres.create_database(), clients=200) as made:
        told = 0
        for server in made.pair:
            told += made.balancer.open[server.port]
            assert server.terminate() == 0
            made.verify_acked()
            server.start()
            made.all_ready()
            together(made.crowds, "advance")
        assert told >= 200
        reports = settle(made.crowds, made.database)
        # They had another connection before they gave up the first.
        moves = [at for report in reports for at, synced in report.attempts if synced]
        assert len(moves) >= told
        # Whether all had it in time depends on the machine (`make bench-rolling`); but
        # nobody was cut off without having been told before.
        for report in reports:
            tries = [at for at, synced in report.attempts if synced]
            for lost, _ in report.gaps:
                assert any(at <= lost for at in tries), report


def test_a_server_that_is_killed_loses_nothing(
    tmp_path: Path, postgres: DatabaseServer
) -> None:
    with site(tmp_path, postgres.create_database(), clients=100) as made:
        for server in made.pair:
            server.kill()
            made.verify_acked()
            together(made.crowds, "synced")
            server.start()
            made.all_ready()
            together(made.crowds, "advance")
        reports = settle(made.crowds, made.database)
        assert any(report.gaps for report in reports)
