"""``collab compact``, ``check`` and ``import-from``: through many documents."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from .. import upkeep
from ..catalog import Catalog
from ..compaction import compact
from ..errors import CollabError, DatabaseUnreachable, UpdateRejected
from ..history import Retention
from ..importing import KINDS, Unreadable
from ..limits import check_name
from ..store import Store, milliseconds
from ..tidying import Tidied, tidy
from .common import (
    FAILED,
    Failure,
    amount,
    answer,
    as_json,
    complain,
    history_option,
    on_database,
    progress,
)
from .documents import say_imported


def _names(store: Store, names: Sequence[str]) -> tuple[Iterator[str], int]:
    """Those that were named, or all; and how many."""
    if names:
        return iter(names), len(names)
    catalog = Catalog(store.database)
    return (found.name for found in catalog.listing()), catalog.count()


@click.command("compact")
@click.argument("names", nargs=-1)
@history_option
@click.option(
    "--rebuild",
    is_flag=True,
    help="Then write the database anew, to give disk space back. Servers wait.",
)
@as_json
@on_database
def compact_documents(
    store: Store,
    names: Sequence[str],
    retention: Retention,
    rebuild: bool,
    in_json: bool,
) -> None:
    """Make snapshots of all documents, or NAMES; merge and discard old edits.

    Servers do it by themselves, little by little. What is discarded is gone.
    """
    store.open(migrate=False)
    total = Tidied(0, 0, 0)
    failed = 0
    chosen, count = _names(store, names)
    with progress(chosen, "Compacting", count, in_json) as work:
        for name in work:
            try:
                compact(store, name)
                done = tidy(store, name, retention, milliseconds())
            except CollabError as exc:
                failed += 1
                click.echo(f"{name}: {exc}", err=True)
                continue
            total = Tidied(*map(sum, zip(total, done, strict=True)))
            if in_json:
                answer({"name": name, **done._asdict()})
    if rebuild:
        store.database.rebuild()
    if not in_json:
        click.echo(
            f"{count} documents: {total.merged} edits merged into {total.rows} rows,"
            f" {total.discarded} rows discarded."
        )
    if failed:
        raise Failure(f"{failed} documents could not be compacted.")


@click.command("check")
@click.argument("names", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Leave what is damaged where it is.")
@as_json
@on_database
def check_documents(
    store: Store, names: Sequence[str], dry_run: bool, in_json: bool
) -> None:
    """Read every edit and snapshot of all documents, or NAMES.

    What is damaged is put into quarantine, as it is, so that the rest is served without
    it. Exit code 1 if anything is.
    """
    store.open(migrate=False)
    damaged = positions = number = 0
    chosen, count = _names(store, names)
    with progress(chosen, "Checking", count, in_json) as work:
        for name in work:
            try:
                found = upkeep.check(store, name, isolate=not dry_run)
            except DatabaseUnreachable:
                raise
            except CollabError as exc:
                damaged += 1
                click.echo(f"{name}: {exc}", err=True)
                continue
            number += 1
            positions += found.positions
            damaged += len(found.damaged)
            for damage in found.damaged:
                click.echo(f"{name}: {damage}", err=True)
            if in_json:
                answer(
                    {
                        "name": name,
                        "positions": found.positions,
                        "damaged": [str(damage) for damage in found.damaged],
                        "quarantined": [str(damage) for damage in found.quarantined],
                    }
                )
    if not in_json:
        click.echo(
            f"{number} documents with {positions:,} edits read; {damaged} damaged."
        )
    if damaged:
        sys.exit(FAILED)


@click.command("import-from")
@click.argument("kind", type=click.Choice(sorted(KINDS)))
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--prefix", default="", help="Put this before each name.")
@click.option("--merge", is_flag=True, help="Into documents that are there already.")
@click.option("--dry-run", is_flag=True, help="Only say what is in it.")
@as_json
@on_database
def import_from(
    store: Store,
    kind: str,
    file: Path,
    prefix: str,
    merge: bool,
    dry_run: bool,
    in_json: bool,
) -> None:
    """Bring in the documents of another server.

    \b
    hocuspocus-sqlite  the file of @hocuspocus/extension-sqlite
    y-leveldb          the directory of y-leveldb: y-websocket with YPERSISTENCE
    pycrdt-store       the file of a SQLiteYStore: pycrdt-websocket, Jupyter

    FILE is not changed. A document that is there already is left as it is.
    """
    store.open()
    imported = skipped = failed = lost = 0
    with (
        KINDS[kind](file) as source,
        progress(iter(source), "Importing", len(source), in_json) as work,
    ):
        for found in work:
            name = prefix + found.name
            try:
                if isinstance(found, Unreadable):
                    raise Failure(found.reason)
                check_name(name)
                if store.load(name).document_id is not None and not merge:
                    skipped += 1
                    complain(name, "is there already; left as it is")
                    continue
                if dry_run:
                    size = sum(map(len, found.updates))
                    click.echo(f"{name}: {len(found.updates)} updates, {amount(size)}")
                else:
                    lost += _import(store, name, found.updates, in_json)
                imported += 1
            except DatabaseUnreachable:
                raise
            except (CollabError, Failure) as exc:
                failed += 1
                complain(name, f"not imported: {exc}")
    if not in_json:
        verb = "would be imported" if dry_run else "imported"
        click.echo(f"{imported} documents {verb}, {skipped} left as they are.")
    if failed or lost:
        raise Failure(f"{failed} documents could not be imported, {lost} only in part.")


def _import(store: Store, name: str, updates: Sequence[bytes], in_json: bool) -> bool:
    """Bring in a document; return whether something of it is missing."""
    refused: list[UpdateRejected] = []
    done = upkeep.bring_in(store, name, updates, merge=True, refused=refused.append)
    if in_json:
        say_imported(name, done, in_json)
    for reason in refused:
        complain(name, f"an update is left out: {reason}")
    if done.waiting:
        # It had lost something before. When that arrives, the rest is shown.
        complain(name, f"{done.waiting} updates wait for lost ones")
    return bool(refused or done.waiting)
