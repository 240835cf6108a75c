"""``python -m benchmarks.rolling``: what people notice when servers are restarted."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.servers import HERE
from collab.wheel import DRAIN, PACE
from tests.databases import Postgres, ServerMissing
from tests.people import Report, settle, together
from tests.sites import Site, site

HELP = """\
Restart two servers on one PostgreSQL database, one after the other, behind a balancer,
while people edit with our own client in Node; then kill each of them. Measure for how
long each client was without service, and how evenly they came to the other server. It
takes about a minute.
"""

WINDOW = 250
"""Milliseconds in which attempts to connect are counted."""

BUDGET_GAP = 2000
"""Milliseconds without service, at the 99th percentile."""

BUDGET_PEAK = 1.3
"""The most attempts in a window, divided by what it would be if all were even."""


@dataclass
class Stop:
    """A server that went, and until when its clients were looked at."""

    name: str
    clients: int
    """Connections that it had."""
    began: float
    """Milliseconds since 1970."""
    ended: float = 0.0


def main() -> int:
    options = parser().parse_args()
    try:
        with Postgres() as postgres, tempfile.TemporaryDirectory() as folder:
            database = postgres.create_database()
            with site(Path(folder), database, options.clients) as made:
                stops = [*restart(made), *kill(made)]
                # Each word that somebody typed is in the database once, and nobody was
                # told that one is saved which isn't.
                reports = settle(made.crowds, database)
    except ServerMissing as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = markdown(stops, reports, options.clients)
    print(text)
    if options.write:
        (HERE / "ROLLING.md").write_text(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.rolling",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--clients", type=int, default=200, help="how many people edit (200)"
    )
    made.add_argument(
        "--write", action="store_true", help="write the table to benchmarks/ROLLING.md"
    )
    return made


def restart(made: Site) -> list[Stop]:
    """Stop each server with SIGTERM, and start it again when it has ended."""
    stops = []
    for name, server in zip(("first", "second"), made.pair, strict=True):
        print(f"SIGTERM to the {name}", file=sys.stderr)
        clients = made.balancer.open[server.port]
        stops.append(Stop(f"SIGTERM to the {name}", clients, now()))
        server.terminate()
        made.verify_acked()
        server.start()
        made.all_ready()
        together(made.crowds, "advance")
        stops[-1].ended = now()
    return stops


def kill(made: Site) -> list[Stop]:
    """The same with ``kill -9``."""
    stops = []
    for name, server in zip(("first", "second"), made.pair, strict=True):
        print(f"kill -9 of the {name}", file=sys.stderr)
        clients = made.balancer.open[server.port]
        stops.append(Stop(f"kill -9 of the {name}", clients, now()))
        server.kill()
        made.verify_acked()
        together(made.crowds, "synced")
        server.start()
        made.all_ready()
        together(made.crowds, "advance")
        stops[-1].ended = now()
    return stops


def now() -> float:
    return time.time() * 1000


def markdown(stops: Sequence[Stop], reports: Sequence[Report], clients: int) -> str:
    """The table."""
    typed = sum(one.typed for one in reports)
    notes = report.machine()
    lines = [
        f"# Restarting servers, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
        "",
        f"* machine: {notes['machine']}, which servers, clients and the balancer share",
        f"* ours: {notes['ours']}",
        "",
        f"{clients} people in {len({one.name for one in reports})} documents, each "
        "with a connection of our own client in Node through a balancer to one of two "
        "servers on one PostgreSQL database. They typed "
        f"{typed:,} words; all of them were in the database in the end, each once, and "
        "none was missing at any time that had been acknowledged.",
        "",
        "| | its clients | never without service | without, p50, ms | p99, ms "
        f"| most, ms | attempts | most in {WINDOW} ms | if even | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [row(stop, reports) for stop in stops]
    lines += [
        "",
        f"Without service: from when a connection ends until the next one is synced; 0 "
        f"for who had another one before. Budget: at most {BUDGET_GAP} ms at p99. "
        f"Ratio: the most attempts to connect in any {WINDOW} ms, divided by those "
        "that it would be if all of them were spread evenly over the time that the "
        f"server gives them ({1000 * PACE:g} ms for each, {DRAIN:g} s at most). "
        f"Budget: {BUDGET_PEAK}. When a server is killed nobody can be told, and "
        "clients wait 0.5 to 1 s at random.",
    ]
    return "\n".join(lines) + "\n"


def row(stop: Stop, reports: Sequence[Report]) -> str:
    gaps: list[float] = []
    moments: list[float] = []
    moved = 0
    for one in reports:
        tries = [t for t in one.attempts if stop.began <= t[0] < stop.ended]
        if not tries:
            continue
        moments += [at for at, _ in tries]
        lost = [
            to - since for since, to in one.gaps if stop.began <= since < stop.ended
        ]
        moved += not lost
        gaps.append(sum(lost))
    gaps.sort()
    moments.sort()
    killed = stop.name.startswith("kill")
    window = 500.0 if killed else 1000 * min(DRAIN, PACE * stop.clients)
    peak = most(moments)
    even = len(moments) * min(1.0, WINDOW / window)
    figures = [
        f"{stop.clients}",
        f"{moved}",
        f"{at(gaps, 0.5):.0f}",
        f"{at(gaps, 0.99):.0f}",
        f"{gaps[-1]:.0f}",
        f"{len(moments)}",
        f"{peak}",
        f"{even:.1f}",
        "" if killed else f"{peak / even:.2f}",
    ]
    return f"| {stop.name} | {' | '.join(figures)} |"


def most(moments: Sequence[float]) -> int:
    """The most of them that lie in any window."""
    first = best = 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - WINDOW:
            first += 1
        best = max(best, last - first + 1)
    return best


def at(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    sys.exit(main())
