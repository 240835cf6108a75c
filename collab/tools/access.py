"""``collab revoke`` and ``collab kick``: access taken away, on all servers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from ..revocations import Revocations, revocation
from ..revoked import Revocation
from ..store import Store
from .common import Mistake, answer, as_json, moment, on_database, seconds_of

USER = click.option("--user", metavar="NAME", help="Of this account (sub).")
DOCUMENT = click.option(
    "--document",
    metavar="PATTERN",
    help="To this document, or those of a pattern: notes/*, or ** for all.",
)


def _time(context: object, parameter: object, value: str | None) -> float | None:
    """A time: ``now``, seconds since 1970, or as ISO 8601 has it."""
    if value is None:
        return None
    if value == "now":
        return time.time()
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", value):
        return float(value)
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no time such as now, 2026-01-31T12:00Z or 1769860800."
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


@click.command()
@USER
@click.option("--token", metavar="ID", help="By the token of this name (jti).")
@DOCUMENT
@click.option(
    "--issued-before",
    metavar="TIME",
    callback=_time,
    help="Only if it was given before: now, 2026-01-31T12:00Z (UTC unless it says "
    "otherwise), or seconds since 1970.",
)
@click.option(
    "--for",
    "seconds",
    metavar="AGE",
    callback=seconds_of,
    help="For how long, such as 1h or 30d: until the last token has expired is enough. "
    "Without it, until it is undone.",
)
@click.option("--list", "listed", is_flag=True, help="List what is revoked.")
@click.option("--undo", metavar="NUMBER", type=int, help="Take one back.")
@as_json
@on_database
def revoke(
    store: Store,
    seconds: int | None,
    listed: bool,
    undo: int | None,
    in_json: bool,
    **who: Any,
) -> None:
    """Take access away, from who is inside and who comes, on all servers.

    All that is said must be true of somebody: with --user and --document it is that
    account's access to that document. Who is inside is sent away (close code 4403)
    within two seconds.

    \b
        collab revoke --user ann
        collab revoke --user ann --issued-before now
        collab revoke --token 5d41402a --for 1h
        collab revoke --document 'hr/**' --for 30d
    """
    meant = any(value is not None for value in (*who.values(), seconds))
    if (undo is not None) + listed + meant > 1:
        raise Mistake("--list and --undo go with nothing else.")
    if listed:
        store.open_to_read()
        for found in Revocations(store.database).listing():
            _say(found, in_json)
        return
    if undo is not None:
        store.open(migrate=False)
        Revocations(store.database).undo(undo)
        click.echo(f"{undo}: undone; whose access it was may come back.")
        return
    until = None if seconds is None else time.time() + seconds
    made = _made(until=until, **who)
    store.open(migrate=False)
    number = Revocations(store.database).add(made)
    if in_json:
        answer({"number": number})
    else:
        click.echo(f"{number}: revoked; `collab revoke --undo {number}` takes it back.")


@click.command()
@USER
@DOCUMENT
@on_database
def kick(store: Store, user: str | None, document: str | None) -> None:
    """Send away who is inside, on all servers, once.

    They are told why (close code 4403), and most clients stay away until somebody
    connects them anew; nothing keeps them from it. `collab revoke` does.
    """
    made = _made(user=user, document=document, kick=True)
    store.open(migrate=False)
    Revocations(store.database).add(made)
    click.echo("Whoever is meant is sent away within two seconds.")


def _made(**values: Any) -> Revocation:
    try:
        return revocation(**values)
    except ValueError as exc:
        raise Mistake(f"{str(exc)[0].upper()}{str(exc)[1:]}.") from exc


def _say(found: Revocation, in_json: bool) -> None:
    if in_json:
        shown = asdict(found)
        answer({name: shown[name] for name in shown if name not in ("kick", "undoes")})
    else:
        click.echo(f"{found.number:>6}  {_moment(found.made_at)}  {_text(found)}")


def _text(found: Revocation) -> str:
    return ", ".join(_parts(found))


def _parts(found: Revocation) -> Iterator[str]:
    meant = {"user": found.user, "token": found.token_id, "document": found.document}
    for what, value in meant.items():
        if value is not None:
            yield f"{what} {value}"
    if found.issued_before is not None:
        yield f"issued before {_moment(found.issued_before)}"
    if found.until is not None:
        yield f"until {_moment(found.until)}"


def _moment(at: float) -> str | None:
    return moment(round(at * 1000))
