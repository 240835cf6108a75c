"""``collab docs``: documents, listed, taken out, brought in and deleted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import click

from .. import upkeep
from ..catalog import Catalog, Description, Listing
from ..history import History
from ..limits import check_name
from ..store import Store
from .common import Failure, Mistake, amount, answer, as_json, moment, on_database


@click.group()
def docs() -> None:
    """List, take out, bring in and delete documents."""


@docs.command("list")
@click.option("--deleted", is_flag=True, help="Deleted ones, too.")
@as_json
@on_database
def list_documents(store: Store, deleted: bool, in_json: bool) -> None:
    """List documents by name: how many edits, when last edited.

    With --json each is a line of its own.
    """
    store.open_to_read()
    catalog = Catalog(store.database)
    for found in catalog.listing(deleted):
        if in_json:
            answer(found._asdict())
        else:
            click.echo(_line(found))


def _line(found: Listing) -> str:
    state = ""
    if found.purged_at is not None:
        state = f"  purged {moment(found.purged_at)}"
    elif found.deleted_at is not None:
        state = f"  deleted {moment(found.deleted_at)}"
    return f"{found.head:>10,}  {moment(found.updated_at)}  {found.name}{state}"


@docs.command()
@click.argument("name")
@as_json
@on_database
def show(store: Store, name: str, in_json: bool) -> None:
    """Say what there is of a document: edits, sizes, times, metadata, damage."""
    store.open_to_read()
    catalog = Catalog(store.database)
    found = catalog.describe(name)
    if found is None:
        raise Failure(f"There is no document {name!r}. `collab docs list` lists them.")
    lost = catalog.quarantined(found.document_id)
    if in_json:
        values = {field: getattr(found, field) for field in found.__slots__}
        answer(values | {"quarantine": [str(damage) for damage in lost]})
        return
    for label, value in _rows(found):
        click.echo(f"{label:<12} {value}")
    for damage in lost:
        click.echo(f"{'quarantine':<12} {damage}")


def _rows(found: Description) -> Iterator[tuple[str, object]]:
    yield "name", found.name
    yield "edits", f"{found.head:,}"
    if found.base:
        yield "history", f"from {found.base:,} on"
    yield "rows", f"{found.rows:,} of {amount(found.rows_size)}"
    yield "snapshots", f"{found.snapshots} of {amount(found.snapshots_size)}"
    yield "created", moment(found.created_at)
    yield "updated", moment(found.updated_at)
    if found.deleted_at is not None:
        yield "deleted", moment(found.deleted_at)
    if found.purged_at is not None:
        yield "purged", moment(found.purged_at)
    if found.metadata is not None:
        yield "metadata", json.dumps(found.metadata, ensure_ascii=False)
    yield "id", f"{found.document_id}, epoch {found.epoch}"


@docs.command()
@click.argument("name")
@as_json
@on_database
def history(store: Store, name: str, in_json: bool) -> None:
    """List the positions at which a document can be read, with time and author.

    `collab docs export NAME --at POSITION` reads it there.
    """
    store.open_to_read()
    found = Catalog(store.database).describe(name)
    if found is None or found.deleted_at is not None:
        raise Failure(f"There is no document {name!r}. `collab docs list` lists them.")
    rows = History(store.database).rows(found.document_id, found.base, found.head)
    for row in rows:
        if in_json:
            answer(
                {
                    "position": row.position,
                    "edits": row.span,
                    "at": row.at,
                    "author": row.author,
                    "size": len(row.update),
                }
            )
        else:
            author = row.author or "-"
            click.echo(
                f"{row.position:>10}  {moment(row.at)}  {row.span:>6}"
                f"  {len(row.update):>8}  {author}"
            )


@docs.command("export")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.File("wb", lazy=True),  # Nothing is made of what can't be read.
    default="-",
    help="A file; standard output without it.",
)
@click.option("--at", "position", type=int, help="As it was at this position.")
@on_database
def export_document(
    store: Store, name: str, output: BinaryIO, position: int | None
) -> None:
    """Write a document as one Yjs update (version 1).

    `Y.applyUpdate(doc, bytes)` reads it in JavaScript, `doc.apply_update(bytes)` in
    pycrdt.
    """
    store.open_to_read()
    if output.name == "-" and sys.stdout.isatty():
        raise Mistake("An update is not for a terminal: name a file with -o.")
    found = upkeep.export(store, name, position)
    output.write(found.update)
    if found.waiting:
        click.echo(
            f"{found.waiting} updates wait for others that never came, and are not in"
            " it.",
            err=True,
        )


@docs.command("import")
@click.argument("name")
@click.argument("files", type=click.File("rb"), nargs=-1, required=True)
@click.option("--merge", is_flag=True, help="Into the document, if there is one.")
@click.option("--author", help="Whose updates these are.")
@click.option("--metadata", help="An object of JSON to keep with the document.")
@as_json
@on_database
def import_document(
    store: Store,
    name: str,
    files: Sequence[BinaryIO],
    merge: bool,
    author: str | None,
    metadata: str | None,
    in_json: bool,
) -> None:
    """Make the document NAME of FILES, each a Yjs update (version 1).

    All are checked before any is stored.
    """
    try:
        kept = None if metadata is None else json.loads(metadata)
    except ValueError as exc:
        raise Mistake(f"--metadata is no JSON: {exc}.") from exc
    store.open()
    updates = [file.read() for file in files]
    done = upkeep.bring_in(store, check_name(name), updates, author=author, merge=merge)
    if kept is not None:
        Catalog(store.database).annotate(name, kept)
    say_imported(name, done, in_json)


def say_imported(name: str, done: upkeep.Import, in_json: bool) -> None:
    """Say what was brought in."""
    if in_json:
        answer(
            {
                "name": name,
                "head": done.head,
                "appended": done.appended,
                "waiting": done.waiting,
            }
        )
        return
    click.echo(f"{name}: {done.appended} updates stored, up to position {done.head}.")
    if done.waiting:
        click.echo(f"{done.waiting} of its updates wait for others.", err=True)


@docs.command("copy")
@click.argument("name")
@click.argument("to")
@click.option("--at", "position", type=int, help="As it was at this position.")
@as_json
@on_database
def copy_document(
    store: Store, name: str, to: str, position: int | None, in_json: bool
) -> None:
    """Make the document TO of the document NAME, without its history."""
    store.open(migrate=False)
    done = upkeep.copy(store, name, check_name(to), position)
    say_imported(to, done, in_json)


@docs.command()
@click.argument("names", nargs=-1, required=True)
@on_database
def delete(store: Store, names: Sequence[str]) -> None:
    """Delete documents; `collab docs restore` takes it back.

    Who has one open is sent away (close code 4404) within seconds.
    """
    store.open(migrate=False)
    for name in names:
        Catalog(store.database).delete(name)
        click.echo(f"{name}: deleted; `collab docs restore` takes it back.")


@docs.command()
@click.argument("names", nargs=-1, required=True)
@on_database
def restore(store: Store, names: Sequence[str]) -> None:
    """Take back that documents were deleted."""
    store.open(migrate=False)
    for name in names:
        Catalog(store.database).restore(name)
        click.echo(f"{name}: restored.")


@docs.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option(
    "--forget",
    is_flag=True,
    help="The name, too: whoever still has the document may bring it back.",
)
@on_database
def purge(store: Store, names: Sequence[str], yes: bool, forget: bool) -> None:
    """Delete documents for good, with their history.

    Nothing of them is left but the name, so that no client that still has one brings it
    back. Backups of yours are another matter.
    """
    store.open(migrate=False)
    if not yes:
        click.confirm(f"Purge {', '.join(names)}?", abort=True, err=True)
    for name in names:
        Catalog(store.database).purge(name, forget)
        click.echo(f"{name}: purged.")
