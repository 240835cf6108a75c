"""The gate: what is let through to pycrdt, and when.

pycrdt 0.14.13 is not safe on the bytes of strangers: 7 of them brick a document, 29
corrupt memory. Nor does it forgive updates out of causal order. So every update is
parsed here first, strictly and without trusting a length, and then judged by what the
document has already accepted::

    parsed = parse(update)          # UpdateRejected: no honest client made this
    match gate.judge(parsed):
        case Verdict.READY: ...     # apply it, then gate.accept(parsed)
        case Verdict.EARLY: ...     # park it until parsed.missing is known
        case Verdict.REPEAT: ...    # it changes nothing

The format is that of Yjs 13.6, version 1 (``src/utils/encoding.js``, ``readItem*`` in
``src/structs``): sections of structs, one per client, then the ranges of clocks that
are deleted. A client's clocks count what it ever inserted, in UTF-16 units for text.

An update is rejected with one of these words, which are the ``kind`` of the error:

==========================  =========================================================
``truncated``               the bytes end within the update
``trailing-bytes``          bytes follow it, as when it is encoded in version 2
``length-exceeds-bytes``    a count or length that the bytes present cannot hold
``integer-overflow``        an integer of more than 53 bits
``clock-overflow``          a clock beyond 2^31 - 1
``invalid-text``            a string that is not UTF-8
``invalid-json``            JSON that pycrdt or a browser cannot read
``invalid-value``           a value of a kind that lib0 does not have
``value-too-deep``          arrays and maps nested too deeply in one value
``duplicate-client``        a client with two sections
``empty-section``           a client with no structs, or no ranges
``empty-struct``            a struct or range without length
``flags-on-filler``         a GC or Skip with the flags of an item
``unknown-content``         content that Yjs does not have
``unknown-type``            a shared type that Yjs does not have
``unknown-parent``          a parent that is neither a root nor an item
``legacy-json``             ContentJSON of Yjs before 13, which pycrdt cannot decode
``xml-hook``                Y.XmlHook, which pycrdt re-encodes as something else
``invalid-subdocument``     a subdocument whose options are not a map
``format-as-map-entry``     a formatting mark where a map's value should be
``between-two-places``      an item with a neighbour that is elsewhere
``parent-not-a-type``       an item inside of something that has no inside
``future-reference``        an item that refers to itself or its client's future
``cyclic-references``       items that each wait for the other
``unsorted-deletes``        ranges that overlap or are not in ascending order
``rival-entries``           one map entry written over and over without seeing itself
``nested-too-deep``         shared types nested too deeply
``too-many-structs``        more structs and ranges than ``UpdateLimits.structs``
``too-many-clients``        more clients, or more new ones, than ``UpdateLimits`` has
==========================  =========================================================
"""

from __future__ import annotations

import enum
import json
import math
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, TypeAlias

from .errors import QuotaExceeded, UpdateRejected
from .wire import MAX_UINT, uint

MAX_CLOCK: Final = 2**31 - 1
"""The largest clock: yrs counts in 32 bits, some of them signed."""

SLICE: Final = 2_000
"""Structs between two pauses of :func:`parse_steps`: 3 to 6 ms of work."""


@dataclass(frozen=True, slots=True)
class UpdateLimits:
    """What one update, and the document that it goes into, may hold."""

    structs: int = 1_000_000
    """Structs and delete ranges of one update."""

    new_clients: int = 1_000
    """Clients of one update that the document has not seen before."""

    clients: int = 20_000
    """Clients of one document. A million of them cost pycrdt 72 ms per keystroke."""

    nesting: int = 256
    """Shared types within each other. pycrdt's stack overflows at 11,000, or at 800
    on a thread's small stack, when it reads or deletes them."""

    value_depth: int = 64
    """Arrays and maps within each other, in one value. Browsers give up at 10,000."""

    json_depth: int = 100
    """The same for the JSON of embeds and formatting, where yrs gives up at 127."""

    rivals: int = 64
    """Origin-less writes of one map entry in one update, over one for each client.
    An honest client makes one: its next write names the last one as its origin.
    pycrdt's cost is quadratic in them: 18 s for 40,000."""


DEFAULT: Final = UpdateLimits()


class Verdict(enum.Enum):
    """What to do with an update."""

    READY = "ready"
    """Apply it now: all that it refers to is known."""

    EARLY = "early"
    """Park it until ``Parsed.missing`` is known."""

    REPEAT = "repeat"
    """Nothing: all that it carries and deletes is known and deleted."""


Ranges: TypeAlias = list[int]
"""Ascending ranges of clocks, flat: start, end, start, end. Ends are exclusive."""

_STRIDE = 6
"""Numbers per entry of a trail: start, how, and two references (client, clock)."""

# How an item is placed, as bits of an entry.
_ORIGIN = 1  # The first reference is its origin,
_RIGHT = 2  # the second its right origin.
_INSIDE = 4  # The first reference is the item of the type that it is in.
_KEYED = 8  # It is a map entry, or an attribute.
_FORMAT = 16  # It is a formatting mark.
_GONE = 32  # It is not an item but a GC.

_COLLECTED = 0xFFFF
"""The place of what is collected, or becomes so because it refers to that."""

_NOTHING: Final[Mapping[int, list[int]]] = {}
_NO_CLOCKS: Final[Mapping[int, array[int]]] = {}
_NO_NEEDS: Final[Mapping[int, int]] = {}
_NO_TRAILS: Final[Mapping[int, Sequence[int]]] = {}
_NO_BOUNDS: Final[Mapping[int, tuple[int, int]]] = {}


class Parsed:
    """What an update carries and needs, whatever the document.

    The parser makes it and :meth:`Gate.judge` notes its findings in it. Everything is
    keyed by client.
    """

    __slots__ = (
        "bounds",
        "deletes",
        "exact",
        "faithful",
        "gone",
        "lows",
        "missing",
        "needs",
        "nested",
        "places",
        "ranges",
        "size",
        "structs",
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
        self.structs = 1
        """Structs and delete ranges."""
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
        self.types: Mapping[int, array[int]] = _NO_CLOCKS
        """The clocks of shared types."""
        self.nested = False
        """Whether an item is anywhere else than in a list at the root."""
        self.exact = True
        """Whether pycrdt would encode its values as they are, of a document or only
        merging. It makes numbers of BigInts, and rounds long fractions in JSON."""
        self.bounds: Mapping[int, tuple[int, int]] = _NO_BOUNDS
        """The bytes of each section: offsets of its first, and behind its last."""
        self.missing = 0, 0
        """After ``EARLY``: a client and clock that must be known before judging again
        can change the verdict. It is known when ``gate.clocks[client] > clock``."""
        self.faithful = True
        """After ``READY``: whether pycrdt's encoding can be trusted with it. Once it
        is applied, ``Gate.faithful`` says so of the document."""
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
    parsed = _parse_keystroke(update)
    return parsed if parsed is not None else _finish(parse_steps(update, limits))


def _finish(steps: Generator[None, None, Parsed]) -> Parsed:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            parsed: Parsed = done.value
            return parsed


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
            client, at = _read_uint(update, 2)
            identity = update[2:at]
            start = update[at]
            at += 1
            if start > 127:
                start, at = _read_uint(update, at - 1)
            how = update[at]
            at += 1
            if how == 0x84 or how == 0xC4:
                if update.startswith(identity, at):
                    origin = client
                    at += len(identity)
                else:
                    origin, at = _read_uint(update, at)
                clock = update[at]
                at += 1
                if clock > 127:
                    clock, at = _read_uint(update, at - 1)
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
                    right, at = _read_uint(update, at)
                right_clock = update[at]
                at += 1
                if right_clock > 127:
                    right_clock, at = _read_uint(update, at - 1)
                if right == client:
                    if right_clock >= start:
                        return None
                elif right_clock > needs.get(right, -1):
                    needs = {**needs, right: right_clock}
                entry = (start, _ORIGIN | _RIGHT, origin, clock, right, right_clock)
            else:
                right_clock = 0
                entry = (start, _ORIGIN, origin, clock, 0, 0)
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
            return Parsed(
                size, {client: [start, end]}, needs, _NOTHING, {client: entry}
            )
        if update[0] == 0 and update[1] == 1:
            client, at = _read_uint(update, 2)
            if update[at] != 1:
                return None
            start, at = _read_uint(update, at + 1)
            length, at = _read_uint(update, at)
            end = start + length
            if at != size or not length or end > MAX_CLOCK:
                return None
            return Parsed(size, _NOTHING, _NO_NEEDS, {client: [start, end]}, _NO_TRAILS)
    except (IndexError, UpdateRejected):
        # Whoever reads it strictly says what is wrong with it.
        pass
    return None


def parse_steps(
    update: bytes, limits: UpdateLimits = DEFAULT
) -> Generator[None, None, Parsed]:
    """Parse an update strictly, pausing every few thousand structs.

    Yields ``None`` at each pause and returns the result, so that an event loop can
    serve others meanwhile: ``parsed = yield from parse_steps(update)``.

    Raises:
        UpdateRejected: As :func:`parse` does.
    """
    try:
        return (yield from _parse(update, limits))
    except IndexError:
        raise UpdateRejected("truncated") from None
    except UnicodeDecodeError as exc:
        raise UpdateRejected("invalid-text", exc.reason) from None


def _parse(update: bytes, limits: UpdateLimits) -> Generator[None, None, Parsed]:
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
    rivals: dict[tuple[object, str], int] = {}
    nested = False
    exact = True
    total = 0
    pause = SLICE

    clients, at = _read_count(update, 0, 3)
    if clients > limits.clients:
        raise UpdateRejected("too-many-clients", f"limit {limits.clients}")
    for _ in range(clients):
        section = at
        count, at = _read_count(update, at, 2)
        if not count:
            raise UpdateRejected("empty-section")
        total += count
        if total > limits.structs:
            raise UpdateRejected("too-many-structs", f"limit {limits.structs}")
        identity_at = at
        client, at = _read_uint(update, at)
        if client in ranges:
            raise UpdateRejected("duplicate-client", str(client))
        identity = update[identity_at:at]
        width = at - identity_at
        clock, at = _read_uint(update, at)
        if clock >= MAX_CLOCK:
            raise UpdateRejected("clock-overflow")
        start = clock
        carried: Ranges = []
        trail = array("q")
        note = trail.extend
        foreign: dict[int, int] = {}
        # Whether the last struct was an item, which the next may merely continue.
        following = False

        for _ in range(count):
            pause -= 1
            if not pause:
                yield
                pause = SLICE
            info = update[at]
            at += 1
            ref = info & 31

            if ref == 0 or ref == 10:
                if info != ref:
                    raise UpdateRejected("flags-on-filler")
                length, at = _read_uint(update, at)
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
                    note((clock, _GONE, 0, 0, 0, 0))
                    _extend(gone, client, clock, end)
                following = False
                clock = end
                continue

            how = first = first_clock = second = second_clock = 0
            if info & 0x80:
                how = _ORIGIN
                if update.startswith(identity, at):
                    first = client
                    at += width
                else:
                    first, at = _read_uint(update, at)
                first_clock = update[at]
                at += 1
                if first_clock > 127:
                    first_clock, at = _read_uint(update, at - 1)
                if first == client:
                    if first_clock >= clock:
                        raise UpdateRejected("future-reference")
                elif first_clock > foreign.get(first, -1):
                    foreign[first] = first_clock
            if info & 0x40:
                how |= _RIGHT
                if update.startswith(identity, at):
                    second = client
                    at += width
                else:
                    second, at = _read_uint(update, at)
                second_clock = update[at]
                at += 1
                if second_clock > 127:
                    second_clock, at = _read_uint(update, at - 1)
                if second == client:
                    if second_clock >= clock:
                        raise UpdateRejected("future-reference")
                elif second_clock > foreign.get(second, -1):
                    foreign[second] = second_clock
            if not how:
                kind, at = _read_uint(update, at)
                parent: object
                if kind == 1:
                    parent, at = _read_text(update, at)
                elif kind == 0:
                    how = _INSIDE
                    nested = True
                    first, at = _read_uint(update, at)
                    first_clock, at = _read_uint(update, at)
                    parent = first, first_clock
                    if first == client:
                        if first_clock >= clock:
                            raise UpdateRejected("future-reference")
                    elif first_clock > foreign.get(first, -1):
                        foreign[first] = first_clock
                else:
                    raise UpdateRejected("unknown-parent")
                if info & 0x20:
                    how |= _KEYED
                    nested = True
                    key, at = _read_text(update, at)
                    rivals[parent, key] = writes = rivals.get((parent, key), 0) + 1
                    if writes > limits.rivals + clients:
                        raise UpdateRejected("rival-entries")

            if ref == 4:
                length = update[at]
                at += 1
                if length > 127:
                    length, at = _read_uint(update, at - 1)
                stop = at + length
                if stop > size:
                    raise UpdateRejected("length-exceeds-bytes")
                if length != 1 or update[at] > 127:
                    raw = update[at:stop]
                    if not raw.isascii():
                        text = raw.decode()
                        length = len(text)
                        if max(text) > "\uffff":
                            length += _note_lows(lows, client, clock, text)
                at = stop
            elif ref == 1:
                length, at = _read_uint(update, at)
                _extend(gone, client, clock, clock + length)
            elif ref == 8:
                length, at = _read_count(update, at, 1)
                at, big = yield from _skip_values(
                    update, at, length, limits.value_depth
                )
                exact = exact and not big
            elif ref == 6:
                if info & 0x20:
                    raise UpdateRejected("format-as-map-entry")
                how |= _FORMAT
                length = 1
                _, at = _read_text(update, at)
                at, same = _skip_json(update, at, limits.json_depth)
                exact = exact and same
            elif ref == 7:
                nested = True
                length = 1
                at = _skip_type(update, at)
                if client not in types:
                    types[client] = array("I")
                types[client].append(clock)
            elif ref == 3:
                length = 1
                at = _skip_data(update, at)
            elif ref == 5:
                length = 1
                at, same = _skip_json(update, at, limits.json_depth)
                exact = exact and same
            elif ref == 9:
                length = 1
                _, at = _read_text(update, at)
                if update[at] != _MAP:
                    raise UpdateRejected("invalid-subdocument")
                at, big = yield from _skip_values(update, at, 1, limits.value_depth)
                exact = exact and not big
            elif ref == 2:
                raise UpdateRejected("legacy-json")
            else:
                raise UpdateRejected("unknown-content", str(ref))

            if not length:
                raise UpdateRejected("empty-struct")
            if (
                how != _ORIGIN
                or first_clock != clock - 1
                or first != client
                or not following
            ):
                note((clock, how, first, first_clock, second, second_clock))
            following = True
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
        yield from _check_order(ranges, trails, links)

    deletes: dict[int, Ranges] = {}
    clients, at = _read_count(update, at, 2)
    for _ in range(clients):
        client, at = _read_uint(update, at)
        if client in deletes:
            raise UpdateRejected("duplicate-client", f"{client}, deletes")
        count, at = _read_count(update, at, 2)
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
            clock, at = _read_uint(update, at)
            length, at = _read_uint(update, at)
            if clock < end:
                raise UpdateRejected("unsorted-deletes")
            if not length:
                raise UpdateRejected("empty-struct", "deletes")
            if deleted and clock == end:
                deleted[-1] = end = clock + length
            else:
                end = clock + length
                deleted += (clock, end)
        if end > MAX_CLOCK:
            raise UpdateRejected("clock-overflow")
    if at != size:
        raise UpdateRejected("trailing-bytes", f"{size - at} of them")

    parsed = Parsed(size, ranges, needs, deletes, trails)
    parsed.structs = total
    parsed.gone = gone
    parsed.lows = lows
    parsed.types = types
    parsed.nested = nested
    parsed.exact = exact
    parsed.bounds = bounds
    return parsed


def _read_uint(update: bytes, at: int) -> tuple[int, int]:
    byte = update[at]
    if byte < 128:
        return byte, at + 1
    number = byte & 127
    byte = update[at + 1]
    if byte < 128:
        return number | byte << 7, at + 2
    number |= (byte & 127) << 7
    at += 2
    shift = 14
    while True:
        byte = update[at]
        at += 1
        if byte < 128:
            break
        number |= (byte & 127) << shift
        shift += 7
        if shift > 49:
            raise UpdateRejected("integer-overflow")
    number |= byte << shift
    if number > MAX_UINT:
        raise UpdateRejected("integer-overflow")
    return number, at


def _read_count(update: bytes, at: int, least: int) -> tuple[int, int]:
    """Read how many things follow, of at least so many bytes each."""
    count, at = _read_uint(update, at)
    if count * least > len(update) - at:
        raise UpdateRejected("length-exceeds-bytes")
    return count, at


def _skip_data(update: bytes, at: int) -> int:
    length, at = _read_uint(update, at)
    at += length
    if at > len(update):
        raise UpdateRejected("length-exceeds-bytes")
    return at


def _read_text(update: bytes, at: int) -> tuple[str, int]:
    length, at = _read_uint(update, at)
    end = at + length
    if end > len(update):
        raise UpdateRejected("length-exceeds-bytes")
    return update[at:end].decode(), end


_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


def _note_lows(lows: dict[int, array[int]], client: int, clock: int, text: str) -> int:
    """Note the second halves of a text's surrogate pairs; return how many."""
    if client not in lows:
        lows[client] = array("I")
    found = 0
    for match in _ASTRAL.finditer(text):
        found += 1
        lows[client].append(clock + match.start() + found)
    return found


def _extend(ranges: dict[int, Ranges], client: int, start: int, end: int) -> None:
    """Add a range that is not before the last one."""
    known = ranges.get(client)
    if known is None:
        ranges[client] = [start, end]
    elif known[-1] == start:
        known[-1] = end
    else:
        known += (start, end)


# The kinds of lib0's values (``lib0/decoding.js``, ``readAnyLookupTable``).
_BYTES, _ARRAY, _MAP, _STRING = 116, 117, 118, 119
_BIGINT, _FLOAT64, _FLOAT32, _INTEGER = 122, 123, 124, 125
_WIDTHS = {120: 0, 121: 0, _BIGINT: 8, _FLOAT64: 8, _FLOAT32: 4, 126: 0, 127: 0}


def _skip_values(
    update: bytes, at: int, count: int, depth: int
) -> Generator[None, None, tuple[int, bool]]:
    """Check that values of lib0 follow.

    Returns the offset behind them, and whether there is a BigInt among them.
    """
    size = len(update)
    big = False
    # For each array or map that is open, twice the values left in it, odd for a map.
    still = [count << 1]
    budget = SLICE
    while still:
        left = still[-1]
        if left < 2:
            still.pop()
            continue
        still[-1] = left - 2
        budget -= 1
        if not budget:
            yield
            budget = SLICE
        if left & 1:
            _, at = _read_text(update, at)
        kind = update[at]
        at += 1
        if kind == _STRING:
            _, at = _read_text(update, at)
        elif kind == _INTEGER:
            at = _skip_integer(update, at)
        elif kind in _WIDTHS:
            at += _WIDTHS[kind]
            if at > size:
                raise UpdateRejected("truncated")
            if kind == _BIGINT:
                big = True
        elif kind in (_ARRAY, _MAP):
            odd = kind == _MAP
            count, at = _read_count(update, at, 1 + odd)
            if len(still) > depth:
                raise UpdateRejected("value-too-deep", f"limit {depth}")
            still.append(count << 1 | odd)
        elif kind == _BYTES:
            at = _skip_data(update, at)
        else:
            raise UpdateRejected("invalid-value", str(kind))
    return at, big


def _skip_integer(update: bytes, at: int) -> int:
    """Check that a signed integer follows: its first byte has a sign and 6 bits."""
    byte = update[at]
    at += 1
    number = byte & 63
    shift = 6
    while byte > 127:
        if shift > 48:
            raise UpdateRejected("integer-overflow")
        byte = update[at]
        at += 1
        number |= (byte & 127) << shift
        shift += 7
    if number > MAX_UINT:
        raise UpdateRejected("integer-overflow")
    return at


_XML_ELEMENT, _XML_HOOK, _XML_TEXT = 3, 5, 6


def _skip_type(update: bytes, at: int) -> int:
    """Check that a shared type follows."""
    kind, at = _read_uint(update, at)
    if kind == _XML_HOOK:
        raise UpdateRejected("xml-hook")
    if kind > _XML_TEXT:
        raise UpdateRejected("unknown-type", str(kind))
    if kind == _XML_ELEMENT:
        _, at = _read_text(update, at)
    return at


_USUAL_JSON: Final = frozenset((b"null", b"true", b"false", b'""', b"{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG_NUMBER = re.compile(r"[0-9.]{16}|[0-9][eE]")
_BRACKET_OR_STRING = re.compile(r'[\[{]|[\]}]|"(?:[^"\\]|\\.)*"', re.DOTALL)


def _skip_json(update: bytes, at: int, depth: int) -> tuple[int, bool]:
    """Check that JSON follows that pycrdt reads.

    Returns the offset behind it, and whether pycrdt reads it as every browser does.
    """
    length, at = _read_uint(update, at)
    end = at + length
    if end > len(update):
        raise UpdateRejected("length-exceeds-bytes")
    raw = update[at:end]
    if raw in _USUAL_JSON:
        return end, True
    text = raw.decode()
    if text.count("[") + text.count("{") > depth and _json_depth(text) > depth:
        raise UpdateRejected("value-too-deep", f"limit {depth}, JSON")
    try:
        value = _JSON.decode(text)
        if _SURROGATE.search(text):
            # Half a pair cannot be encoded. JSON.stringify escapes it; yrs gives up.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise UpdateRejected("invalid-json", str(exc)) from None
    return end, not (_LONG_NUMBER.search(text) and _has_rounded(text))


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _read_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("number out of range")
    return number


def _read_int(digits: str) -> float:
    number = _read_float(digits)
    if 2.0**63 <= number <= 2.0**64 and 2**63 <= int(digits) < 2**64:
        raise ValueError("number that yrs takes for a bad 64-bit integer")
    return number


_JSON: Final = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_read_float, parse_int=_read_int
)


def _has_rounded(text: str) -> bool:
    """Whether JSON has a number that yrs may read as its neighbour.

    It reads fractions and exponents of more than 15 digits, or far from 1, fast
    rather than right: every tenth ``Math.random()`` comes out as another number.
    """
    rounded: list[str] = []

    def note(digits: str) -> None:
        mantissa, _, exponent = digits.lower().partition("e")
        if len(mantissa.replace(".", "").strip("-0")) > 15 or exponent:
            rounded.append(digits)

    def note_int(digits: str) -> None:
        if not -(2**63) <= int(digits) < 2**63:
            rounded.append(digits)

    json.JSONDecoder(parse_float=note, parse_int=note_int).decode(text)
    return bool(rounded)


def _json_depth(text: str) -> int:
    """How deeply arrays and objects are nested, if the text is JSON."""
    depth = deepest = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        if match[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in "]}":
            depth -= 1
    return deepest


def _check_order(
    ranges: Mapping[int, Ranges],
    trails: Mapping[int, Sequence[int]],
    links: Mapping[int, Mapping[int, int]],
) -> Generator[None, None, None]:
    """Check that the items of an update can be put in an order at all.

    Yjs and yrs would keep those that cannot as pending, for ever.
    """
    # Mostly it is enough that the clients can: one merely answered the other.
    waits = {
        client: {
            c for c, clock in foreign.items() if c in ranges and clock >= ranges[c][0]
        }
        for client, foreign in links.items()
    }
    awaited: dict[int, list[int]] = {}
    for client, others in waits.items():
        for other in others:
            awaited.setdefault(other, []).append(client)
    free = [c for c in awaited if not waits.get(c)]
    for client in free:
        for other in awaited.get(client, ()):
            waits[other].discard(client)
            if not waits[other]:
                free.append(other)
    clients = [client for client, others in waits.items() if others]

    # They wrote at the same time: integrate the items in our mind.
    todo = dict.fromkeys(clients, 0)
    done = {client: ranges[client][0] for client in clients}
    waiting: dict[int, list[tuple[int, int]]] = {client: [] for client in clients}
    pause = SLICE
    while clients:
        client = clients.pop()
        trail = trails[client]
        blocked = None
        for entry in range(todo[client], len(trail), _STRIDE):
            pause -= 1
            if not pause:
                yield
                pause = SLICE
            start, how, first, first_clock, second, second_clock = trail[
                entry : entry + _STRIDE
            ]
            done[client] = start
            if how & (_ORIGIN | _INSIDE) and done.get(first, MAX_CLOCK) <= first_clock:
                blocked = first, first_clock
            elif how & _RIGHT and done.get(second, MAX_CLOCK) <= second_clock:
                blocked = second, second_clock
            else:
                continue
            if blocked[0] == client:
                # It refers to what it only continues.
                blocked = None
                continue
            todo[client] = entry
            heappush(waiting[blocked[0]], (blocked[1], client))
            break
        if blocked is None:
            done[client] = MAX_CLOCK
        while waiting[client] and waiting[client][0][0] < done[client]:
            clients.append(heappop(waiting[client])[1])
    if any(waiting.values()):
        raise UpdateRejected("cyclic-references")


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


class Gate:
    """What a document has accepted, as far as it matters for the next update.

    A new gate stands for an empty document. Two are equal when the same clocks are
    known and deleted.
    """

    __slots__ = ("clocks", "deleted", "faithful", "limits", "lows", "places", "types")

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
        there are values that it makes others of: see ``Parsed.exact``.
        """
        self.lows: dict[int, array[int]] = {}
        """The clocks of the second halves of surrogate pairs, ascending."""
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
        clocks = self.clocks
        repeat = True
        newcomers = 0
        for client, ranges in parsed.ranges.items():
            end = known = clocks.get(client, 0)
            for at in range(0, len(ranges), 2):
                if ranges[at] > end:
                    parsed.missing = client, ranges[at] - 1
                    return Verdict.EARLY
                if ranges[at + 1] > end:
                    end = ranges[at + 1]
            if end > known:
                repeat = False
                if not known:
                    newcomers += 1
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
            if repeat and not self._has_deleted(client, deletes):
                repeat = False
        if repeat:
            return Verdict.REPEAT

        if newcomers:
            if newcomers > self.limits.new_clients:
                raise UpdateRejected("too-many-clients", f"{newcomers} new ones")
            if newcomers + len(clocks) > self.limits.clients:
                raise QuotaExceeded("clients", self.limits.clients)
        if parsed.nested or (self.places and parsed.trails):
            parsed.places = self._find_places(parsed)
        if not parsed.exact or (
            (self.lows or parsed.lows) and self._is_cutting(parsed)
        ):
            parsed.faithful = False
        return Verdict.READY

    def accept(self, parsed: Parsed) -> None:
        """Count an update as known. The last verdict on it was ``READY``."""
        clocks = self.clocks
        if parsed.places is not None:
            self._accept_places(parsed, parsed.places)
        for client, lows in parsed.lows.items():
            if new := lows[bisect_left(lows, clocks.get(client, 0)) :]:
                self.lows.setdefault(client, array("I")).extend(new)
        if not parsed.faithful:
            self.faithful = False
        for client, ranges in parsed.ranges.items():
            end = ranges[-1]
            if end > clocks.get(client, 0):
                clocks[client] = end
        for client, deletes in parsed.deletes.items():
            self._delete(client, deletes)
        for client, gone in parsed.gone.items():
            self._delete(client, gone)

    def covers(self, other: Gate) -> bool:
        """Whether the same clocks are known, and at least the same are deleted."""
        return self.clocks == other.clocks and all(
            self._has_deleted(client, ranges)
            for client, ranges in other.deleted.items()
        )

    def _has_deleted(self, client: int, ranges: Ranges) -> bool:
        known = self.deleted.get(client)
        if known is None:
            return False
        for at in range(0, len(ranges), 2):
            # Odd if it falls into a range; then that must reach to its end.
            index = bisect_right(known, ranges[at])
            if not index & 1 or known[index] < ranges[at + 1]:
                return False
        return True

    def _delete(self, client: int, ranges: Ranges) -> None:
        known = self.deleted.get(client)
        if known is None:
            self.deleted[client] = ranges.copy()
            return
        if len(ranges) > 64:
            self.deleted[client] = _union(known, ranges)
            return
        for at in range(0, len(ranges), 2):
            start, end = ranges[at], ranges[at + 1]
            left = bisect_left(known, start)
            right = bisect_right(known, end, left)
            # What is between gives way; an end inside of a range is not one.
            known[left:right] = ([] if left & 1 else [start]) + (
                [] if right & 1 else [end]
            )

    def _is_cutting(self, parsed: Parsed) -> bool:
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
            for at in range(0, len(trail), _STRIDE):
                start, how, first, first_clock, second, second_clock = trail[
                    at : at + _STRIDE
                ]
                if (
                    (how & _ORIGIN and cut(first, first_clock + 1))
                    or (how & _RIGHT and cut(second, second_clock))
                    or cut(client, start)
                ):
                    return True
        return any(
            cut(client, clock)
            for client, deletes in parsed.deletes.items()
            for clock in deletes
        )

    def _find_places(self, parsed: Parsed) -> dict[int, list[int]]:
        """Find where each item of an update is: of each entry of its trails.

        Raises:
            UpdateRejected: If types nest too deeply, or an item cannot be there.
        """
        clocks = self.clocks
        trails = parsed.trails
        limit = 2 * self.limits.nesting + 1
        starts = {client: trail[::_STRIDE] for client, trail in trails.items()}
        places = {client: [-1] * len(found) for client, found in starts.items()}
        path: list[tuple[int, int]] = []
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
                    client_, index_ = path[-1]
                    entry = index_ * _STRIDE
                    _, how, left, left_clock, right, right_clock = trails[client_][
                        entry : entry + _STRIDE
                    ]
                    if how & (_ORIGIN | _INSIDE):
                        beside, clock = left, left_clock
                    elif how & _RIGHT:
                        beside, clock = right, right_clock
                    else:
                        place = _COLLECTED if how & _GONE else 0
                        break
                    if clock < clocks.get(beside, 0):
                        place = self._place(beside, clock)
                        break
                    next_index = bisect_right(starts[beside], clock) - 1
                    place = places[beside][next_index]
                    if place >= 0:
                        break
                    path.append((beside, next_index))
                while path:
                    client_, index_ = path.pop()
                    entry = index_ * _STRIDE
                    how, inside, inside_clock = trails[client_][entry + 1 : entry + 4]
                    if how & _INSIDE and not self._has_inside(
                        parsed, inside, inside_clock
                    ):
                        raise UpdateRejected("parent-not-a-type")
                    # What refers to something collected becomes collected itself.
                    if place != _COLLECTED:
                        if how & _INSIDE:
                            place = (place | 1) + 1
                        if how & _KEYED:
                            place |= 1
                        if place > limit:
                            raise UpdateRejected(
                                "nested-too-deep", f"limit {self.limits.nesting}"
                            )
                        if how & _FORMAT and place & 1:
                            raise UpdateRejected("format-as-map-entry")
                    places[client_][index_] = place
        self._check_sides(parsed, places, starts)
        return places

    def _place(self, client: int, clock: int) -> int:
        runs = self.places.get(client)
        return 0 if runs is None else runs.at(clock)

    def _check_sides(
        self,
        parsed: Parsed,
        places: Mapping[int, list[int]],
        starts: Mapping[int, Sequence[int]],
    ) -> None:
        """Check that items are on the same level as what is to their right."""
        for client, own in places.items():
            known = self.clocks.get(client, 0)
            if parsed.ranges[client][-1] <= known:
                continue
            first = max(0, bisect_right(starts[client], known) - 1)
            if starts[client][first] < known:
                # What is new continues what is known, and so is where that is.
                before = self._place(client, known - 1)
                if before == _COLLECTED:
                    own[first] = before
                elif (
                    own[first] != before
                    and parsed.trails[client][first * _STRIDE + 1] != _GONE
                ):
                    raise UpdateRejected("between-two-places")
            trail = parsed.trails[client]
            for index, place in enumerate(own):
                at = index * _STRIDE
                if trail[at + 1] & 3 != _ORIGIN | _RIGHT or place in (-1, _COLLECTED):
                    continue
                right, clock = trail[at + 4], trail[at + 5]
                if clock < self.clocks.get(right, 0):
                    beside = self._place(right, clock)
                else:
                    beside = places[right][bisect_right(starts[right], clock) - 1]
                if beside not in (place, _COLLECTED):
                    raise UpdateRejected("between-two-places")

    def _has_inside(self, parsed: Parsed, client: int, clock: int) -> bool:
        """Whether an item is a shared type, or deleted (it may have been one)."""
        if clock < self.clocks.get(client, 0):
            types: Mapping[int, array[int]] = self.types
            gone: Mapping[int, Ranges] = self.deleted
        else:
            types = parsed.types
            gone = parsed.gone
        found = types.get(client)
        if found is not None:
            at = bisect_left(found, clock)
            if at < len(found) and found[at] == clock:
                return True
        return bool(bisect_right(gone.get(client, ()), clock) & 1)

    def _accept_places(self, parsed: Parsed, places: Mapping[int, list[int]]) -> None:
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
            starts = parsed.trails[client][::_STRIDE]
            for index, place in enumerate(found):
                if place >= 0:
                    runs.put(max(starts[index], known), place)

    def encode(self) -> bytes:
        """Encode it, to be kept beside a snapshot of the document."""
        encoded = bytearray((_FORMAT_VERSION, self.faithful))
        _write_map(encoded, {c: [n] for c, n in self.clocks.items()})
        _write_map(encoded, self.deleted)
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
        gate = cls(limits)
        try:
            if encoded[0] != _FORMAT_VERSION or encoded[1] > 1:
                raise ValueError("not a gate of this version")
            gate.faithful = bool(encoded[1])
            clocks, at = _read_map(encoded, 2)
            gate.clocks = {client: known for client, (known,) in clocks.items()}
            gate.deleted, at = _read_map(encoded, at)
            lows, at = _read_map(encoded, at)
            gate.lows = {client: array("I", found) for client, found in lows.items()}
            types, at = _read_map(encoded, at)
            gate.types = {client: array("I", found) for client, found in types.items()}
            places, at = _read_map(encoded, at)
            for client, starts in places.items():
                gate.places[client] = runs = _Runs()
                runs.starts = array("I", starts)
                runs.values = array("H")
                for _ in starts:
                    place, at = _read_uint(encoded, at)
                    runs.values.append(place)
        except (IndexError, OverflowError, UpdateRejected) as exc:
            raise ValueError("gate is damaged") from exc
        if at != len(encoded):
            raise ValueError("gate is damaged")
        return gate


_FORMAT_VERSION = 1


def _union(ours: Ranges, theirs: Ranges) -> Ranges:
    """Merge two lists of ranges."""
    pairs = sorted(
        (ranges[at], ranges[at + 1])
        for ranges in (ours, theirs)
        for at in range(0, len(ranges), 2)
    )
    merged: Ranges = []
    for start, end in pairs:
        if merged and start <= merged[-1]:
            if end > merged[-1]:
                merged[-1] = end
        else:
            merged += (start, end)
    return merged


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


def _read_map(encoded: bytes, at: int) -> tuple[dict[int, list[int]], int]:
    numbers: dict[int, list[int]] = {}
    clients, at = _read_count(encoded, at, 2)
    for _ in range(clients):
        client, at = _read_uint(encoded, at)
        count, at = _read_count(encoded, at, 1)
        numbers[client] = ascending = []
        last = 0
        for _ in range(count):
            difference, at = _read_uint(encoded, at)
            last += difference
            ascending.append(last)
    return numbers, at


def sections(update: bytes) -> tuple[dict[int, bytes], dict[int, Ranges]]:
    """Take an update apart: the bytes of each client's structs, and what is deleted.

    Encodings of the same document are equal then, in whatever order its clients are.

    Raises:
        UpdateRejected: As :func:`parse` does.
    """
    parsed = _finish(parse_steps(update))
    found = {
        client: update[start:end] for client, (start, end) in parsed.bounds.items()
    }
    return found, dict(parsed.deletes)
