"""The table: what was measured, side by side, and whether our budgets are met."""

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.scenarios import EVERYONE, IDLE, JOINERS, OPENINGS, WARM, Figures
from benchmarks.servers import (
    COLLAB,
    KINDS,
    LOAD_CORE,
    OURS,
    PEERS,
    SERVER_CORE,
    node,
)

Results = Mapping[str, Mapping[str, Figures]]
"""Figures by scenario and server."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scenario: str
    figure: str
    label: str
    more_is_better: bool = False
    ratio: float | None = None
    """The budget: ours divided by the best peer's is at most (or least) this."""
    limit: float | None = None
    """The budget: ours is at most this."""
    compared: bool = True


ROWS = [
    Row("saturated", "deliveries", "edits delivered/s", True, ratio=10),
    Row("saturated", "p50", "latency p50, ms"),
    Row("saturated", "p99", "latency p99, ms"),
    Row("saturated", "cpu_delivery", "server CPU per delivery, µs"),
    Row("saturated", "frames", "WebSocket frames/s", compared=False),
    Row("saturated", "server", "server's share of its core, %", compared=False),
    Row(
        "saturated",
        "generator",
        "load generator's share of its core, %",
        compared=False,
    ),
    Row("steady", "p50", "latency p50, ms"),
    Row("steady", "p99", "latency p99, ms", ratio=1),
    Row("steady", "server", "server's share of its core, %"),
    Row("small", "cpu_edit", "server CPU per edit, µs", ratio=0.8),
    Row("small", "p50", "latency p50, ms"),
    Row("small", "p99", "latency p99, ms"),
    Row("idle", "kib", "memory per connection, KiB", ratio=0.6, limit=8),
    Row("open", "ms", "first client synced, ms", ratio=0.25),
    Row("join", "cpu", "server CPU, s", ratio=0.35),
    Row("join", "wall", "until all have joined, s"),
    Row("join", "bytes", "sent, MB"),
    Row("join", "cpu_deflate", "deflate offered: server CPU, s", ratio=0.35),
    Row("join", "wall_deflate", "deflate offered: until all have joined, s"),
    Row("join", "bytes_deflate", "deflate offered: sent, MB", ratio=0.6),
    Row("cursors", "cpu_move", "server CPU per move, µs", ratio=0.1),
    Row("cursors", "p99", "latency p99 of what was shown, ms"),
    Row("cursors", "converged", "last move → everybody has every cursor, s"),
    Row("cursors", "bytes", "sent, MB"),
    Row("ack", "ack_p50", "edit sent → acknowledged p50, ms", limit=5),
    Row("ack", "ack_p99", "edit sent → acknowledged p99, ms", limit=25),
]

TITLES = {
    "saturated": f"Saturated room: {EVERYONE} clients, 20 writers x 4 edits in flight",
    "steady": f"Steady room: {EVERYONE} clients, 5 writers, 20 edits/s each",
    "small": "50 rooms of 2 clients, one writer each, 100 edits/s",
    "idle": f"{IDLE:,} idle connections in 20 rooms",
    "open": "Opening a document of 260,000 edits, server just started",
    "join": f"{JOINERS} clients join a document of 223 KB at once",
    "cursors": f"{EVERYONE} clients move their cursors 10 times/s",
    "ack": "Acknowledgement at 1,000 edits/s (ours durable; peers: memory only)",
}

METHOD = """\
One machine, one run: each server alone on core {server_core} and started anew for each
line, the load generator (`load.c`) on core {load_core}, loopback between them. Ratios
are what to look at.

* **Durable or not.** collab writes every edit to SQLite (WAL, synchronous=FULL) in all
  of these, and acknowledges (the echo to the author) after the commit. y-websocket and
  Hocuspocus keep everything in memory; their echo or SyncStatus promises nothing.
* **collab-hocuspocus** is the same server with Hocuspocus' clients: their dialect at
  `/ws`, the name of the document in front of each message, SyncStatus after the commit.
* **Delivered** means: an edit of one character has reached another client. Servers
  merge updates, so edits are counted, by client id and clock, and not frames. Latencies
  are over all receivers, from the moment an edit was due. A writer goes on when the
  client next to it has its edit.
* **Checked.** At the end every client must have every edit or cursor, in order, and
  a client joins each document and must find as many characters as were typed.
* **CPU** is that of the server's process and its children. It includes our commits and
  our compaction, which share the one core.
* **Memory** is the growth of private memory between {warm} and {all} connections that
  are synced, after a forced garbage collection in the Node servers.
* **Opening**: median of {openings} starts. Ours reads its own database, into which the
  edits were written one by one, and from which the document was put away once; peers
  apply one merged update from a file. History: {history}.
* **Merging.** Hocuspocus sends what came within one turn of its loop as one merged
  update, so it writes far fewer frames than edits. We send each edit as its author
  wrote it, and all of a turn in one write: merging them byte for byte, in Python, cost
  us 0.20 instead of 0.16 µs for each delivery when it was tried.
* **Cursors** are counted until everybody has everybody's last one. We send the newest
  state of each client, at short intervals; so does Hocuspocus for what came in one
  turn of its loop; y-websocket sends every one. Clients {echoes} what they
  receive.
* **Peers** run their defaults: Node without a log, without permessage-deflate (both
  servers' default), no storage. @y/websocket-server resolves on npm to a mix of Yjs 14
  pre-releases that relays no edit, so it gets Yjs 13 (`peers/package.json`).
"""


def markdown(results: Results, notes: Mapping[str, str], echo: bool) -> str:
    """Everything that was found out, for people."""
    method = METHOD.format(
        server_core=SERVER_CORE,
        load_core=LOAD_CORE,
        warm=WARM,
        all=f"{WARM + IDLE:,}",
        openings=OPENINGS,
        history=notes["history"],
        echoes="send back" if echo else "don't send back",
    )
    return "\n".join(
        [
            f"# Benchmark of {notes['date']}",
            "",
            *(f"* {key}: {notes[key]}" for key in ("machine", "ours", "peers")),
            "",
            *table(results),
            "",
            *findings(results),
            "",
            "## Method",
            "",
            method,
        ]
    )


def table(results: Results) -> Iterator[str]:
    """One line for each figure, with ours compared to the best peer's."""
    names = [name for name in KINDS if any(name in of for of in results.values())]
    ours = [name for name in OURS if name in names] or [COLLAB.name]
    compared = [f"{name} / best peer" for name in ours]
    yield "| | " + " | ".join([*names, *compared, "budget"]) + " |" + " |" * len(ours)
    yield "|---|" + "--:|" * (len(names) + len(ours) + 1) + "---|" * len(ours)
    title = None
    for row in ROWS:
        servers = results.get(row.scenario, {})
        if not servers:
            continue
        if title != row.scenario:
            title = row.scenario
            yield f"| **{TITLES[title]}** |" + " |" * (len(names) + 2 * len(ours) + 1)
        cells = [number(servers.get(name, {}).get(row.figure)) for name in names]
        for name in ours:
            ratio = compare(row, servers, name) if row.compared else None
            cells.append(f"{number(ratio)}x" if ratio is not None else "")
        cells.append(budget(row))
        cells += [verdict(row, servers, name) for name in ours]
        yield "| " + " | ".join([row.label, *cells]) + " |"


def compare(row: Row, servers: Mapping[str, Figures], name: str) -> float | None:
    """Ours, by one of its names, divided by the best peer's, if both have done it."""
    peers = [
        figures[row.figure]
        for peer, figures in servers.items()
        if peer not in OURS and row.figure in figures
    ]
    ours = servers.get(name, {}).get(row.figure)
    if ours is None or not peers:
        return None
    best = max(peers) if row.more_is_better else min(peers)
    return ours / best if best else None


def budget(row: Row) -> str:
    """What we promised ourselves."""
    bars = []
    if row.limit is not None:
        bars.append(f"≤ {row.limit:g}")
    if row.ratio is not None:
        bars.append(f"{'≥' if row.more_is_better else '≤'} {row.ratio:g}x")
    return ", ".join(bars)


def verdict(row: Row, servers: Mapping[str, Figures], name: str) -> str:
    """Whether ours meets the budget, by one of its names: computed, never claimed."""
    ours = servers.get(name)
    if ours is None or (row.ratio is None and row.limit is None):
        return ""
    if "failed" in ours:
        return "**failed**"
    met = ours.get("complete", 1) == 1
    if row.limit is not None:
        met = met and ours[row.figure] <= row.limit
    if row.ratio is not None:
        ratio = compare(row, servers, name)
        if ratio is None:
            return ""
        met = met and (ratio >= row.ratio if row.more_is_better else ratio <= row.ratio)
    return "met" if met else "**not met**"


def findings(results: Results) -> Iterator[str]:
    """What a reader must know before believing the table."""
    lost = [
        f"* **{name} lost something** in “{TITLES[scenario]}”: its figures there are"
        " those of a server that did not do its work in time."
        for scenario, servers in results.items()
        for name, figures in servers.items()
        if not figures.get("complete", 1)
    ] + [
        f"* **{name} failed** in “{TITLES[scenario]}”."
        for scenario, servers in results.items()
        for name, figures in servers.items()
        if "failed" in figures
    ]
    yield from lost or ["Every server delivered everything in every run (checked)."]
    for name, figures in results.get("saturated", {}).items():
        if "failed" in figures:
            continue
        if figures["generator"] > 90 and figures["generator"] > figures["server"]:
            yield (
                f"* The load generator was the bottleneck against {name}"
                f" ({figures['generator']:.0f} % of its core): the server can do more."
            )


def number(value: float | None) -> str:
    """Three significant digits, and thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def machine() -> dict[str, str]:
    """What it ran on, and which versions of ours."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    ours = ("collab-server", "pycrdt", "websockets", "uvicorn", "uvloop", "SQLAlchemy")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}",
        "ours": ", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ours]
        ),
    }


def peers() -> dict[str, str]:
    """Which versions of the peers."""
    node_modules = PEERS / "node_modules"
    found = {
        name: json.loads((node_modules / name / "package.json").read_text())["version"]
        for name in ("@y/websocket-server", "@hocuspocus/server", "yjs", "ws")
    }
    return {
        "peers": ", ".join(
            [f"Node.js {node_version()}"]
            + [f"{name} {of}" for name, of in found.items()]
        ),
    }


def node_version() -> str:
    return subprocess.run(
        [node(), "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
