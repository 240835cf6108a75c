"""``python -m benchmarks``: measure collab beside y-websocket and Hocuspocus."""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import load, report
from benchmarks.history import history
from benchmarks.report import Results
from benchmarks.scenarios import SCENARIOS, Bench, Figures
from benchmarks.servers import HERE, KINDS, Trouble, install_peers

HELP = """\
Start each server in turn, drive all of them with the same load generator, and
print one table with ratios. It takes about five minutes on a quiet machine with
two cores: one for the server, one for the generator.

scenarios:
  saturated  one room, 200 clients, 20 writers: edits delivered/s, latency, CPU
  steady     one room, 200 clients, 100 edits/s: latency
  small      50 rooms of two, 100 edits/s each: CPU per edit
  idle       memory of 2,000 connections
  open       a 260,000-edit document, from disk, first client
  join       500 clients join a 223 KB document at once
  cursors    200 clients move their cursors 10 times a second
  ack        how long an author waits for the acknowledgement
"""

EXAMPLES = """\
examples:
  python -m benchmarks --only saturated,steady --server collab
  python -m benchmarks --repeat 3 --write
  make bench ARGS="--only join"
"""


def main() -> int:
    options = parser().parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    try:
        load.build()
        install_peers()
        results, notes = measure(options)
    except Trouble as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = report.markdown(results, notes, options.echo)
    print(text)
    if options.json:
        options.json.write_text(json.dumps({**notes, "results": results}, indent=2))
    if options.write:
        (HERE / "RESULTS.md").write_text(text)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--only",
        type=names(list(SCENARIOS)),
        default=list(SCENARIOS),
        metavar="NAMES",
        help="scenarios, with commas between them",
    )
    made.add_argument(
        "--server",
        type=names(list(KINDS)),
        default=list(KINDS),
        metavar="NAMES",
        help=f"servers: {', '.join(KINDS)}",
    )
    made.add_argument(
        "--seconds", type=float, default=5, help="length of a measured window (5)"
    )
    made.add_argument(
        "--repeat", type=int, default=1, help="runs, of which the medians are shown (1)"
    )
    made.add_argument(
        "--echo",
        action="store_true",
        help="clients send back the awareness they receive, as y-websocket's do",
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there"
    )
    made.add_argument(
        "--write", action="store_true", help="write the report to benchmarks/RESULTS.md"
    )
    return made


def names(known: list[str]) -> Callable[[str], list[str]]:
    """What an option with commas may say."""

    def parse(value: str) -> list[str]:
        chosen = [name for name in value.split(",") if name]
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is not one of {', '.join(known)}"
                )
        return [name for name in known if name in chosen]

    return parse


def measure(options: argparse.Namespace) -> tuple[Results, dict[str, str]]:
    """Run what was chosen; say on standard error how far it is."""
    began = time.monotonic()
    paper = history()
    notes = report.machine() | report.peers() | {"history": paper.origin}
    results: dict[str, dict[str, Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="collab-bench-") as directory:
        bench = Bench(Path(directory), options.seconds, options.echo, paper)
        for scenario in options.only:
            for name in options.server:
                runs = []
                for _ in range(options.repeat):
                    elapsed = time.monotonic() - began
                    print(f"{elapsed:5.0f} s  {scenario:<10} {name}", file=sys.stderr)
                    try:
                        runs.append(SCENARIOS[scenario](bench, KINDS[name]))
                    except Trouble as exc:
                        print(f"         {exc}", file=sys.stderr)
                        runs.append({"failed": 1})
                results.setdefault(scenario, {})[name] = medians(runs)
    print(f"{time.monotonic() - began:5.0f} s  done", file=sys.stderr)
    return results, notes


def medians(runs: list[Figures]) -> Figures:
    """One run's worth of figures; one that failed or is incomplete spoils all."""
    for run in runs:
        if "failed" in run:
            return run
    figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    if "complete" in figures:
        figures["complete"] = min(run["complete"] for run in runs)
    return figures


if __name__ == "__main__":
    sys.exit(main())
