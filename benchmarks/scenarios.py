"""What is measured: eight situations, the same for each server."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import history, load
from benchmarks.load import Sample
from benchmarks.servers import COLLAB, Kind, running

Figures = dict[str, float]
"""One server's results in one scenario, by the names used in ``report.py``.

``complete`` is 1 if every client has received everything, and a client that
joined afterwards found all of it in the document.
"""

EVERYONE = 200
IDLE = 2000
IDLE_ROOMS = 20
WARM = 100
"""Connections that are there before memory is compared."""
JOINERS = 500
OPENINGS = 5
UNUSED = 33.0
"""Seconds after which our server has put a document away that nobody has open."""


@dataclass(frozen=True)
class Bench:
    """Where the servers put their files, and how long to measure."""

    directory: Path
    seconds: float
    echo: bool
    paper: history.History

    def run(self, kind: Kind, mode: str, **options: object) -> Sample:
        """Load a fresh server, then read its documents while everybody is there."""
        with (
            tempfile.TemporaryDirectory(dir=self.directory) as fresh,
            running(kind, Path(fresh)) as server,
            load.driving(server, mode, seconds=self.seconds, **options) as clients,
        ):
            sample = clients.result()
            if mode == "edits":
                rooms = int(str(options.get("rooms", 1)))
                each = int(sample["all_edits"]) // rooms
                texts = [load.text(server, f"bench-{n}", each) for n in range(rooms)]
                sample["absent"] = sample["all_edits"] - sum(map(len, texts))
        return sample


def saturated(bench: Bench, kind: Kind) -> Figures:
    sample = bench.run(kind, "edits", clients=EVERYONE, writers=20, in_flight=4)
    return edits(sample)


def steady(bench: Bench, kind: Kind) -> Figures:
    return edits(bench.run(kind, "edits", clients=EVERYONE, writers=5, rate=20))


def small(bench: Bench, kind: Kind) -> Figures:
    return edits(bench.run(kind, "edits", clients=100, rooms=50, rate=100))


def ack(bench: Bench, kind: Kind) -> Figures:
    return edits(bench.run(kind, "edits", clients=40, rooms=20, rate=50))


def edits(sample: Sample) -> Figures:
    seconds, cpu = sample["seconds"], sample["server_cpu"]
    return {
        "deliveries": sample["deliveries"] / seconds,
        "frames": sample["frames"] / seconds,
        "edits": sample["edits"] / seconds,
        "p50": sample["delivery_p50"],
        "p99": sample["delivery_p99"],
        "ack_p50": sample["ack_p50"],
        "ack_p99": sample["ack_p99"],
        "server": 100 * cpu / seconds,
        "generator": 100 * sample["generator_cpu"] / seconds,
        "cpu_delivery": 1e6 * cpu / sample["deliveries"],
        "cpu_edit": 1e6 * cpu / sample["edits"],
        "complete": float(
            not (sample["missing"] or sample["out_of_order"] or sample["absent"])
        ),
    }


def cursors(bench: Bench, kind: Kind) -> Figures:
    sample = bench.run(
        kind, "moves", clients=EVERYONE, rate=10, drain=20, echo=bench.echo
    )
    return {
        "cpu_move": 1e6 * sample["server_cpu"] / sample["moves"],
        "converged": sample["converged_after"],
        "bytes": sample["bytes"] / 1e6,
        "p50": sample["delivery_p50"],
        "p99": sample["delivery_p99"],
        "complete": float(not sample["missing"]),
    }


def idle(bench: Bench, kind: Kind) -> Figures:
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as fresh,
        running(kind, Path(fresh)) as server,
        load.driving(
            server, "hold", base=WARM, clients=WARM + IDLE, rooms=IDLE_ROOMS
        ) as clients,
    ):
        clients.result()
        time.sleep(1)
        before = server.memory()
        clients.go_on()
        clients.result()
        time.sleep(1)
        return {"kib": (server.memory() - before) / IDLE / 1024}


def opening(bench: Bench, kind: Kind) -> Figures:
    directory, document = stored(bench, kind)
    times = []
    for _ in range(OPENINGS):
        with running(kind, directory, document) as server:
            sample = load.run(
                server, "join", name="paper", clients=1, at_least=bench.paper.at_least
            )
            times.append(sample["join_p50"])
    with running(kind, directory, document) as server:
        size = len(bench.paper.text)
        complete = load.text(server, "paper-0", size) == bench.paper.text
    return {"ms": statistics.median(times), "complete": float(complete)}


def joining(bench: Bench, kind: Kind) -> Figures:
    directory, document = stored(bench, kind)
    figures: Figures = {}
    for offer in (False, True):
        with running(kind, directory, document) as server:
            sample = load.run(
                server,
                "join",
                name="paper",
                clients=JOINERS + 1,
                base=1,  # has the document loaded before the others come
                deflate=offer,
                at_least=bench.paper.deflated if offer else bench.paper.at_least,
            )
        suffix = "_deflate" if offer else ""
        figures["cpu" + suffix] = sample["server_cpu"]
        figures["wall" + suffix] = sample["seconds"]
        figures["bytes" + suffix] = sample["bytes"] / 1e6
    return figures


def stored(bench: Bench, kind: Kind) -> tuple[Path, Path]:
    """Where a server finds the paper: ours in its database, peers in a file."""
    document = bench.directory / "paper.yupdate"
    document.write_bytes(bench.paper.merged)
    if not kind.ours:
        return bench.directory, document
    directory = bench.directory / "paper"
    if not directory.exists():
        directory.mkdir()
        with running(COLLAB, directory) as server:
            history.write(server, "paper-0", bench.paper.updates)
            time.sleep(UNUSED)
            server.settle()  # it may still be compacting
    return directory, document


SCENARIOS: dict[str, Callable[[Bench, Kind], Figures]] = {
    "saturated": saturated,
    "steady": steady,
    "small": small,
    "idle": idle,
    "open": opening,
    "join": joining,
    "cursors": cursors,
    "ack": ack,
}
