"""What strangers might send, by the million: ``make fuzz``, and a few of it as tests.

A *target* makes cases and runs them. A *case* is what several strangers say, one thing
after another; a *finding* is a case after which something is not as it must be. The
choices of a case come from a seed, or from atheris, which looks for those that lead
where no case was before.

A finding is saved as a file in ``findings/``, a line for each input, and is a test from
then on (``tests/test_fuzz.py``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

FINDINGS = Path(__file__).parent / "findings"

Case: TypeAlias = Sequence[tuple[int, bytes]]
"""What is said, and by whom: strangers are numbered."""

HANG = 0.1
"""Seconds of the processor that one input may take."""


class Finding(Exception):
    """Raised when a case leaves something that must not be."""


class Divergence(Finding):
    """Raised when clients end up with something else than others, but go on.

    It can concern what is hostile, and cannot always be told in advance: see README.md.
    """


class Slow(Finding):
    """Raised when an input takes more than :data:`HANG`."""


class Target(Protocol):
    """Something that reads what comes from outside."""

    def make(self, chance: random.Random) -> Case:
        """Make a case."""

    def run(self, case: Case) -> int:
        """Run a case; return how many of its inputs were accepted.

        Raises:
            Finding: If something is not as it must be.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class Drawn(random.Random):
    """Chance that is drawn from bytes, and always the same when they are used up."""

    def __new__(cls, entropy: bytes) -> Drawn:
        return super().__new__(cls)

    def __init__(self, entropy: bytes) -> None:
        self._entropy = entropy
        self._at = 0

    def getrandbits(self, k: int) -> int:
        """So many bits of what is left."""
        size = (k + 7) // 8
        taken = self._entropy[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """A fraction; 16 bits are enough to choose by."""
        return self.getrandbits(16) / 65536


def write_case(case: Case) -> str:
    """A case as text."""
    return "".join(f"{who} {said.hex()}\n" for who, said in case)


def read_case(text: str) -> Case:
    """A case from its text."""
    lines = [line.split(" ") for line in text.splitlines() if line[:1].isdigit()]
    return [(int(who), bytes.fromhex(said)) for who, said in lines]
