"""``python -m benchmarks.reconnect``: 1,000 clients are cut off and come back at once.

Octets, time, CPU and memory of each server's storm, side by side, and of ours if it was
restarted meanwhile.
"""

import argparse
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycrdt import Doc

from benchmarks import load, report
from benchmarks.history import History, history
from benchmarks.load import Sample
from benchmarks.servers import (
    COLLAB,
    COLLAB_HOCUSPOCUS,
    HERE,
    HOCUSPOCUS,
    Y_WEBSOCKET,
    Kind,
    Server,
    Trouble,
    install_peers,
    running,
)
from collab.compaction import compact
from collab.store import Append, Store

CLIENTS = 1000
EDITS = 10
"""What one writer, who stays, types meanwhile."""
OUTAGE = 1000
"""Milliseconds."""
DRAIN = 240
"""Seconds that a storm may take."""

BUSY = 0.15
"""The share of the cores that others may use when a run begins..."""
PATIENCE = 60
"""...and the seconds to wait for that, by default."""

NATIVE = Kind("collab.v1", "native", "/ws", None)
"""Our server, and our own clients."""
RESTARTED = "collab.v1, restarted"
KINDS = (NATIVE, COLLAB, COLLAB_HOCUSPOCUS, Y_WEBSOCKET, HOCUSPOCUS)
PEERS = (Y_WEBSOCKET.name, HOCUSPOCUS.name)
NAMES = (NATIVE.name, RESTARTED, *(kind.name for kind in KINDS[1:]))

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    label: str
    compared: bool = True


ROWS = (
    Row("in", "received by a client, octets"),
    Row("out", "sent by a client, octets"),
    Row("both", "both, octets"),
    Row("all_in", "received, with the handshake"),
    Row("all_out", "sent, with the handshake"),
    Row("p50", "half of them have everything after, ms"),
    Row("last", "the last has everything after, ms"),
    Row("quiet", "nothing more is said after, ms"),
    Row("cpu", "server CPU until then, s"),
    Row("peak", "peak memory of the server (RSS), MiB"),
    Row("generator", "load generator's share of its core, %", compared=False),
)
SCENARIOS = {
    "plain": "1,000 clients that only have the document open",
    "presence": "1,000 clients that say who they are, too",
}


@dataclass(frozen=True)
class Bench:
    """What servers and clients begin with."""

    directory: Path
    paper: History
    edits: int
    clients: int

    @property
    def document(self) -> Path:
        """The document as one update, for peers."""
        return self.directory / "paper.yupdate"

    @property
    def database(self) -> Path:
        """The document as a log with a snapshot, for ours."""
        return self.directory / "paper.db"

    def prepare(self) -> None:
        """Write down what servers and clients begin with."""
        doc: Doc[Any] = Doc()
        doc.apply_update(self.paper.merged)
        vector = doc.get_state()
        self.document.write_bytes(self.paper.merged)
        (self.directory / "vector").write_bytes(vector)
        # What providers answer a server that asks: it has all, but for deletions
        # nobody can tell.
        (self.directory / "answer").write_bytes(doc.get_update(vector))
        store = Store(f"sqlite:///{self.database}")
        store.open()
        updates = self.paper.updates
        for at in range(0, len(updates), 5000):
            part = [(update, None) for update in updates[at : at + 5000]]
            store.append([Append("paper-0", part)])
        compact(store, "paper-0")
        store.close()

    def run(self, kind: Kind, scenario: str, restarted: bool = False) -> Figures:
        """Start a server, cut its clients off, and measure how they come back."""
        with (
            tempfile.TemporaryDirectory(dir=self.directory) as fresh,
            ExitStack() as servers,
            ExitStack() as generators,
        ):
            folder = Path(fresh)
            if kind.ours:
                shutil.copy(self.database, folder / "collab.db")
            server = servers.enter_context(running(kind, folder, self.document))
            clients = generators.enter_context(
                load.driving(
                    server,
                    "reconnect",
                    name="paper",
                    clients=self.clients + 1,
                    edits=self.edits,
                    outage=OUTAGE,
                    drain=DRAIN,
                    vector=self.directory / "vector",
                    answer=self.directory / "answer",
                    presence=scenario == "presence",
                    leave=restarted,
                )
            )
            clients.result()
            if restarted:
                servers.close()
                server = servers.enter_context(running(kind, folder, port=server.port))
            server.forget_peak()
            clients.go_on(server)
            figures = self._figures(clients.result())
            figures["peak"] = server.peak() / 2**20
            self._check(server)
            return figures

    def _figures(self, sample: Sample) -> Figures:
        if sample["out_of_order"]:
            raise Trouble("edits came out of order")
        received, sent = sample["bytes"], sample["sent"]
        least_in = received - sample["handshakes_in"]
        least_out = sent - sample["handshakes_out"]
        return {
            "in": least_in / self.clients,
            "out": least_out / self.clients,
            "both": (least_in + least_out) / self.clients,
            "all_in": received / self.clients,
            "all_out": sent / self.clients,
            "p50": sample["back_p50"],
            "last": 1000 * sample["seconds"],
            "quiet": 1000 * sample["quiet"],
            "cpu": sample["server_cpu"],
            "generator": 100 * sample["generator_cpu"] / (sample["quiet"] + 0.5),
        }

    def _check(self, server: Server) -> None:
        """Have somebody who comes now find what was there and what was typed."""
        kind = server.kind if server.kind.dialect != "native" else COLLAB
        size = len(self.paper.text) + self.edits
        there = Server(kind, server.port, server.pid)
        if len(load.text(there, "paper-0", size)) != size:
            raise Trouble(f"{server.kind.name} has lost something")


def main() -> int:
    options = parser().parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    try:
        load.build()
        install_peers()
        text = measure(options)
    except Trouble as exc:
        print(f"benchmarks.reconnect: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(text)
    if options.write:
        (HERE / "RECONNECT.md").write_text(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m benchmarks.reconnect", description=__doc__.partition("\n\n")[2]
    )
    made.add_argument("--clients", type=int, default=CLIENTS, help=f"({CLIENTS})")
    made.add_argument(
        "--repeat", type=int, default=3, help="runs, of which the medians are shown (3)"
    )
    made.add_argument(
        "--only", choices=list(SCENARIOS), help="one of the scenarios instead of both"
    )
    made.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        help=f"seconds to wait for a quiet machine before each run ({PATIENCE})",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write all runs there")
    made.add_argument(
        "--write", action="store_true", help="write benchmarks/RECONNECT.md"
    )
    return made


def measure(options: argparse.Namespace) -> str:
    """Run everything, servers in turn, and make the report."""
    began = time.monotonic()
    paper = history()
    notes = report.machine() | report.peers() | {"history": paper.origin}
    chosen = [options.only] if options.only else list(SCENARIOS)
    runs: dict[str, dict[str, list[Figures]]] = {name: {} for name in chosen}
    busy: list[float] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="collab-bench-") as directory:
        bench = Bench(Path(directory), paper, EDITS, options.clients)
        bench.prepare()
        notes["deletions"] = f"{(bench.directory / 'answer').stat().st_size:,}"
        notes["size"] = f"{len(paper.merged):,}"
        for number in range(options.repeat):
            for scenario in chosen:
                for name in NAMES:
                    busy.append(quiet(options.patience))
                    elapsed = time.monotonic() - began
                    what = f"{elapsed:5.0f} s  {number + 1}. {scenario:<9} {name:<22}"
                    print(what, f"others {busy[-1]:.0%}", file=sys.stderr)
                    kind = next((k for k in KINDS if k.name == name), NATIVE)
                    try:
                        figures = bench.run(kind, scenario, name == RESTARTED)
                    except Trouble as exc:
                        print(f"         {exc}", file=sys.stderr)
                        failures.append(f"{name} ({scenario}): {exc}")
                        continue
                    runs[scenario].setdefault(name, []).append(figures)
    notes["busy"] = (
        f"others used {statistics.median(busy):.0%} of the cores when a run began"
        f" (median; {max(busy):.0%} at most); the load average was"
        f" {Path('/proc/loadavg').read_text().split()[2]} in the last 15 minutes"
    )
    notes["failures"] = "".join(f"* **a run failed**: {why}\n" for why in failures)
    for scenario in chosen:
        for name in NAMES:
            if name not in runs[scenario]:
                raise Trouble(f"no run of {name} succeeded ({scenario})")
    if options.json:
        options.json.write_text(json.dumps(notes | {"runs": runs}, indent=2))
    results = {
        scenario: {name: medians(found) for name, found in servers.items()}
        for scenario, servers in runs.items()
    }
    return markdown(results, notes, options.repeat)


def medians(runs: list[Figures]) -> Figures:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def quiet(patience: float) -> float:
    """Wait until others use little of the cores, or for so long; return how much."""
    deadline = time.monotonic() + patience
    while True:
        before = ticks()
        time.sleep(1)
        after = ticks()
        share = 1 - (after[1] - before[1]) / max(1, after[0] - before[0])
        if share <= BUSY or time.monotonic() > deadline:
            return share


def ticks() -> tuple[int, int]:
    """All ticks of all cores, and those in which they were idle."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    counts = [int(word) for word in words[:8]]
    return sum(counts), counts[3] + counts[4]


def markdown(
    results: Mapping[str, Mapping[str, Figures]], notes: Mapping[str, str], repeat: int
) -> str:
    """The report."""
    return "\n".join(
        [
            f"# 1,000 clients come back: {notes['date']}",
            "",
            f"* machine: {notes['machine']}; {notes['busy']}",
            f"* ours: {notes['ours']}",
            f"* peers: {notes['peers']}",
            f"* the document: {notes['size']} octets as one update, of which deletions"
            f" alone are {notes['deletions']} ({notes['history']})",
            "",
            *table(results),
            "",
            notes["failures"] or "Every server delivered everything in every run.\n",
            METHOD.format(edits=EDITS, outage=OUTAGE, repeat=repeat, shaking=400),
        ]
    )


def table(results: Mapping[str, Mapping[str, Figures]]) -> Iterator[str]:
    """One line for each figure, with ours compared to the best peer's."""
    yield "| | " + " | ".join(NAMES) + " | collab.v1 / best peer |"
    yield "|---|" + "--:|" * (len(NAMES) + 1)
    for scenario, servers in results.items():
        yield f"| **{SCENARIOS[scenario]}** |" + " |" * (len(NAMES) + 1)
        for row in ROWS:
            cells = [report.number(servers[name][row.figure]) for name in NAMES]
            best = min(servers[name][row.figure] for name in PEERS)
            ratio = servers[NATIVE.name][row.figure] / best
            cells.append(f"{report.number(ratio)}x" if row.compared else "")
            yield "| " + " | ".join([row.label, *cells]) + " |"


METHOD = """\
## Method

Each server alone on core 0 and started anew for each run, the load generator (`load.c`)
on core 1, loopback between them. Servers take turns, and the medians of {repeat} rounds
are shown. Ratios are what to look at; where others used the cores as well, look at
octets, CPU and memory, as times are then those of the scheduler.

* **The outage.** All clients are synced; then all their sockets are reset at the same
  moment. One more client, which writes, stays and types {edits} letters. After
  {outage} ms all others come back at once: up to {shaking} handshakes are under way at
  any time, as Node accepts no more than 511 connections that it hasn't looked at.
* **Restarted**: who writes is cut off too once its edits are saved, and the server is
  stopped and started again before they come back. It must read the document, and what
  clients lack, from its database. Peers have no database here.
* **What clients say** is what the real ones do when they come back. y-websocket's:
  SyncStep1 with their state vector, and the answer to the server's question, in which
  are all deletions of the document, as these have no clocks. Hocuspocus' (4): the same
  behind a token. Ours: Hello, and Open with state vector, epoch and position. None
  offers compression. Presence is that of a user with a name and a colour, with a new
  clock; clients don't send back what they hear of others, although y-websocket's do.
* **collab**, **collab-hocuspocus**: our server, and the clients of others. Each answers
  our question with all deletions, which are parsed strictly, in Python; and those of
  y-websocket get their answer back, as that is how they are acknowledged.
* **Presence**: who was cut off stays visible here for five seconds, so that who comes
  back at once hears of everybody, and again of those who come later. Peers show nobody
  any more; so do we after a restart.
* **Has everything**: the answer to its question has arrived, and all {edits} letters.
* **Octets** are those of WebSocket frames and of HTTP, without TCP/IP. The requests of
  browsers are some hundred octets longer than the generator's.
* **CPU** is that of the server's process and its children from the first connection
  until half a second behind the last octet, **peak memory** the largest resident set
  meanwhile.
* **Checked**: in the end somebody who joins must find all letters of the document.
"""


if __name__ == "__main__":
    sys.exit(main())
