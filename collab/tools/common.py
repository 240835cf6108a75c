"""What the commands share: the database, answers, progress, exit codes."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from ..errors import CollabError, DatabaseTooNew, DatabaseTooOld, DatabaseUnreachable
from ..history import Retention
from ..redaction import escape
from ..store import Store

T = TypeVar("T")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

DATABASE = "sqlite:///collab.db"
"""Where documents are kept unless somebody says otherwise."""

NAME_SHOWN = 300
"""Letters of a name that are shown. Those that we allow have fewer."""

FAILED = 1
"""The exit code of a command that found damage, or did only a part of its work."""

MISTAKE = 2
"""The exit code of a command that could not begin: its options or its database."""


class Mistake(click.ClickException):
    """What is wrong with what was asked for, or with the database."""

    exit_code = MISTAKE


class Failure(click.ClickException):
    """What could not be done."""

    exit_code = FAILED


@contextmanager
def explained() -> Iterator[None]:
    """Say errors in a sentence, with the exit code for their kind."""
    try:
        yield
    except (DatabaseUnreachable, DatabaseTooNew, DatabaseTooOld) as exc:
        raise Mistake(escape(str(exc))) from exc
    except CollabError as exc:
        raise Failure(escape(str(exc))) from exc


def on_database(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the option for the database, and the store that it names."""

    @click.option(
        "--database",
        envvar="COLLAB_DATABASE",
        default=DATABASE,
        show_default=True,
        help="Where documents are kept: as for `collab serve`.",
    )
    @functools.wraps(command)
    def wrapped(database: str, **options: Any) -> T:
        with explained():
            store = Store(database)
            try:
                return command(store, **options)
            finally:
                store.close()

    return wrapped


def as_json(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the option to answer with JSON."""
    option = click.option("--json", "in_json", is_flag=True, help="Answer with JSON.")
    return option(command)


def answer(value: object) -> None:
    """Print a line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def complain(name: str, what: object) -> None:
    """Say what is wrong with a document, whose name may be anything, in a line."""
    shown = name if len(name) <= NAME_SHOWN else f"{name[:NAME_SHOWN]}..."
    click.echo(escape(f"{shown}: {what}"), err=True)


def moment(at: int | None) -> str | None:
    """A time of the database as people write it, in UTC."""
    if at is None:
        return None
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"


def amount(size: int) -> str:
    """A number of bytes as people say it."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024 or unit == "MiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


@contextmanager
def progress(
    values: Iterator[T], label: str, length: int, quiet: bool
) -> Iterator[Iterator[T]]:
    """Go through something that takes a while, and show how far it is.

    On standard error, and only to people.
    """
    if quiet or not sys.stderr.isatty():
        yield iter(values)
        return
    with click.progressbar(
        values,
        length=length,
        label=label,
        file=sys.stderr,
        show_pos=True,
        item_show_func=lambda item: str(getattr(item, "name", item or ""))[:30],
    ) as bar:
        yield iter(bar)


def seconds_of(context: object, parameter: object, value: str | None) -> int | None:
    """The seconds of an age that an option has."""
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not an age such as 30s, 5m, 1h or 30d.")
    return int(match[1]) * UNITS[match[2]]


def _retention(context: object, parameter: object, value: str) -> Retention:
    try:
        return Retention.parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


history_option = click.option(
    "--history",
    "retention",
    envvar="COLLAB_HISTORY",
    default="forever",
    show_default=True,
    callback=_retention,
    metavar="AGE",
    help="How long edits are kept beside the document itself: forever, none, or an age "
    "such as 30d or 12h.",
)
