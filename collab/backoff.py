"""When to try again: later and later, and never all at once."""

from __future__ import annotations

import random


class BackOff:
    """How long to wait: a random time, which may be longer from one attempt to another.

    Times are in seconds.
    """

    def __init__(self, floor: float = 0.5, cap: float = 20.0) -> None:
        self.floor = floor
        self.cap = cap
        self.attempt = 0

    def next(self) -> float:
        """The seconds to wait before another attempt."""
        self.attempt += 1
        longest = min(self.cap, self.floor * 2 ** min(self.attempt, 64))
        return random.uniform(self.floor, longest)

    def reset(self) -> None:
        """Begin anew: an attempt has succeeded."""
        self.attempt = 0

    def another(self) -> BackOff:
        """One like this, which has not begun."""
        return BackOff(self.floor, self.cap)
