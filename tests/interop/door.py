"""Who may come in, for servers of tests: ``collab serve --authorize`` asks here.

A token says itself what it is good for: ``write:ann`` or ``read:bob``. A JSON file,
whose path is in ``COLLAB_DOOR``, may say what another one is good for at the moment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from collab import Access, AccessDenied, Attempt, Grant

REASON = "nobody knows you"
"""What everybody else is told."""


async def authorize(attempt: Attempt) -> Grant:
    """Judge a token by what it says, or by what the file says of it.

    Raises:
        AccessDenied: If it is good for nothing.
    """
    verdicts = {}
    if "COLLAB_DOOR" in os.environ:
        verdicts = json.loads(Path(os.environ["COLLAB_DOOR"]).read_text())
    return judge(verdicts.get(attempt.token, attempt.token))


def judge(verdict: str) -> Grant:
    """What somebody may do of whom this is said.

    Raises:
        AccessDenied: If that is nothing.
    """
    access, _, user = verdict.partition(":")
    match access:
        case "write":
            return Grant(user, Access.WRITE)
        case "read":
            return Grant(user, Access.READ)
        case _:
            raise AccessDenied(REASON)
