"""Who came, for servers of tests: ``collab serve --authorize`` asks here.

Everybody with a cookie ``session=NAME`` may write, and is NAME. What an attempt said
of itself is appended to the file whose path is in ``COLLAB_GUESTBOOK``, in JSON, a line
for each.
"""

from __future__ import annotations

import json
import os
from http.cookies import SimpleCookie
from pathlib import Path

from collab import Attempt, Grant


async def authorize(attempt: Attempt) -> Grant | None:
    """Write down who comes, and judge them by their cookie."""
    entry = {
        "document": attempt.document,
        "token": attempt.token,
        "headers": dict(attempt.headers),
        "query": dict(attempt.query),
        "peer": attempt.peer,
    }
    with Path(os.environ["COLLAB_GUESTBOOK"]).open("a") as file:
        file.write(json.dumps(entry) + "\n")
    cookie = SimpleCookie(attempt.headers.get("cookie", "")).get("session")
    return Grant(cookie.value) if cookie else None
