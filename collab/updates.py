"""Updates, parsed strictly and without trusting a length.

pycrdt 0.14.13 is not safe on the bytes of strangers: 7 of them brick a document, 29
corrupt memory. So every update is parsed here first; what no honest client writes is
rejected, with one of the words that :class:`~collab.errors.UpdateRejected` lists.

The format is that of Yjs 13.6, version 1 (``src/utils/encoding.js``, ``readItem*`` in
``src/structs``): sections of structs, one per client, then the ranges of clocks that
are deleted. A client's clocks count what it ever inserted, in UTF-16 units for text.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .contents import (
    MAP,
    SLICE,
    UNSAFE,
    finish,
    note_lows,
    read_count,
    read_text,
    read_uint,
    skip_data,
    skip_json,
    skip_type,
    skip_values,
)
from .errors import UpdateRejected
from .ranges import Ranges, extend
from .trails import (
    FORMAT,
    GONE,
    INSIDE,
    KEYED,
    LONG,
    MAX_CLOCK,
    ORIGIN,
    RIGHT,
    check_order,
)
from .wire import MAX_UINT


@dataclass(frozen=True, slots=True)
class UpdateLimits:
    """What one update, and the document that it goes into, may hold."""

    structs: int = 1_000_000
    """Structs and delete ranges of one update."""

    clients: int = 20_000
    """Clients of one document; one update may bring them all, for each page load is
    one. A million of them cost pycrdt 72 ms per keystroke."""

    nesting: int = 256
    """Shared types within each other. pycrdt's stack overflows at 11,000, or at 800
    on a thread's small stack, when it reads or deletes them."""

    value_depth: int = 64
    """Arrays and maps within each other, in one value. Browsers give up at 10,000."""

    json_depth: int = 100
    """The same for the JSON of embeds and formatting, where yrs gives up at 127."""

    rivals: int = 8_000_000
    """Pairs of origin-less writes of the same map entry, in one update: pycrdt compares
    each write with all before it. An honest client makes one, for its next write names
    the last one as its origin. 4,000 clients have 8 million pairs and cost 0.1 s;
    20,000 would cost 5 s."""


DEFAULT: Final = UpdateLimits()

LARGE: Final = 32 * 1024
"""Bytes of an update from which on it is worth pausing: parsing it takes ~8 ms."""

ACCEPTED: Final = UpdateLimits(structs=MAX_UINT, clients=MAX_UINT, rivals=MAX_UINT)
"""For what adds up from updates that were each within the limits."""


_NOTHING: Final[Mapping[int, list[int]]] = {}
_NO_CLOCKS: Final[Mapping[int, array[int]]] = {}
_NO_NEEDS: Final[Mapping[int, int]] = {}
_NO_TRAILS: Final[Mapping[int, Sequence[int]]] = {}
_NO_BOUNDS: Final[Mapping[int, tuple[int, int]]] = {}


class Parsed:
    """What an update carries and needs, whatever the document.

    The parser makes it, and the gate notes its findings in it. Everything is
    keyed by client.
    """

    __slots__ = (
        "bounds",
        "cuts",
        "deletes",
        "exact",
        "faithful",
        "gone",
        "joints",
        "lows",
        "missing",
        "needs",
        "nested",
        "partial",
        "places",
        "ranges",
        "size",
        "trails",
        "types",
    )

    def __init__(
        self,
        size: int,
        ranges: Mapping[int, Ranges],
        needs: Mapping[int, int],
        deletes: Mapping[int, Ranges],
        trails: Mapping[int, Sequence[int]],
    ) -> None:
        self.size = size
        """Bytes of the update."""
        self.ranges = ranges
        """The clocks that it carries. Between two ranges is a Skip."""
        self.needs = needs
        """The highest clock of another client that it refers to."""
        self.deletes = deletes
        """The clocks that its delete set names."""
        self.trails = trails
        """What each item refers to, but for those that only continue the last one."""
        self.gone: Mapping[int, Ranges] = _NOTHING
        """The clocks that it carries as already deleted."""
        self.lows: Mapping[int, array[int]] = _NO_CLOCKS
        """The clocks of the second halves of surrogate pairs."""
        self.joints: Mapping[int, Sequence[int]] = _NO_TRAILS
        """The clocks at which one range of deletes ends and the next begins."""
        self.types: Mapping[int, array[int]] = _NO_CLOCKS
        """The clocks of shared types."""
        self.nested = False
        """Whether a struct is anywhere else than in a list at the root."""
        self.exact = True
        """Whether pycrdt would encode its values as they are, of a document or only
        merging. It makes numbers of BigInts, and rounds long fractions in JSON."""
        self.bounds: Mapping[int, tuple[int, int]] = _NO_BOUNDS
        """The bytes of each section: offsets of its first, and behind its last."""
        self.cuts: Mapping[int, Sequence[int]] = _NO_TRAILS
        """Of each struct its clock and its offset, if they were asked for."""
        self.missing = 0, 0
        """After ``EARLY``: a client and clock that must be known before judging again
        can change the verdict. It is known when ``gate.clocks[client] > clock``."""
        self.faithful = True
        """After ``READY``: whether pycrdt's encoding can be trusted with it. Once it
        is applied, ``Gate.faithful`` says so of the document."""
        self.partial = False
        """After ``READY``: whether it may begin with what is known of a client."""
        self.places: dict[int, list[int]] | None = None
        """After ``READY``: where the items of ``trails`` are, if the document nests."""

    def clients(self) -> Iterable[int]:
        """Clients that it carries clocks of."""
        return self.ranges.keys()


def parse(update: bytes, limits: UpdateLimits = DEFAULT) -> Parsed:
    """Parse an update strictly.

    Raises:
        UpdateRejected: If it is malformed, or nothing that Yjs would write.
    """
    return _parse_keystroke(update) or finish(parse_steps(update, limits))


def _parse_keystroke(update: bytes) -> Parsed | None:
    """Parse what most updates are; return None if this is something else.

    Those are one insertion of ASCII behind something, and one deleted range.
    """
    size = len(update)
    if size > 120 or size < 6:
        return None
    try:
        if update[0] == 1:
            if update[1] != 1 or update[-1] != 0:
                return None
            client, at = read_uint(update, 2)
            identity = update[2:at]
            start = update[at]
            at += 1
            if start > 127:
                start, at = read_uint(update, at - 1)
            how = update[at]
            at += 1
            if how == 0x84 or how == 0xC4:
                if update.startswith(identity, at):
                    origin = client
                    at += len(identity)
                else:
                    origin, at = read_uint(update, at)
                clock = update[at]
                at += 1
                if clock > 127:
                    clock, at = read_uint(update, at - 1)
                if origin == client:
                    if clock >= start:
                        return None
                    needs = _NO_NEEDS
                else:
                    needs = {origin: clock}
            else:
                return None
            if how == 0xC4:
                if update.startswith(identity, at):
                    right = client
                    at += len(identity)
                else:
                    right, at = read_uint(update, at)
                right_clock = update[at]
                at += 1
                if right_clock > 127:
                    right_clock, at = read_uint(update, at - 1)
                if right == client:
                    if right_clock >= start:
                        return None
                elif right_clock > needs.get(right, -1):
                    needs = {**needs, right: right_clock}
                place = ORIGIN | RIGHT
            else:
                right = right_clock = 0
                place = ORIGIN
            # Shorter than 120 bytes, so its length takes one.
            length = update[at]
            at += 1
            end = start + length
            if (
                at + length + 1 != size
                or not length
                or end > MAX_CLOCK
                or clock >= MAX_CLOCK
                or right_clock >= MAX_CLOCK
                or not (update[at] < 128 if length == 1 else update[at:-1].isascii())
            ):
                return None
            if length > 1:
                place |= LONG
            entry = (start, place, origin, clock, right, right_clock)
            return Parsed(
                size, {client: [start, end]}, needs, _NOTHING, {client: entry}
            )
        if update[0] == 0 and update[1] == 1:
            client, at = read_uint(update, 2)
            if update[at] != 1:
                return None
            start, at = read_uint(update, at + 1)
            length, at = read_uint(update, at)
            end = start + length
            if at != size or not length or end > MAX_CLOCK:
                return None
            return Parsed(size, _NOTHING, _NO_NEEDS, {client: [start, end]}, _NO_TRAILS)
    except (IndexError, UpdateRejected):
        # Whoever reads it strictly says what is wrong with it.
        pass
    return None


def cut(update: bytes, limits: UpdateLimits = ACCEPTED) -> Parsed:
    """Parse what was accepted, and note where its structs are: see ``Parsed.cuts``.

    Raises:
        UpdateRejected: As :func:`parse` does, but for limits of size.
    """
    parsed = _parse_keystroke(update)
    if parsed is None:
        return finish(parse_steps(update, limits, {}))
    for client, (start, _) in parsed.ranges.items():
        _, at = read_uint(update, 2)
        _, at = read_uint(update, at)
        parsed.cuts = {client: (start, at)}
        parsed.bounds = {client: (1, len(update) - 1)}
    return parsed


def parse_steps(
    update: bytes,
    limits: UpdateLimits = DEFAULT,
    cuts: dict[int, array[int]] | None = None,
) -> Generator[None, None, Parsed]:
    """Parse an update strictly, pausing every few thousand structs.

    Yields ``None`` at each pause and returns the result, so that an event loop can
    serve others meanwhile: ``parsed = yield from parse_steps(update)``.

    Raises:
        UpdateRejected: As :func:`parse` does.
    """
    try:
        return (yield from _parse(update, limits, cuts))
    except IndexError:
        raise UpdateRejected("truncated") from None
    except UnicodeDecodeError as exc:
        raise UpdateRejected("invalid-text", exc.reason) from None


def _parse(
    update: bytes, limits: UpdateLimits, cuts: dict[int, array[int]] | None
) -> Generator[None, None, Parsed]:
    # One long function on purpose: it runs once for each struct of a document that is
    # being loaded, and a call costs as much as reading two integers.
    size = len(update)
    ranges: dict[int, Ranges] = {}
    trails: dict[int, Sequence[int]] = {}
    links: dict[int, dict[int, int]] = {}
    gone: dict[int, Ranges] = {}
    lows: dict[int, array[int]] = {}
    types: dict[int, array[int]] = {}
    bounds: dict[int, tuple[int, int]] = {}
    writes: dict[tuple[object, str], int] = {}
    rivals = 0
    nested = False
    exact = True
    total = 0
    pause = SLICE

    clients, at = read_count(update, 0, 3)
    if clients > limits.clients:
        raise UpdateRejected("too-many-clients", f"limit {limits.clients}")
    for _ in range(clients):
        section = at
        count, at = read_count(update, at, 2)
        if not count:
            raise UpdateRejected("empty-section")
        total += count
        if total > limits.structs:
            raise UpdateRejected("too-many-structs", f"limit {limits.structs}")
        identity_at = at
        client, at = read_uint(update, at)
        if client in ranges:
            raise UpdateRejected("duplicate-client", str(client))
        identity = update[identity_at:at]
        width = at - identity_at
        clock, at = read_uint(update, at)
        if clock >= MAX_CLOCK:
            raise UpdateRejected("clock-overflow")
        start = clock
        carried: Ranges = []
        trail = array("q")
        note = trail.extend
        foreign: dict[int, int] = {}
        # Whether the last struct was an item, which the next may merely continue.
        following = False
        mark = None
        if cuts is not None:
            cuts[client] = array("Q")
            mark = cuts[client].extend

        for _ in range(count):
            pause -= 1
            if not pause:
                yield
                pause = SLICE
            if mark is not None:
                mark((clock, at))
            info = update[at]
            at += 1
            ref = info & 31

            if ref == 0 or ref == 10:
                if info != ref:
                    raise UpdateRejected("flags-on-filler")
                length, at = read_uint(update, at)
                if not length:
                    raise UpdateRejected("empty-struct")
                end = clock + length
                if end > MAX_CLOCK:
                    raise UpdateRejected("clock-overflow")
                if ref:
                    if start < clock:
                        carried += (start, clock)
                    start = end
                else:
                    nested = True
                    note((clock, GONE, 0, 0, 0, 0))
                    extend(gone.setdefault(client, []), clock, end)
                following = False
                clock = end
                continue

            how = first = first_clock = second = second_clock = 0
            if info & 0x80:
                how = ORIGIN
                if update.startswith(identity, at):
                    first = client
                    at += width
                else:
                    first, at = read_uint(update, at)
                first_clock = update[at]
                at += 1
                if first_clock > 127:
                    first_clock, at = read_uint(update, at - 1)
                if first == client:
                    if first_clock >= clock:
                        raise UpdateRejected("future-reference")
                elif first_clock > foreign.get(first, -1):
                    foreign[first] = first_clock
            if info & 0x40:
                how |= RIGHT
                if update.startswith(identity, at):
                    second = client
                    at += width
                else:
                    second, at = read_uint(update, at)
                second_clock = update[at]
                at += 1
                if second_clock > 127:
                    second_clock, at = read_uint(update, at - 1)
                if second == client:
                    if second_clock >= clock:
                        raise UpdateRejected("future-reference")
                elif second_clock > foreign.get(second, -1):
                    foreign[second] = second_clock
            if not how:
                kind, at = read_uint(update, at)
                parent: object
                if kind == 1:
                    parent, at = read_text(update, at)
                elif kind == 0:
                    how = INSIDE
                    nested = True
                    first, at = read_uint(update, at)
                    first_clock, at = read_uint(update, at)
                    parent = first, first_clock
                    if first == client:
                        if first_clock >= clock:
                            raise UpdateRejected("future-reference")
                    elif first_clock > foreign.get(first, -1):
                        foreign[first] = first_clock
                else:
                    raise UpdateRejected("unknown-parent")
                if info & 0x20:
                    how |= KEYED
                    nested = True
                    key, at = read_text(update, at)
                    if key == UNSAFE:
                        raise UpdateRejected("unsafe-key")
                    before = writes.get((parent, key), 0)
                    writes[parent, key] = before + 1
                    rivals += before
                    if rivals > limits.rivals:
                        raise UpdateRejected("rival-entries")

            if ref == 4:
                length = update[at]
                at += 1
                if length > 127:
                    length, at = read_uint(update, at - 1)
                stop = at + length
                if stop > size:
                    raise UpdateRejected("length-exceeds-bytes")
                if length != 1 or update[at] > 127:
                    raw = update[at:stop]
                    if not raw.isascii():
                        text = raw.decode()
                        length = len(text)
                        if max(text) > "\uffff":
                            if client not in lows:
                                lows[client] = array("I")
                            length += note_lows(lows[client], clock, text)
                at = stop
            elif ref == 1:
                length, at = read_uint(update, at)
                extend(gone.setdefault(client, []), clock, clock + length)
            elif ref == 8:
                length, at = read_count(update, at, 1)
                at, big = yield from skip_values(update, at, length, limits.value_depth)
                exact = exact and not big
            elif ref == 6:
                if info & 0x20:
                    raise UpdateRejected("format-as-map-entry")
                how |= FORMAT
                length = 1
                _, at = read_text(update, at)
                at, same = skip_json(update, at, limits.json_depth)
                exact = exact and same
            elif ref == 7:
                nested = True
                length = 1
                at = skip_type(update, at)
                if client not in types:
                    types[client] = array("I")
                types[client].append(clock)
            elif ref == 3:
                length = 1
                at = skip_data(update, at)
            elif ref == 5:
                length = 1
                at, same = skip_json(update, at, limits.json_depth)
                exact = exact and same
            elif ref == 9:
                length = 1
                _, at = read_text(update, at)
                if update[at] != MAP:
                    raise UpdateRejected("invalid-subdocument")
                at, big = yield from skip_values(update, at, 1, limits.value_depth)
                exact = exact and not big
            elif ref == 2:
                raise UpdateRejected("legacy-json")
            else:
                raise UpdateRejected("unknown-content", str(ref))

            if not length:
                raise UpdateRejected("empty-struct")
            if length > 1 and ref != 1:
                how |= LONG
            if (
                how != ORIGIN
                or first_clock != clock - 1
                or first != client
                or not following
            ):
                note((clock, how, first, first_clock, second, second_clock))
            following = not how & LONG  # So that it is known how long it is.
            clock += length
            if clock > MAX_CLOCK:
                raise UpdateRejected("clock-overflow")

        if start < clock:
            carried += (start, clock)
        if not carried:
            raise UpdateRejected("empty-section", "nothing but Skip")
        ranges[client] = carried
        trails[client] = trail
        bounds[client] = section, at
        if foreign:
            if max(foreign.values()) >= MAX_CLOCK:
                raise UpdateRejected("clock-overflow")
            links[client] = foreign

    needs: dict[int, int] = {}
    for foreign in links.values():
        for client, clock in foreign.items():
            if clock > needs.get(client, -1):
                needs[client] = clock
    if len(links) > 1:
        yield from check_order(ranges, trails, links)

    deletes: dict[int, Ranges] = {}
    joints: dict[int, list[int]] = {}
    clients, at = read_count(update, at, 2)
    for _ in range(clients):
        client, at = read_uint(update, at)
        if client in deletes:
            raise UpdateRejected("duplicate-client", f"{client}, deletes")
        count, at = read_count(update, at, 2)
        if not count:
            raise UpdateRejected("empty-section", "deletes")
        total += count
        if total > limits.structs:
            raise UpdateRejected("too-many-structs", f"limit {limits.structs}")
        deleted: Ranges = []
        deletes[client] = deleted
        end = 0
        for _ in range(count):
            pause -= 1
            if not pause:
                yield
                pause = SLICE
            clock, at = read_uint(update, at)
            length, at = read_uint(update, at)
            if clock < end:
                raise UpdateRejected("unsorted-deletes")
            if not length:
                raise UpdateRejected("empty-struct", "deletes")
            if deleted and clock == end:
                joints.setdefault(client, []).append(clock)
                deleted[-1] = end = clock + length
            else:
                end = clock + length
                deleted += (clock, end)
        if end > MAX_CLOCK:
            raise UpdateRejected("clock-overflow")
    if at != size:
        raise UpdateRejected("trailing-bytes", f"{size - at} of them")

    parsed = Parsed(size, ranges, needs, deletes, trails)
    parsed.gone = gone
    parsed.joints = joints
    parsed.lows = lows
    parsed.types = types
    parsed.nested = nested
    parsed.exact = exact
    parsed.bounds = bounds
    if cuts is not None:
        parsed.cuts = cuts
    return parsed
