"""People who edit documents with our own client, in Node: many in one process.

::

    with People(database=server.database) as people:
        people.come(url, ["doc", "doc", "other"], pause=1000)
        people.do("advance")        # everybody has something acknowledged
        server.kill()
        server.start()
        settle([people], server.database_url)   # all is saved, none lost or doubled
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.databases import wait_for
from tests.node import ensure_modules, environment, node_path
from tests.typists import read_log, words

PACKAGE = Path(__file__).parents[1] / "web" / "client"
PROGRAMS = PACKAGE / "tests" / "programs"

NUMBERS = count(1)
"""Nobody has a number that somebody had before."""


@dataclass(frozen=True)
class Report:
    """What somebody has to tell."""

    id: int
    name: str
    """Of the document."""
    status: str
    saved: bool
    synced: bool
    error: dict[str, Any] | None
    access: str | None
    text: str
    typed: int
    states: list[str]
    """How the document stood, one after the other."""
    acked: int
    """How many words, from the first on, were acknowledged."""
    lies: list[str]
    """Words that were said to be saved, and were not in the database."""
    oddities: list[str]
    """What they were told that can't be so."""
    gaps: list[tuple[float, float]]
    """Milliseconds since 1970: from when to when they were without service."""
    attempts: list[tuple[float, bool]]
    """When they tried to connect, and whether they had service meanwhile."""
    refusals: list[str]
    lost: float | None
    """Since when they have been without service, if they are now."""
    pending: bool
    """Whether there is something for which they lack what it builds upon."""
    transportName: str

    def words(self, up_to: int) -> set[str]:
        """What they typed first."""
        return {f"{self.id}-{number}" for number in range(1, up_to + 1)}


class People:
    """Some people in one process, and the wire to it."""

    def __init__(
        self, database: Path | None = None, trusted: Path | None = None
    ) -> None:
        """``saved`` is compared with a database of SQLite; a certificate is trusted."""
        self.seed = int(os.environ.get("PEOPLE_SEED", random.randrange(1_000_000)))
        ensure_modules(PACKAGE)
        program = [str(PROGRAMS / "people.ts"), str(self.seed), str(database or "")]
        self.process = subprocess.Popen(
            [node_path(), "--import", PROGRAMS / "source.mjs", *program],
            env={**environment(), "NODE_EXTRA_CA_CERTS": str(trusted or "")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        print(f"PEOPLE_SEED={self.seed}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, command: str, argument: object = None) -> None:
        """Have them do something; :meth:`hear` waits until it is done."""
        assert self.process.stdin is not None
        line = json.dumps([command, argument])
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """What the first command that was not heard of has led to."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"they are gone, with {self.process.wait()}"
        return json.loads(line)

    def do(self, command: str, argument: object = None) -> Any:
        """Have them do something, and wait until it is done."""
        self.ask(command, argument)
        return self.hear()

    def come(
        self,
        url: str,
        documents: Sequence[str],
        *,
        before: int = 0,
        pause: int = 0,
        token: str = "",
        wait: float | None = None,
    ) -> None:
        """Let somebody come for each document.

        They type so many words ``before`` they connect, and then one each ``pause``
        milliseconds. ``wait`` says where in its range each wait before an attempt is.
        """
        first = next(NUMBERS)
        for _ in documents[1:]:
            next(NUMBERS)
        opening = {"url": url, "first": first, "documents": documents}
        opening |= {"before": before, "pause": pause, "token": token, "wait": wait}
        self.do("open", opening)

    def freeze(self) -> None:
        """Stop their machine, as if somebody had closed it: no timer runs."""
        self.process.send_signal(signal.SIGSTOP)
        wait_for(self.process.pid, "T")

    def wake(self) -> None:
        """Have it go on, as if no time had passed."""
        self.process.send_signal(signal.SIGCONT)

    def reports(self) -> list[Report]:
        """What each has to tell."""
        return [Report(**report) for report in self.do("report")]


def settle(crowds: Sequence[People], database: str) -> list[Report]:
    """Let nobody type, wait until all is saved, and all see what is in the database.

    Each word is there exactly once then, and nobody was lied to.
    """
    for command in ("rest", "synced", "saved"):
        together(crowds, command)
    reports = [report for people in crowds for report in people.reports()]
    texts = read_texts(reports, database)
    for blind in together(crowds, "texts", texts):
        assert not blind, describe([Report(**report) for report in blind], texts)
    believe(reports)
    return reports


def read_texts(reports: Sequence[Report], database: str) -> dict[str, str]:
    """The documents in the database, in each of which is all that was typed, once."""
    typed: dict[str, set[str]] = defaultdict(set)
    for report in reports:
        typed[report.name] |= report.words(report.typed)
    texts = {name: read_log(database, name).text for name in typed}
    for name, expected in typed.items():
        text = texts[name]
        lost = expected - words(text.encode())
        assert not lost, f"{name}: {len(lost)} words, such as {min(lost)}"
        assert text.count("<") == len(expected), f"{name} has words twice"
    return texts


def believe(reports: Sequence[Report]) -> None:
    """What all were told was so."""
    for report in reports:
        assert not report.lies, f"{report.id} was lied to about {report.lies}"
        assert not report.oddities, f"{report.id} was told: {report.oddities}"
        assert not report.refusals, report.refusals


def describe(reports: Sequence[Report], texts: dict[str, str]) -> str:
    """Who doesn't see what is in the database, and what of it."""
    lines = [f"{len(reports)} don't see what is in the database:"]
    for report in reports:
        seen = words(report.text.encode())
        kept = words(texts[report.name].encode())
        state = f"{report.status}, synced {report.synced}, pending {report.pending}"
        lines.append(
            f"{report.id} in {report.name} ({state}, {report.attempts[-3:]}, "
            f"{report.gaps}) lacks {sorted(kept - seen)}, has {sorted(seen - kept)}"
        )
    return "\n".join(lines)


def together(
    crowds: Sequence[People], command: str, argument: object = None
) -> list[Any]:
    """Have all do something at the same time, and wait until it is done."""
    for people in crowds:
        people.ask(command, argument)
    return [people.hear() for people in crowds]
