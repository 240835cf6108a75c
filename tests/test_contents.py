"""What stands inside an item: JSON and values that every replica reads alike."""

from __future__ import annotations

import pytest

from collab.gate import Gate
from tests.crafted import embedded, kind, take, valued


@pytest.mark.parametrize(
    "json",
    [
        b"",
        b"{",
        b"NaN",
        b"-Infinity",
        b"undefined",
        b"01",
        b"'a'",
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b"1e999",
        b"-1e999",
        b"9223372036854775808",
        b"[18446744073709551615]",
        b"1" * 310,
        b"1" * 5000,
        b"true false",
        b'"a\nb"',
    ],
)
def test_json_that_pycrdt_cannot_read_is_rejected(json: bytes) -> None:
    assert kind(embedded(json)) == "invalid-json"


@pytest.mark.parametrize(
    ("json", "exact"),
    [
        (b"null", True),
        (b'{"a": [1, 0.5, -2e0, "\\ud83d\\ude00", "1e5, 12345678901234567"]}', False),
        (b'{"a": [1, 0.5, "\\ud83d\\ude00", "1e5 or 12345678901234567.5"]}', True),
        (b"9007199254740993", True),
        (b"18446744073709551616", False),
        (b"0.30000000000000004", False),
        (b"0.123456789012345", True),
        (b"3e100", False),
    ],
)
def test_json_that_pycrdt_rounds_is_accepted_but_not_trusted(
    json: bytes, exact: bool
) -> None:
    gate = Gate()
    parsed = take(gate, embedded(json))
    assert parsed.exact is parsed.faithful is gate.faithful is exact


def test_a_bigint_is_accepted_but_not_trusted() -> None:
    gate = Gate()
    take(gate, valued(b"\x7a" + bytes(8)))
    assert not gate.faithful


def test_depth_of_values_and_of_json_is_limited() -> None:
    assert take(Gate(), valued(b"\x75\x01" * 64 + b"\x7e"))
    assert kind(valued(b"\x75\x01" * 65 + b"\x7e")) == "value-too-deep"
    assert kind(valued(b"\x76\x01\x00" * 65 + b"\x7e")) == "value-too-deep"
    assert take(Gate(), embedded(b"[" * 100 + b"]" * 100))
    assert take(Gate(), embedded(b'["' + b"[" * 200 + b'"]'))
    assert take(Gate(), embedded(b"[" + b",".join([b"[]"] * 200) + b"]"))
    assert kind(embedded(b"[" * 101 + b"]" * 101)) == "value-too-deep"
    assert kind(embedded(b"[" * 100_000)) == "value-too-deep"
