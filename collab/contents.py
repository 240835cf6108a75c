"""What stands inside an item: integers, text, values, JSON, types, read strictly.

The values are those of lib0 (``lib0/decoding.js``, ``readAny``), the rest that of Yjs
13.6 (``src/structs/Content*.js``). A function that skips something checks it on the
way; none trusts a length. Where the bytes end too early, an ``IndexError`` may come
out: it is cheaper than asking for each byte whether it is there.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Generator
from typing import Final, TypeVar

from .errors import UpdateRejected
from .wire import MAX_UINT

UNSAFE: Final = "__proto__"
"""A key that Yjs and lib0 assign like any other, which makes an object one of another
kind. Where that is bytes, it can neither be read nor encoded: each client of the
document throws, for ever. Nor does any other value come out as it went in."""

SLICE: Final = 2_000
"""Structs or values between two pauses of what is read in steps: 3 to 6 ms of work."""

T = TypeVar("T")


def finish(steps: Generator[None, None, T]) -> T:
    """Do without pauses what has some, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result


def read_uint(update: bytes, at: int) -> tuple[int, int]:
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


def read_count(update: bytes, at: int, least: int) -> tuple[int, int]:
    """Read how many things follow, of at least so many bytes each."""
    count, at = read_uint(update, at)
    if count * least > len(update) - at:
        raise UpdateRejected("length-exceeds-bytes")
    return count, at


def skip_data(update: bytes, at: int) -> int:
    length, at = read_uint(update, at)
    at += length
    if at > len(update):
        raise UpdateRejected("length-exceeds-bytes")
    return at


def read_text(update: bytes, at: int) -> tuple[str, int]:
    length, at = read_uint(update, at)
    end = at + length
    if end > len(update):
        raise UpdateRejected("length-exceeds-bytes")
    return update[at:end].decode(), end


_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


def note_lows(lows: array[int], clock: int, text: str) -> int:
    """Note the second halves of a text's surrogate pairs; return how many."""
    known = len(lows)
    for found, match in enumerate(_ASTRAL.finditer(text), clock + 1):
        lows.append(match.start() + found)
    return len(lows) - known


# The kinds of lib0's values (``lib0/decoding.js``, ``readAnyLookupTable``).
_BYTES, _ARRAY, MAP, _STRING = 116, 117, 118, 119
_BIGINT, _FLOAT64, _FLOAT32, _INTEGER = 122, 123, 124, 125
_WIDTHS = {120: 0, 121: 0, _BIGINT: 8, _FLOAT64: 8, _FLOAT32: 4, 126: 0, 127: 0}


def skip_values(
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
            key, at = read_text(update, at)
            if key == UNSAFE:
                raise UpdateRejected("unsafe-key")
        kind = update[at]
        at += 1
        if kind == _STRING:
            _, at = read_text(update, at)
        elif kind == _INTEGER:
            at = _skip_integer(update, at)
        elif kind in _WIDTHS:
            at += _WIDTHS[kind]
            if at > size:
                raise UpdateRejected("truncated")
            if kind == _BIGINT:
                big = True
        elif kind in (_ARRAY, MAP):
            odd = kind == MAP
            count, at = read_count(update, at, 1 + odd)
            if len(still) > depth:
                raise UpdateRejected("value-too-deep", f"limit {depth}")
            still.append(count << 1 | odd)
        elif kind == _BYTES:
            at = skip_data(update, at)
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


def skip_type(update: bytes, at: int) -> int:
    """Check that a shared type follows."""
    kind, at = read_uint(update, at)
    if kind == _XML_HOOK:
        raise UpdateRejected("xml-hook")
    if kind > _XML_TEXT:
        raise UpdateRejected("unknown-type", str(kind))
    if kind == _XML_ELEMENT:
        _, at = read_text(update, at)
    return at


_USUAL_JSON: Final = frozenset((b"null", b"true", b"false", b'""', b"{}"))
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_LONG_NUMBER = re.compile(r"[0-9.]{16}|[0-9][eE]")
_BRACKET_OR_STRING = re.compile(r'[\[{]|[\]}]|"(?:[^"\\]|\\.)*"', re.DOTALL)


def skip_json(update: bytes, at: int, depth: int) -> tuple[int, bool]:
    """Check that JSON follows that pycrdt reads.

    Returns the offset behind it, and whether pycrdt reads it as every browser does.
    """
    length, at = read_uint(update, at)
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
