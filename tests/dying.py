"""Looks after a document and dies at every statement of it, one after the other.

``python -m tests.dying URL SEED STATEMENTS`` prints a line of JSON: at how many
statements it died, and how many it takes. Each time the document is verified: it loads
as it was, and so does each past state that is kept.

It is a program, since what dies are forks of it, and forks want no threads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from random import Random
from typing import Any

from sqlalchemy import Engine, event, text

from collab.catalog import Catalog
from collab.compaction import compact
from collab.document import Document
from collab.folding import fold
from collab.history import History, Retention
from collab.store import Append, Store, milliseconds
from collab.tidying import DAY, tidy
from tests.traces import generate

ROUND = 60
"""Edits between two deaths: they become two rows or three."""

ROUNDS = 320


def main() -> None:
    url, seed, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = Random(seed)
    log, _ = generate(seed, ROUNDS * ROUND)
    updates = [update for _, update in log]
    written: list[bytes] = []
    died = 0
    statements: dict[str, int] = {}
    retentions = [Retention(), Retention.parse("30d"), Retention.parse("none")]
    prepare(url)
    for retention in retentions:
        step = 0
        finished = False
        while not finished:
            step += every
            news = updates[:ROUND]
            del updates[:ROUND]
            if not updates:
                raise SystemExit(f"more than {step} statements; no more edits")
            written += news
            append(url, news, chance)
            finished = not dies(url, retention, step)
            died += not finished
            verify(url, written, chance)
            if not finished:
                look_after(url, retention)
        statements[str(retention)] = step
    verify(url, written, chance)
    print(json.dumps({"died": died, "statements": statements}))


def prepare(url: str) -> None:
    store = Store(url)
    store.open()
    store.close()


def append(url: str, news: list[bytes], chance: Random) -> None:
    """Append edits that were made long ago, over two minutes."""
    store = Store(url)
    head = store.append([Append("d", [(update, "ann") for update in news])])[0].head
    days = chance.choice([2, 2, 40])
    start = milliseconds() - days * DAY
    with store.database.writing() as connection:
        connection.execute(
            text(
                "UPDATE updates SET at = :start + (position - :first) * 2000"
                " WHERE position >= :first"
            ),
            {"start": start, "first": head - len(news) + 1},
        )
    store.close()


def dies(url: str, retention: Retention, step: int) -> bool:
    """Look after the document in a process that is killed at a statement."""
    pid = os.fork()
    if pid == 0:
        try:
            left = step

            def count(*what: Any) -> None:
                nonlocal left
                if "PRAGMA incremental_vacuum(1)" in what:
                    return  # One for each page.
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            # Behind each statement, and before each commit. Behind a commit is as good
            # as behind the first statement after it.
            for name in ("after_cursor_execute", "commit"):
                event.listen(Engine, name, count)
            look_after(url, retention)
            os._exit(0)
        except BaseException as exc:
            print(repr(exc), file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


def look_after(url: str, retention: Retention) -> None:
    """Do what a server does."""
    store = Store(url)
    compact(store, "d")
    tidy(store, "d", retention, milliseconds())
    store.close()


def verify(url: str, written: list[bytes], chance: Random) -> None:
    """Load the document, and past states of it."""
    store = Store(url)
    stored = store.load("d")
    assert stored.head == len(written)
    assert not stored.damaged, stored.damaged
    described = Catalog(store.database).describe("d")
    assert described is not None
    rows = History(store.database).rows(described.document_id, 0, stored.head)
    kept = [row.position for row in rows if row.position > described.base]
    sample = {described.base, stored.head, *chance.sample(kept, min(8, len(kept)))}
    truth = Document()
    for position in range(stored.head + 1):
        if position:
            truth.apply(written[position - 1])
        if position in sample and position >= described.base:
            past = store.read_at("d", position)
            assert not past.damaged, past.damaged
            document = fold(past)
            assert document.gate == truth.gate, position
            assert set(document.parked) == set(truth.parked), position
    assert fold(stored).gate == truth.gate
    store.close()


if __name__ == "__main__":
    main()
