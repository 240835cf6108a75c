"""The commands for operators. They work beside a server that runs, or without one."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .access import kick, revoke
from .chores import check_documents, compact_documents, import_from
from .documents import docs
from .tables import db
from .tokens import token

COMMANDS: Sequence[click.Command] = (
    db,
    docs,
    compact_documents,
    check_documents,
    import_from,
    token,
    revoke,
    kick,
)
