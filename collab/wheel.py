"""Connections, and when each is spoken to, or told to go."""

from __future__ import annotations

from typing import Protocol

DRAIN = 4.0
"""Seconds over which connections are told to go when a server stops..."""

PACE = 0.01
"""...at most; and between two of them, if there are few: whoever goes comes back
elsewhere, and all at once they would be a storm."""

MOVING = 2.0
"""Seconds more that a client has that moves elsewhere, to have everything there."""


class Beating(Protocol):
    """What is done for connections."""

    def beat(self) -> None:
        """Give a sign of life; end it if the other side gave none since last time."""

    def check_progress(self, now: float) -> None:
        """End it if it is full and hasn't drained for too long."""

    def advise(self, after: float, window: float) -> None:
        """Hear when it is to go: within ``window`` seconds, in ``after`` seconds."""


class Wheel:
    """Connections, in as many parts as there are seconds between two heartbeats."""

    def __init__(self, heartbeat: int) -> None:
        self.full: set[Beating] = set()
        """Connections whose transports are full."""
        self._spokes: list[set[Beating]] = [set() for _ in range(heartbeat)]
        self._at = 0
        self.window = 0.0
        """Seconds within which all are to be gone."""

    def __len__(self) -> int:
        return sum(map(len, self._spokes))

    def add(self, connection: Beating) -> int:
        """Give a connection its heartbeat; return what :meth:`remove` wants."""
        spokes = self._spokes
        spoke = min(range(len(spokes)), key=lambda spoke: len(spokes[spoke]))
        spokes[spoke].add(connection)
        return spoke

    def remove(self, connection: Beating, spoke: int) -> None:
        """Forget a connection."""
        self._spokes[spoke].discard(connection)
        self.full.discard(connection)

    def turn(self, now: float) -> None:
        """Speak to those whose turn it is. To be called every second."""
        self._at = (self._at + 1) % len(self._spokes)
        for connection in list(self._spokes[self._at]):
            connection.beat()
        for connection in list(self.full):
            connection.check_progress(now)

    def begin_to_leave(self) -> None:
        """Tell each when it is to go: evenly spread.

        Each has a moment of its own. In one window for all, in which each takes a
        random one, some moments would be twice as crowded as others.
        """
        connections = [one for spoke in self._spokes for one in spoke]
        self.window = min(DRAIN, PACE * len(connections))
        for turn, connection in enumerate(connections):
            step = self.window / len(connections)
            connection.advise(turn * step, step)
