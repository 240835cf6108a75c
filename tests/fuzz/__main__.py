"""Fuzz for as long as one likes: ``make fuzz ARGS="--minutes 10 --target rooms"``.

Each target runs in a process of its own. One that dies, or says nothing for a while,
is a finding as well; another takes its place. Findings are saved in
``tests/fuzz/findings``, where they are tests. The exit code says whether there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import select
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import IO

from tests.fuzz import FINDINGS
from tests.fuzz.worker import CURRENT_SIZE, TARGETS

SILENCE = 60.0
"""Seconds without a word, after which a process hangs."""

ALIKE = 3
"""Findings of a kind that are saved."""


class Campaign:
    """One target, and what was found in it."""

    def __init__(self, name: str, options: argparse.Namespace, seconds: float) -> None:
        self.name = name
        self.options = options
        self.until = monotonic() + seconds
        self.done: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.started = monotonic()
        self.shown = monotonic()

    def run(self) -> None:
        number = 0
        with tempfile.NamedTemporaryFile() as current:
            current.truncate(CURRENT_SIZE)
            while monotonic() < self.until and self.left > 0:
                self.run_worker(f"{self.options.seed}/{number}", current.name)
                number += 1
        self.show()

    @property
    def left(self) -> int:
        """How many inputs are left."""
        return int(self.options.inputs - self.done["inputs"])

    def run_worker(self, seed: str, current: str) -> None:
        seconds = max(1.0, self.until - monotonic())
        command = [sys.executable, "-m", "tests.fuzz.worker", self.name, seed]
        command += [str(seconds), str(self.left), current]
        command += ["atheris"] if self.options.atheris else []
        with tempfile.TemporaryFile() as errors:
            self._watch(command, current, errors)

    def _watch(self, command: list[str], current: str, errors: IO[bytes]) -> None:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "RUST_BACKTRACE": "0"},
        )
        assert process.stdout is not None
        before = self.done.copy()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], SILENCE)
            if not ready:
                process.kill()
                process.wait()
                self.save("hang", read_current(current))
                return
            line = process.stdout.readline()
            if not line:
                break
            self.take(json.loads(line), before)
        code = process.wait()
        process.stdout.close()
        if code:
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-2000:]
            if not read_current(current) or code == 1:
                raise SystemExit(f"{self.name} does not run:\n{said}")
            self.save(f"died with {code}", read_current(current))

    def take(self, facts: dict[str, object], before: Counter[str]) -> None:
        if "finding" in facts:
            self.save(str(facts["finding"]), f"# {facts['name']}\n{facts['case']}")
            return
        if "said" in facts:
            print(f"{self.name}: {facts['said']}", flush=True)
            return
        counted = {name: int(str(count)) for name, count in facts.items()}
        self.done = before + Counter(counted)
        if monotonic() - self.shown > 10:
            self.shown = monotonic()
            self.show()

    def save(self, why: str, case: str) -> None:
        kind = re.sub(r"\d+|b?'.*'", "_", why)[:80]
        self.findings[kind] += 1
        if self.findings[kind] > ALIKE:
            return
        FINDINGS.mkdir(exist_ok=True)
        digest = hashlib.sha256(case.encode()).hexdigest()[:8]
        path = FINDINGS / f"{self.name}-{digest}.txt"
        path.write_text(f"# {why}\n".replace("\n", " ").strip() + f"\n{case}")
        print(f"{self.name}: {why[:200]}: {path}", flush=True)

    def show(self) -> None:
        seconds = monotonic() - self.started
        done = self.done
        print(
            f"{self.name}: {done['inputs']:,} inputs in {done['cases']:,} cases, "
            f"{done['accepted']:,} accepted, {done['diverged']} diverged, "
            f"{self.findings.total()} findings, "
            f"{seconds:.0f} s",
            flush=True,
        )


def read_current(path: str) -> str:
    """The case that a process was at."""
    return Path(path).read_bytes().partition(b"\0")[0].decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=", description=__doc__)
    parser.add_argument("--target", action="append", choices=[*TARGETS])
    parser.add_argument("--minutes", type=float, default=10, help="for all targets")
    parser.add_argument("--inputs", type=int, default=10**12, help="for each target")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(2**32)))
    parser.add_argument(
        "--atheris", action="store_true", help="let coverage of our code decide"
    )
    options = parser.parse_args()
    names = options.target or [*TARGETS]
    print(f"--seed {options.seed}", flush=True)
    campaigns = []
    for name in names:
        campaign = Campaign(name, options, 60 * options.minutes / len(names))
        campaign.run()
        campaigns.append(campaign)
    total = sum(campaign.done["inputs"] for campaign in campaigns)
    findings = sum(campaign.findings.total() for campaign in campaigns)
    print(f"{total:,} inputs, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
