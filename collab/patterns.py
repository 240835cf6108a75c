"""Patterns of document names: ``notes/*``, ``**``.

``*`` stands for any characters but ``/``, also none, and ``**`` for any at all. All
other characters stand for themselves; there are no escapes, classes or alternatives.
"""

from __future__ import annotations

import re

from .errors import BadName
from .limits import check_name

_PARTS = re.compile(r"\*\*|\*|[^*]+")


def check_pattern(pattern: str) -> str:
    """Return a pattern that may be used: what may be a name, too.

    Raises:
        BadName: If it may not.
    """
    if "***" in pattern:
        raise BadName("pattern holds ***")
    return check_name(pattern)


def matches(pattern: str, name: str) -> bool:
    """Whether a name is one of those that a pattern means.

    The time is in proportion to the name, whatever the pattern: bit ``i`` of a number
    says whether what came so far fits the first ``i`` parts of the pattern.
    """
    if "*" not in pattern:
        return pattern == name
    head, tail = pattern[: pattern.index("*")], pattern[pattern.rindex("*") + 1 :]
    if not (name.startswith(head) and name.endswith(tail)):
        return False
    literals: dict[str, int] = {}
    shallow = deep = count = 0
    for part in _PARTS.findall(pattern):
        if part == "*":
            shallow |= 1 << count
            count += 1
        elif part == "**":
            deep |= 1 << count
            count += 1
        else:
            for char in part:
                literals[char] = literals.get(char, 0) | 1 << count
                count += 1
    stars = shallow | deep
    fits = 1
    for char in name:
        fits |= (fits & stars) << 1  # A star may be done with.
        stay = fits & (deep if char == "/" else stars)
        fits = (fits & literals.get(char, 0)) << 1 | stay
    fits |= (fits & stars) << 1
    return bool(fits >> count & 1)


def weight(pattern: str) -> tuple[int, int]:
    """How specific a pattern is: the more characters it names, and the fewer stars."""
    stars = len(_PARTS.findall(pattern)) - len(re.findall(r"[^*]+", pattern))
    return len(pattern.replace("*", "")), -stars
