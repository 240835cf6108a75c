"""Bytes that were recorded from the JavaScript of the field (``record.mjs``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

YJS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "yjs.json").read_text(encoding="utf-8", errors="strict")
)


def history(name: str) -> list[bytes]:
    """The updates of a recorded history, in the order of writing."""
    return [bytes.fromhex(update) for update in YJS["histories"][name]["updates"]]


def presence(number: int) -> bytes:
    """A recorded awareness update."""
    return bytes.fromhex(YJS["presence"][number])


HOCUSPOCUS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "hocuspocus.json").read_text(encoding="utf-8")
)
"""``record_hocuspocus.mjs``: what providers say, by what happened to them."""
