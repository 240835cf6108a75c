"""The gate: what is let through to pycrdt, and when.

pycrdt does not forgive updates out of causal order. So what the parser let pass is
judged by what the document has already accepted::

    parsed = parse(update)          # UpdateRejected: no honest client made this
    match gate.judge(parsed):
        case Verdict.READY: ...     # apply it, then gate.accept(parsed)
        case Verdict.EARLY: ...     # park it until parsed.missing is known
        case Verdict.REPEAT: ...    # it changes nothing
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Mapping, Sequence
from typing import Final

from .contents import SLICE, finish, read_count, read_uint
from .errors import QuotaExceeded, UpdateRejected
from .ranges import Ranges, behind, includes, unite, unite_steps
from .trails import FORMAT, GONE, INSIDE, KEYED, LONG, ORIGIN, RIGHT, STRIDE
from .updates import DEFAULT, Parsed, UpdateLimits
from .wire import uint


class Verdict(enum.Enum):
    """What to do with an update."""

    READY = "ready"
    """Apply it now: all that it refers to is known."""

    EARLY = "early"
    """Park it until ``Parsed.missing`` is known."""

    REPEAT = "repeat"
    """Nothing: all that it carries and deletes is known and deleted."""


_COLLECTED: Final = 0xFFFF
"""The place of what is collected, or becomes so because it refers to that."""

_NONE: Final[Ranges] = []

_PAUSE: Final = SLICE * STRIDE
"""Numbers of a trail between two pauses."""

_VERSION: Final = 2
"""The version of the encoding of a gate. Version 1 did not tell what came as deleted
from what was deleted later."""


def _check_long_entry(
    parsed: Parsed, starts: Mapping[int, Sequence[int]], client: int, index: int
) -> None:
    """Check that a map entry with several clocks is deleted.

    Yjs makes one of entries that were deleted but are not collected. Of any other,
    pycrdt loses the map when a part of it is deleted, and then the map.

    Raises:
        UpdateRejected: If it isn't, or not all of it.
    """
    own = starts[client]
    start = own[index]
    end = own[index + 1] if index + 1 < len(own) else parsed.ranges[client][-1]
    if not includes(parsed.deletes.get(client, _NONE), [start, end]):
        raise UpdateRejected("long-map-entry")


class _Runs:
    """A number for every clock of a client, kept as runs of equal ones; at first 0."""

    __slots__ = ("starts", "values")

    def __init__(self) -> None:
        self.starts = array("I", (0,))
        self.values = array("H", (0,))

    def at(self, clock: int) -> int:
        return self.values[bisect_right(self.starts, clock) - 1]

    def put(self, clock: int, value: int) -> None:
        """Set it from a clock on, which is not before that of the last time."""
        if self.values[-1] == value:
            return
        if self.starts[-1] == clock:
            self.values[-1] = value
        else:
            self.starts.append(clock)
            self.values.append(value)


def compare(clocks: Mapping[int, int], parsed: Parsed) -> Verdict:
    """Judge an update by what is known of each client alone, and note why in it.

    What is no news may still delete something.
    """
    verdict = Verdict.REPEAT
    for client, ranges in parsed.ranges.items():
        end = known = clocks.get(client, 0)
        for at in range(0, len(ranges), 2):
            if ranges[at] > end:
                parsed.missing = client, ranges[at] - 1
                return Verdict.EARLY
            if ranges[at + 1] > end:
                end = ranges[at + 1]
        if end > known:
            verdict = Verdict.READY
            if ranges[0] < known:
                parsed.partial = True
    for client, clock in parsed.needs.items():
        if clock >= clocks.get(client, 0):
            carried = parsed.ranges.get(client)
            if carried is None or clock >= carried[-1]:
                parsed.missing = client, clock
                return Verdict.EARLY
    for client, deletes in parsed.deletes.items():
        end = deletes[-1]
        if end > clocks.get(client, 0):
            carried = parsed.ranges.get(client)
            if carried is None or end > carried[-1]:
                parsed.missing = client, end - 1
                return Verdict.EARLY
    return verdict


class Gate:
    """What a document has accepted, as far as it matters for the next update.

    A new gate stands for an empty document. Two are equal when the same clocks are
    known and deleted.
    """

    __slots__ = (
        "clocks",
        "deleted",
        "faithful",
        "gone",
        "limits",
        "lows",
        "places",
        "types",
    )

    def __init__(self, limits: UpdateLimits = DEFAULT) -> None:
        self.limits = limits
        self.clocks: dict[int, int] = {}
        """How many clocks of each client are known; the next one expected."""
        self.deleted: dict[int, Ranges] = {}
        """The clocks that updates have deleted, or brought as deleted.

        Replicas delete more than they were told: of concurrent writes of a map entry
        all but one, what is inserted into a deleted type, and formatting that has
        become redundant. A document's delete set has these too.
        """
        self.faithful = True
        """Whether pycrdt's encoding of the document can be trusted.

        It cannot once a surrogate pair was cut in half, as Yjs does when the user of
        an editor deletes half an emoji: yrs then loses count of the clocks. Nor when
        there are values that it makes others of: see ``Parsed.exact``. That it encodes
        the keys of an object in any order is no matter.
        """
        self.lows: dict[int, array[int]] = {}
        """The clocks of the second halves of surrogate pairs, ascending."""
        self.gone: dict[int, Ranges] = {}
        """The clocks that came as deleted already: what they held, nobody knows."""
        self.types: dict[int, array[int]] = {}
        """The clocks of shared types, ascending."""
        self.places: dict[int, _Runs] = {}
        """Where items are, if not in a list at the root: twice the number of types
        around it, and one more for a map entry; or ``_COLLECTED``."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gate):
            return NotImplemented
        return self.clocks == other.clocks and self.deleted == other.deleted

    __hash__ = None  # type: ignore[assignment]

    def judge(self, parsed: Parsed) -> Verdict:
        """Say what to do with an update, and note why in it. Changes nothing here.

        Raises:
            UpdateRejected: If it can never be applied to this document.
            QuotaExceeded: If the document would have more than ``limits.clients``.
        """
        verdict = compare(self.clocks, parsed)
        if verdict is Verdict.REPEAT and not all(
            includes(self.deleted.get(client, _NONE), deletes)
            for client, deletes in parsed.deletes.items()
        ):
            verdict = Verdict.READY
        if verdict is Verdict.READY:
            self._check_clients(parsed)
            if self._is_intricate(parsed):
                finish(self._examine(parsed))
        return verdict

    def judge_steps(self, parsed: Parsed) -> Generator[None, None, Verdict]:
        """Judge an update that is large, with pauses.

        Nothing may be accepted between them.

        Raises:
            UpdateRejected, QuotaExceeded: As :meth:`judge` does.
        """
        verdict = compare(self.clocks, parsed)
        if verdict is Verdict.REPEAT and not (yield from self._has_deleted(parsed)):
            verdict = Verdict.READY
        if verdict is Verdict.READY:
            self._check_clients(parsed)
            if self._is_intricate(parsed):
                yield from self._examine(parsed)
        return verdict

    def _has_deleted(self, parsed: Parsed) -> Generator[None, None, bool]:
        for client, deletes in parsed.deletes.items():
            known = self.deleted.get(client, _NONE)
            for at in range(0, len(deletes), 2 * SLICE):
                if not includes(known, deletes[at : at + 2 * SLICE]):
                    return False
                yield
        return True

    def _check_clients(self, parsed: Parsed) -> None:
        limit = self.limits.clients
        if len(parsed.ranges) + len(self.clocks) > limit:
            newcomers = parsed.ranges.keys() - self.clocks.keys()
            if newcomers and len(newcomers) + len(self.clocks) > limit:
                raise QuotaExceeded("clients", limit)

    def _is_intricate(self, parsed: Parsed) -> bool:
        """Whether it takes more than clocks to say what an update does."""
        return bool(
            parsed.nested
            or (self.places and parsed.trails)
            or not parsed.exact
            or self.lows
            or parsed.lows
        )

    def _examine(self, parsed: Parsed) -> Generator[None, None, None]:
        if parsed.nested or (self.places and parsed.trails):
            parsed.places = yield from self._find_places(parsed)
        if not parsed.exact or (
            (self.lows or parsed.lows) and (yield from self._is_cutting(parsed))
        ):
            parsed.faithful = False

    def accept(self, parsed: Parsed) -> None:
        """Count an update as known. The last verdict on it was ``READY``."""
        if parsed.places is not None:
            finish(self._accept_places(parsed, parsed.places))
        for client, gone in parsed.gone.items():
            # What is known is as it was, whatever an update brings in its place.
            if new_gone := behind(gone, self.clocks.get(client, 0)):
                unite(self.deleted.setdefault(client, []), new_gone)
                unite(self.gone.setdefault(client, []), new_gone)
        for client, deletes in parsed.deletes.items():
            known = self.deleted.get(client)
            if known is None:
                self.deleted[client] = deletes.copy()
            else:
                unite(known, deletes)
        self._count(parsed)

    def accept_steps(self, parsed: Parsed) -> Generator[None, None, None]:
        """Count an update that is large as known, with pauses.

        The clocks are known after the last one, all at once.
        """
        if parsed.places is not None:
            yield from self._accept_places(parsed, parsed.places)
        for client, gone in parsed.gone.items():
            if new_gone := behind(gone, self.clocks.get(client, 0)):
                yield from unite_steps(self.deleted.setdefault(client, []), new_gone)
                yield from unite_steps(self.gone.setdefault(client, []), new_gone)
        for client, deletes in parsed.deletes.items():
            yield from unite_steps(self.deleted.setdefault(client, []), deletes)
        self._count(parsed)

    def _count(self, parsed: Parsed) -> None:
        clocks = self.clocks
        for client, lows in parsed.lows.items():
            if new := lows[bisect_left(lows, clocks.get(client, 0)) :]:
                self.lows.setdefault(client, array("I")).extend(new)
        if not parsed.faithful:
            self.faithful = False
        for client, ranges in parsed.ranges.items():
            end = ranges[-1]
            if end > clocks.get(client, 0):
                clocks[client] = end

    def covers(self, other: Gate) -> bool:
        """Whether the same clocks are known, and at least the same are deleted."""
        return self.clocks == other.clocks and all(
            includes(self.deleted.get(client, _NONE), ranges)
            for client, ranges in other.deleted.items()
        )

    def _is_cutting(self, parsed: Parsed) -> Generator[None, None, bool]:
        """Whether an update puts an edge between the halves of a surrogate pair."""
        known = [lows for lows in (self.lows, parsed.lows) if lows]

        def cut(client: int, clock: int) -> bool:
            for lows in known:
                own = lows.get(client)
                if own is not None:
                    at = bisect_left(own, clock)
                    if at < len(own) and own[at] == clock:
                        return True
            return False

        for client, trail in parsed.trails.items():
            # What is new may begin within a pair, where another update ended.
            if cut(client, self.clocks.get(client, 0)):
                return True
            for at in range(0, len(trail), STRIDE):
                if at % _PAUSE == _PAUSE - STRIDE:
                    yield
                start, how, first, first_clock, second, second_clock = trail[
                    at : at + STRIDE
                ]
                if (
                    (how & ORIGIN and cut(first, first_clock + 1))
                    or (how & RIGHT and cut(second, second_clock))
                    or cut(client, start)
                ):
                    return True
        for edges in (parsed.deletes, parsed.joints):
            for client, clocks in edges.items():
                for at in range(0, len(clocks), SLICE):
                    if any(cut(client, clock) for clock in clocks[at : at + SLICE]):
                        return True
                    yield
        return False

    def _find_places(
        self, parsed: Parsed
    ) -> Generator[None, None, dict[int, list[int]]]:
        """Find where each item of an update is: of each entry of its trails.

        Raises:
            UpdateRejected: If types nest too deeply, or an item cannot be there.
        """
        clocks = self.clocks
        trails = parsed.trails
        limit = 2 * self.limits.nesting + 1
        starts = {client: trail[::STRIDE] for client, trail in trails.items()}
        places = {client: [-1] * len(found) for client, found in starts.items()}
        path: list[tuple[int, int]] = []
        pause = SLICE
        for client, own in places.items():
            # Where the first unknown clock is, or the entry that goes beyond it.
            known = clocks.get(client, 0)
            if parsed.ranges[client][-1] <= known:
                continue
            at = bisect_right(starts[client], known) - 1
            for index in range(max(at, 0), len(own)):
                if own[index] >= 0:
                    continue
                # Follow the items it is next to or in, until the place of one is known.
                path.append((client, index))
                while True:
                    pause -= 1
                    if not pause:
                        yield
                        pause = SLICE
                    client_, index_ = path[-1]
                    entry = index_ * STRIDE
                    _, how, left, left_clock, right, right_clock = trails[client_][
                        entry : entry + STRIDE
                    ]
                    if how & (ORIGIN | INSIDE):
                        beside, clock = left, left_clock
                    elif how & RIGHT:
                        beside, clock = right, right_clock
                    else:
                        place = _COLLECTED if how & GONE else 0
                        break
                    if clock < clocks.get(beside, 0):
                        place = self.place(beside, clock)
                        break
                    next_index = bisect_right(starts[beside], clock) - 1
                    place = places[beside][next_index]
                    if place >= 0:
                        break
                    path.append((beside, next_index))
                while path:
                    client_, index_ = path.pop()
                    entry = index_ * STRIDE
                    how, inside, inside_clock = trails[client_][entry + 1 : entry + 4]
                    if how & INSIDE and not self._has_inside(
                        parsed, inside, inside_clock
                    ):
                        raise UpdateRejected("parent-not-a-type")
                    # What refers to something collected becomes collected itself.
                    if place != _COLLECTED:
                        if how & INSIDE:
                            place = (place | 1) + 1
                        if how & KEYED:
                            place |= 1
                        if place > limit:
                            raise UpdateRejected(
                                "nested-too-deep", f"limit {self.limits.nesting}"
                            )
                        if how & FORMAT and place & 1:
                            raise UpdateRejected("format-as-map-entry")
                        if how & LONG and place & 1:
                            _check_long_entry(parsed, starts, client_, index_)
                    places[client_][index_] = place
        yield from self._check_sides(parsed, places, starts)
        return places

    def place(self, client: int, clock: int) -> int:
        """Where a known item is: see :attr:`places`. An odd one is a map entry's."""
        runs = self.places.get(client)
        return 0 if runs is None else runs.at(clock)

    def _check_sides(
        self,
        parsed: Parsed,
        places: Mapping[int, list[int]],
        starts: Mapping[int, Sequence[int]],
    ) -> Generator[None, None, None]:
        """Check that items are on the same level as what is to their right.

        What is at a root is never collected. What is between something there and
        something that is, Yjs collects and pycrdt does not.
        """
        for client, own in places.items():
            known = self.clocks.get(client, 0)
            if parsed.ranges[client][-1] <= known:
                continue
            trail = parsed.trails[client]
            first = max(0, bisect_right(starts[client], known) - 1)
            continued = first if starts[client][first] < known else -1
            if continued == first:
                # What is new continues what is known, and so is where that is.
                before = self.place(client, known - 1)
                if before == _COLLECTED:
                    own[first] = before
                elif own[first] != before and trail[first * STRIDE + 1] != GONE:
                    raise UpdateRejected("between-two-places")
            for index, place in enumerate(own):
                if index % SLICE == SLICE - 1:
                    yield
                at = index * STRIDE
                how = trail[at + 1] | (ORIGIN if index == continued else 0)
                if how & 3 != ORIGIN | RIGHT or place < 0:
                    continue
                right, clock = trail[at + 4], trail[at + 5]
                if clock < self.clocks.get(right, 0):
                    beside = self.place(right, clock)
                else:
                    beside = places[right][bisect_right(starts[right], clock) - 1]
                if beside != place and (
                    _COLLECTED not in (beside, place) or min(beside, place) < 2
                ):
                    raise UpdateRejected("between-two-places")

    def _has_inside(self, parsed: Parsed, client: int, clock: int) -> bool:
        """Whether an item is a shared type, or came as deleted: it may have been one.

        One that is known to be something else is none, deleted or not. An update that
        brings both, as that of a newcomer does, would fail in pycrdt.
        """
        if clock < self.clocks.get(client, 0):
            types: Mapping[int, array[int]] = self.types
            gone: Mapping[int, Ranges] = self.gone
        else:
            types = parsed.types
            gone = parsed.gone
        found = types.get(client)
        if found is not None:
            at = bisect_left(found, clock)
            if at < len(found) and found[at] == clock:
                return True
        return bool(bisect_right(gone.get(client, ()), clock) & 1)

    def _accept_places(
        self, parsed: Parsed, places: Mapping[int, list[int]]
    ) -> Generator[None, None, None]:
        for client, types in parsed.types.items():
            if new := types[bisect_left(types, self.clocks.get(client, 0)) :]:
                self.types.setdefault(client, array("I")).extend(new)
        for client, found in places.items():
            runs = self.places.get(client)
            if runs is None:
                if max(found) <= 0:
                    continue
                runs = self.places[client] = _Runs()
            known = self.clocks.get(client, 0)
            starts = parsed.trails[client][::STRIDE]
            for index, place in enumerate(found):
                if index % SLICE == SLICE - 1:
                    yield
                if place >= 0:
                    runs.put(max(starts[index], known), place)

    def encode(self) -> bytes:
        """Encode it, to be kept beside a snapshot of the document."""
        encoded = bytearray((_VERSION, self.faithful))
        _write_map(encoded, {c: [n] for c, n in self.clocks.items()})
        _write_map(encoded, self.deleted)
        _write_map(encoded, self.gone)
        _write_map(encoded, self.lows)
        _write_map(encoded, self.types)
        _write_map(encoded, {c: runs.starts for c, runs in self.places.items()})
        for runs in self.places.values():
            for place in runs.values:
                encoded += uint(place)
        return bytes(encoded)

    @classmethod
    def decode(cls, encoded: bytes, limits: UpdateLimits = DEFAULT) -> Gate:
        """Restore what :meth:`encode` made.

        Raises:
            ValueError: If it is of another version, or damaged.
        """
        return finish(cls.decode_steps(encoded, limits))

    @classmethod
    def decode_steps(
        cls, encoded: bytes, limits: UpdateLimits = DEFAULT
    ) -> Generator[None, None, Gate]:
        """Restore what :meth:`encode` made, with pauses.

        Raises:
            ValueError: If it is of another version, or damaged.
        """
        gate = cls(limits)
        try:
            if encoded[0] not in (1, _VERSION) or encoded[1] > 1:
                raise ValueError("not a gate of this version")
            gate.faithful = bool(encoded[1])
            clocks, at = yield from _read_map(encoded, 2)
            gate.clocks = {client: known for client, (known,) in clocks.items()}
            gate.deleted, at = yield from _read_map(encoded, at)
            if encoded[0] > 1:
                gate.gone, at = yield from _read_map(encoded, at)
            else:
                gate.gone = {c: ranges.copy() for c, ranges in gate.deleted.items()}
            lows, at = yield from _read_map(encoded, at)
            gate.lows = {client: array("I", found) for client, found in lows.items()}
            types, at = yield from _read_map(encoded, at)
            gate.types = {client: array("I", found) for client, found in types.items()}
            places, at = yield from _read_map(encoded, at)
            for client, starts in places.items():
                gate.places[client] = runs = _Runs()
                runs.starts = array("I", starts)
                runs.values = array("H")
                for index in range(len(starts)):
                    if index % SLICE == SLICE - 1:
                        yield
                    place, at = read_uint(encoded, at)
                    runs.values.append(place)
        except (IndexError, OverflowError, UpdateRejected) as exc:
            raise ValueError("gate is damaged") from exc
        if at != len(encoded):
            raise ValueError("gate is damaged")
        return gate


def _write_map(encoded: bytearray, numbers: Mapping[int, Sequence[int]]) -> None:
    """Write ascending numbers by client, each as its difference from the last."""
    encoded += uint(len(numbers))
    for client, ascending in numbers.items():
        encoded += uint(client)
        encoded += uint(len(ascending))
        last = 0
        for number in ascending:
            encoded += uint(number - last)
            last = number


def _read_map(
    encoded: bytes, at: int
) -> Generator[None, None, tuple[dict[int, list[int]], int]]:
    numbers: dict[int, list[int]] = {}
    clients, at = read_count(encoded, at, 2)
    for _ in range(clients):
        client, at = read_uint(encoded, at)
        count, at = read_count(encoded, at, 1)
        numbers[client] = ascending = []
        last = 0
        for index in range(count):
            if index % SLICE == SLICE - 1:
                yield
            difference, at = read_uint(encoded, at)
            last += difference
            ascending.append(last)
    return numbers, at
