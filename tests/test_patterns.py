"""Patterns of document names, and which of them counts."""

from __future__ import annotations

import os
import random
import re
import time

import pytest

from collab.errors import BadName
from collab.patterns import check_pattern, matches, weight

SEED = int(os.environ.get("PATTERNS_SEED", random.SystemRandom().randrange(2**32)))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("handbook", "handbook", True),
        ("handbook", "handbook2", False),
        ("handbook", "Handbook", False),
        ("handbook", "a/handbook", False),
        ("notes/*", "notes/a", True),
        ("notes/*", "notes/", True),
        ("notes/*", "notes", False),
        ("notes/*", "notes/a/b", False),
        ("notes/**", "notes/a/b", True),
        ("notes/**", "notes2/a", False),
        ("*", "a", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("*/index", "a/index", True),
        ("*/index", "a/b/index", False),
        ("**/index", "a/b/index", True),
        ("**/index", "index", False),
        ("a*c", "abc", True),
        ("a*c", "ac", True),
        ("a*c", "abcb", False),
        ("a*a", "a", False),
        ("*a*b*", "xaxbx", True),
        ("*a*b*", "xbxax", False),
        ("*/**/x", "a/b/c/x", True),
        ("**a/*b", "xa/xb", True),
        ("**a/*b", "a/x/a/b", True),
        ("**a/*b", "a/b/b", False),
        # Nothing else has a meaning.
        ("a.c", "abc", False),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        ("{a,b}", "a", False),
        ("a|b", "a", False),
        ("\\*", "\\x", True),
        ("\\*", "*", False),
        ("ä*", "äö😀", True),
        # Another spelling of the same letter is another name, as it is for documents.
        ("\u00e4", "a\u0308", False),
    ],
)
def test_a_pattern_means_names(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_it_means_what_a_regular_expression_would() -> None:
    print(f"PATTERNS_SEED={SEED}")
    chance = random.Random(SEED)
    agreed = set()
    for _ in range(3000):
        parts = chance.choices(["a", "b", "/", "*", "**"], k=chance.randint(1, 6))
        pattern = "".join(parts)
        if "***" in pattern:
            continue
        name = "".join(chance.choices("ab/", k=chance.randint(1, 6)))
        spelled = "".join(
            {"*": "[^/]*", "**": ".*"}.get(p, re.escape(p))
            for p in re.findall(r"\*\*|\*|[^*]", pattern)
        )
        expected = re.fullmatch(spelled, name) is not None
        assert matches(pattern, name) is expected, (pattern, name)
        agreed.add(expected)
    assert agreed == {True, False}


def test_no_pattern_takes_long() -> None:
    pattern, name = "*a" * 127, "a" * 254 + "b"
    began = time.process_time()
    assert not matches(f"{pattern}*c*b", name)
    assert matches(f"{pattern}*", name)
    # Backtracking would take longer than the world has been there.
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "pattern", ["", "a***b", "****", "a/../b", ".", "a\nb", "a\u202eb", "x" * 256]
)
def test_what_cannot_be_a_name_is_no_pattern(pattern: str) -> None:
    with pytest.raises(BadName):
        check_pattern(pattern)


def test_the_more_characters_and_the_fewer_stars_the_more_specific() -> None:
    ascending = ["**", "a/**", "a/*/*", "a/b/**", "a/b/*/*", "a/b/c*", "a/b/cd"]
    assert sorted(ascending, key=weight) == ascending
