"""``python -m benchmarks.store``: how fast edits are saved, on each database."""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import load, report
from benchmarks.__main__ import names
from benchmarks.servers import COLLAB, HERE, Trouble, running
from collab.store import Append, Store
from tests.databases import DatabaseServer, MariaDB, Postgres, ServerMissing

HELP = """\
Offer 1,000, 5,000 and 20,000 edits a second to a server, from 50 clients in as many
documents, and measure how long each author waits until the edit is on disk. Then how
many appends a second the store can take by itself. Database servers are started here;
they sync each commit. It takes about two minutes.
"""

RATES = (1000, 5000, 20_000)
"""Edits offered per second."""

CLIENTS = 50

COMMITS = (1, 100, 1000)
"""Updates per commit, where the store is measured alone."""

UPDATE = bytes(range(40))

SERVERS: dict[str, type[DatabaseServer] | None] = {
    "sqlite": None,
    "postgresql": Postgres,
    "mariadb": MariaDB,
}


def main() -> int:
    options = parser().parse_args()
    try:
        load.build()
        rows = [row for name in options.database for row in measure(name, options)]
    except Trouble as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = markdown(rows)
    print(text)
    if options.write:
        (HERE / "STORE.md").write_text(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.store",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--database",
        type=names(list(SERVERS)),
        default=list(SERVERS),
        metavar="NAMES",
        help=f"databases, with commas between them: {', '.join(SERVERS)}",
    )
    made.add_argument(
        "--seconds", type=float, default=8, help="length of a measured window (8)"
    )
    made.add_argument(
        "--write", action="store_true", help="write the table to benchmarks/STORE.md"
    )
    return made


def measure(name: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of a database."""
    for rate in RATES:
        with database(name) as (directory, url):
            print(f"{name}: {rate:,} edits/s", file=sys.stderr)
            with running(COLLAB, directory, database=url) as server:
                sample = load.run(
                    server,
                    "edits",
                    clients=CLIENTS,
                    rooms=CLIENTS,
                    rate=rate // CLIENTS,
                    seconds=options.seconds,
                )
        done = sample["edits"] / sample["seconds"]
        yield [
            f"{name}, {rate:,} edits/s offered",
            f"{done:,.0f}",
            f"{sample['ack_p50']:.1f}",
            f"{sample['ack_p99']:.1f}",
            f"{100 * sample['server_cpu'] / sample['seconds']:.0f} %",
            "all" if not sample["missing"] else f"{sample['missing']:g} missing",
        ]
    for count in COMMITS:
        with database(name) as (_, url):
            print(f"{name}: {count:,} updates per commit", file=sys.stderr)
            appends, milliseconds = alone(url, count, options.seconds / 4)
        yield [
            f"{name}, the store alone, {count:,} per commit",
            f"{appends:,.0f}",
            f"{milliseconds:.2f}",
            "",
            "",
            "",
        ]


def alone(url: str, count: int, seconds: float) -> tuple[float, float]:
    """Appends per second, and milliseconds per commit, without a server."""
    store = Store(url)
    store.open()
    batch = [
        Append(f"doc-{number % CLIENTS}", [(UPDATE, None)]) for number in range(count)
    ]
    store.append(batch)
    commits = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        store.append(batch)
        commits += 1
    store.close()
    return commits * count / elapsed, 1000 * elapsed / commits


@contextmanager
def database(name: str) -> Iterator[tuple[Path, str]]:
    """A fresh database: a directory, and its URL."""
    kind = SERVERS[name]
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="collab-bench-") as fresh:
        directory = Path(fresh)
        if kind is None:
            yield directory, f"sqlite:///{directory / 'collab.db'}"
            return
        try:
            with kind() as server:
                yield directory, server.create_database()
        except ServerMissing as exc:
            raise Trouble(str(exc)) from exc


def markdown(rows: list[list[str]]) -> str:
    """The table, and where it was made."""
    lines = [
        f"# Saving edits, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
        "",
    ]
    notes = report.machine()
    lines += [f"* machine: {notes['machine']}", f"* ours: {notes['ours']}", ""]
    lines += [
        "Over WebSockets: how long until an author is told that an edit is on disk.",
        "",
        "| | edits/s | p50, ms | p99, ms | server's CPU | acknowledged |",
        "|---|--:|--:|--:|--:|---|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
