"""``python -m benchmarks.transports``: how fast HTTP is, beside WebSockets."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks import report
from benchmarks.servers import HERE
from tests.node import ensure_modules, environment, node_path
from tests.people import PACKAGE, PROGRAMS
from tests.proxy import Proxy
from tests.servers import running

HELP = """\
Measure how long an edit takes until somebody else has it, and until it is saved, with
our own client in Node, over each transport: on this machine, and through a proxy that
holds everything up for half of a round trip each way. It takes a minute or two.
"""

DELAYS = (0, 40)
"""Milliseconds of a round trip."""


@dataclass
class Sample:
    """What one transport took."""

    delay: int
    transport: str
    seen: list[float]
    """Milliseconds until somebody else had an edit."""
    saved: list[float]
    """Milliseconds until the author was told that it is on disk."""


def main() -> int:
    options = parser().parse_args()
    ensure_modules(PACKAGE)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as server:
        samples = [
            sample
            for delay in DELAYS
            for sample in measure(server.port, delay, options.edits)
        ]
    text = markdown(samples, options.edits)
    print(text)
    if options.write:
        (HERE / "TRANSPORTS.md").write_text(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.transports",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--edits", type=int, default=200, help="edits for each transport (200)"
    )
    made.add_argument(
        "--write",
        action="store_true",
        help="write the table to TRANSPORTS.md",
    )
    return made


def measure(port: int, delay: int, edits: int) -> list[Sample]:
    """Have two clients edit, over each transport in turn."""
    with Proxy(port) as proxy:
        if delay:
            proxy.delay(to_server=delay / 2000, to_client=delay / 2000)
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        program = ["--import", "./source.mjs", "latency.ts", url, str(edits)]
        done = subprocess.run(
            [str(node_path()), *program],
            cwd=PROGRAMS,
            env=environment(),
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return [Sample(delay, **json.loads(line)) for line in done.stdout.splitlines()]


def markdown(samples: Sequence[Sample], edits: int) -> str:
    """The table, with ratios to the WebSocket of the same run."""
    lines = [
        "# What an edit takes where WebSockets are blocked",
        "",
        "`make bench-transports`: two of our own clients in one Node process, one of",
        f"which types {edits} letters, through a proxy without and with a delay.",
        "Milliseconds until the other has a letter, and until it is saved.",
        "",
        *[f"* {name}: {note}" for name, note in report.machine().items()],
        f"* load when it ended: {os.getloadavg()[0]:.1f}",
        "",
        "| round trip | transport | seen, median | 99 % | saved, median | 99 % "
        "| seen, times the WebSocket's |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for sample in samples:
        (base,) = [
            median(one.seen)
            for one in samples
            if (one.delay, one.transport) == (sample.delay, "websocket")
        ]
        figures = [
            figure
            for times in (sample.seen, sample.saved)
            for figure in (median(times), quantiles(times, n=100)[-1])
        ]
        cells = " | ".join(f"{figure:.1f}" for figure in figures)
        ratio = median(sample.seen) / base
        lines.append(
            f"| {sample.delay} ms | {sample.transport} | {cells} | {ratio:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
