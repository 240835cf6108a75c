"""The process that runs cases of one target, which may die or hang at any of them.

``python -m tests.fuzz.worker TARGET SEED SECONDS INPUTS CURRENT [atheris]`` writes a
line of JSON every second, and one for each finding. The case that it is at stands in
the file ``CURRENT``, whatever becomes of the process.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from time import monotonic

from tests.fuzz import (
    Case,
    Divergence,
    Drawn,
    Finding,
    Slow,
    Target,
    write_case,
)

TARGETS = {
    "updates": ("decoders", "Updates"),
    "messages": ("decoders", "Messages"),
    "documents": ("documents", "Documents"),
    "sockets": ("rooms", "Sockets"),
    "rooms": ("rooms", "Rooms"),
    "requests": ("requests", "Requests"),
    "server": ("server", "Serving"),
    "leveldb": ("imports", "Levels"),
    "databases": ("imports", "Databases"),
}

CURRENT_SIZE = 4 * 2**20
"""Bytes of a case that is remembered."""

SHRINKS = 200
"""Attempts to make a case smaller that was found."""


def open_target(name: str) -> Target:
    """Make a target."""
    module, kind = TARGETS[name]
    target: Target = getattr(import_module(f"tests.fuzz.{module}"), kind)()
    return target


class Worker:
    """Runs cases, and says what came of them."""

    def __init__(
        self, target: Target, seconds: float, inputs: int, current: str
    ) -> None:
        self.target = target
        self.until = monotonic() + seconds
        self.limit = inputs
        self.cases = self.inputs = self.accepted = self.diverged = 0
        self.reported = 0.0
        with open(current, "r+b") as file:
            self.current = mmap.mmap(file.fileno(), CURRENT_SIZE)

    @property
    def done(self) -> bool:
        """Whether it was enough."""
        return self.inputs >= self.limit or monotonic() >= self.until

    def say(self, **facts: object) -> None:
        print(json.dumps(facts), flush=True)

    def report(self) -> None:
        self.say(
            cases=self.cases,
            inputs=self.inputs,
            accepted=self.accepted,
            diverged=self.diverged,
        )

    def one(self, chance: random.Random, name: str) -> None:
        """Make a case and run it."""
        case = self.target.make(chance)
        written = f"# {name}\n{write_case(case)}\0".encode()
        if len(written) <= CURRENT_SIZE:
            self.current[: len(written)] = written
        self.cases += 1
        self.inputs += len(case)
        try:
            self.accepted += self.target.run(case)
        except Divergence:
            self.diverged += 1
        except Slow:
            # A busy machine, or Python tidying up, is slow once.
            try:
                self.target.run(case)
            except Slow as exc:
                self.say(finding=str(exc), case=write_case(case), name=name)
        except Exception as exc:
            case, why = self.shrink(case, exc)
            self.say(finding=why, case=write_case(case), name=name)
        if monotonic() > self.reported + 1:
            self.reported = monotonic()
            self.report()

    def shrink(self, case: Case, exc: Exception) -> tuple[Case, str]:
        """Leave out what isn't needed for the same kind of failure."""
        left = list(case)
        at = 0
        for _ in range(SHRINKS):
            if at >= len(left):
                break
            fewer = left[:at] + left[at + 1 :]
            try:
                self.target.run(fewer)
            except Exception as again:
                if type(again) is type(exc):
                    left, exc = fewer, again
                    continue
            at += 1
        known = isinstance(exc, Finding)
        return left, str(exc) if known else f"{type(exc).__name__}: {exc}"


def drive(worker: Worker, seed: str) -> None:
    """Run cases that a seed decides."""
    while not worker.done:
        name = f"{seed}/{worker.cases}"
        worker.one(random.Random(name), name)


def drive_with_atheris(make: Callable[[], Worker], seed: str) -> None:
    """Run cases that atheris decides, by what they cover of our code."""
    import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]

    with atheris.instrument_imports(include=["collab"], enable_loader_override=False):
        worker = make()

    def one(entropy: bytes) -> None:
        worker.one(Drawn(entropy), f"atheris {seed}")
        if worker.done:
            worker.report()
            sys.stdout.flush()
            with suppress(Exception):
                worker.target.close()
            os._exit(0)

    number = random.Random(seed).randrange(1, 2**31)
    options = [f"-seed={number}", "-max_len=2048", "-len_control=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, "-rss_limit_mb=4096"], one)
    atheris.Fuzz()


def main() -> None:
    name, seed, seconds, inputs, current, *how = sys.argv[1:]
    # What clients did wrong, a line for each. Errors are what we do wrong.
    logging.disable(logging.WARNING)

    def make() -> Worker:
        return Worker(open_target(name), float(seconds), int(inputs), current)

    if how:
        drive_with_atheris(make, seed)
        return
    worker = make()
    try:
        drive(worker, seed)
    finally:
        worker.target.close()
    worker.report()
    if said := getattr(worker.target, "said", ""):
        worker.say(said=said)


if __name__ == "__main__":
    main()
