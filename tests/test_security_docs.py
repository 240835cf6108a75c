"""What the documentation says of security is shown by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text()

NAMED = re.compile(r"`(test_\w+)\.(test_\w+)`")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| ?(.+?) ?\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def test_each_test_that_is_named_exists() -> None:
    named = set(NAMED.findall(TEXT))
    assert len(named) > 50
    for module, name in sorted(named):
        source = (ROOT / "tests" / f"{module}.py").read_text()
        assert re.search(rf"def {name}\(", source), f"{module}.{name}"


def test_each_promise_is_shown_by_a_test() -> None:
    promises = rows("What we promise")
    assert len(promises) > 15
    assert [promise for promise, shown in promises if not NAMED.search(shown)] == []


def test_each_attack_is_answered_and_tried() -> None:
    attacks = rows("Attacks, and what is answered")
    assert [number for number, *_ in attacks] == [str(n) for n in range(28, 55)]
    for number, attack, expected, answer, shown in attacks:
        assert all((attack, expected, answer)), number
        assert NAMED.search(shown), number
